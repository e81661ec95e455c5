// JSON in and out. Values are nlohmann-json's; here stand the limits of reading them and the typed reads with an error that names the key.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace thimble {

using Json = nlohmann::ordered_json;  // keeps the order of keys, so that what we write reads as it was written

// A tree takes up to thirty times its text. One of `small_tree` bytes is allowed to any text, a larger one up to the text's own size.
constexpr int64_t small_tree = int64_t{16} << 20;

// Throws Error (bad_input) naming `where` on a syntax error, nesting deeper than `max_depth`, duplicate keys, a NUL, a BOM or bad UTF-8, and where
// the tree would take more than it may.
Json parse_json(std::string_view text, std::string_view where, int max_depth = 64, int64_t tree_bytes = small_tree);

// A value without children: a string's text, or any other value.
struct JsonScalar {
  std::optional<std::string_view> text;
  Json other;
};

// An item of a long object or list, which becomes a tree only where it must or somebody asks for one.
class JsonItem {
 public:
  const std::string* key() const { return has_key_ ? &key_ : nullptr; }  // none: an item of a list
  const JsonScalar* scalar() const { return shape_ == Shape::scalar ? &parts_.front() : nullptr; }
  std::span<const JsonScalar> list() const { return shape_ == Shape::list ? std::span(parts_) : std::span<const JsonScalar>(); }  // of scalars alone
  const Json& tree();

 private:
  friend class JsonTreeBuilder;
  enum class Shape { scalar, list, tree } shape_ = Shape::scalar;
  bool has_key_ = false;
  std::string key_, text_;         // text_: of all parts
  std::vector<JsonScalar> parts_;  // their text is in text_ once the item is complete
  Json tree_;
};

// An object or a list that may be too long for a tree: its items are handed over as they are read. What is returned has it empty.
struct JsonItems {
  std::string_view path;                // "weight_map", "model.vocab"; "" is the root
  std::function<void(JsonItem&)> take;  // that keys are distinct is the taker's to check
};
Json parse_json(std::string_view text, std::string_view where, std::span<const JsonItems>, int max_depth = 64);
Json parse_json(FilePieces&, std::string_view where, std::span<const JsonItems>, int max_depth = 64);

[[noreturn]] void fail_field(std::string_view where, std::string_view key, std::string_view expected, const Json* found);

// require: the key must be there; value_or: absent or null gives `otherwise`. A wrong type is an error that names the key.
template <class T> T read_as(const Json& value, std::string_view key, std::string_view where);
template <> int64_t read_as(const Json&, std::string_view, std::string_view);
template <> double read_as(const Json&, std::string_view, std::string_view);
template <> bool read_as(const Json&, std::string_view, std::string_view);
template <> std::string read_as(const Json&, std::string_view, std::string_view);

template <class T>
T require(const Json& object, std::string_view key, std::string_view where) {
  const auto it = object.find(std::string(key));
  if (it == object.end()) fail_field(where, key, "this key", nullptr);
  return read_as<T>(*it, key, where);
}

template <class T>
T value_or(const Json& object, std::string_view key, T otherwise, std::string_view where) {
  const auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? otherwise : read_as<T>(*it, key, where);
}

}  // namespace thimble
