// A template's source to tokens, as Jinja2's lexer does with trim_blocks and lstrip_blocks, which is how chat templates are written for.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace thimble::data::jinja {

struct Token {
  enum Kind { text, block_begin, block_end, output_begin, output_end, name, string, integer, real, symbol, end } kind = end;
  std::string value;  // of a string or text: what it says, escapes undone
  int line = 1;
};

// Throws Error (bad_input) with the line of what is no template.
std::vector<Token> tokenize(std::string_view source);

[[noreturn]] void refuse_at(int line, std::string expected, std::string found);

}  // namespace thimble::data::jinja
