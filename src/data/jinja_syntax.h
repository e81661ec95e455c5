// A template read: what the parser makes and the renderer walks.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/jinja_value.h"

namespace thimble::data::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind {
    constant, name, list, tuple, dict,    // dict: kids are key, value, key, value ...
    attribute, item, slice,               // kids: object; object, index; object, begin, end, step (each may be null)
    call, filter, test,                   // kids: callee or subject (null for a filter block), then positional arguments; named ones apart
    unary, binary, compare, both, either, negation, conditional,  // conditional: then, condition, otherwise (may be null)
  } kind;
  int line = 1;
  std::string text = {};                  // a name, attribute, filter, test or operator
  Value value = {};                       // of a constant
  std::vector<ExprPtr> kids = {};
  std::vector<std::pair<std::string, ExprPtr>> named = {};
  std::vector<std::string> operators = {};  // of a comparison: a < b <= c
  int height = 1;                         // levels of it
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Stmt {
  enum Kind { text, output, branch, loop, set, set_block, macro, call_block, filter_block, with, generation, break_loop, next_loop } kind;
  int line = 1;
  std::string name = {};                  // of a macro; a text's text
  Body body = {}, otherwise = {};         // otherwise: of a branch, or of a loop that had no turn
  ExprPtr value = {}, condition = {};     // set: value. branch, loop: condition. loop: value is what it walks. call_block: value is the call
  ExprPtr target = {};                    // set, loop: a name, a tuple of them, or an attribute of a namespace
  std::vector<std::string> names = {};    // of a macro's or call block's parameters
  std::vector<ExprPtr> values = {};       // their defaults, for the last of them; with: the values, one for each target
  std::vector<ExprPtr> targets = {};      // with
};

Body parse(std::string_view source);      // throws Error (bad_input) naming the line

}  // namespace thimble::data::jinja
