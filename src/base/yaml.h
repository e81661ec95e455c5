// YAML for configuration files, made strict: plain data only, every surprise refused with the line where it stands.
// yaml-cpp finds the structure; the meaning of scalars is decided here, so that 1e-4 is a number and "yes" stays a word.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "base/json.h"

namespace thimble {

struct Yaml {
  Json value;                        // an empty text gives an empty object
  std::map<std::string, int> lines;  // of each key of the outermost mapping, from 1
};

// Throws Error (usage) naming `where`:line on: a syntax error, a tab in the indentation, a tag, an anchor or alias, a key twice in one
// mapping, a second document, nesting deeper than 32, more than 4096 keys in a mapping or 1 MiB, bytes that are no UTF-8.
Yaml parse_yaml(std::string_view text, std::string_view where);

bool is_utf8(std::string_view text);

// A plain scalar by the core schema of YAML 1.2, where 1e-4 is a float: null, bool, integer, float (.inf and .nan too), else a string.
Json resolve_scalar(std::string_view text);

}  // namespace thimble
