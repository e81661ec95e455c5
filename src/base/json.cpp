// Parsing with limits: depth is refused before anything has grown, duplicate keys when their object ends. The tree is built by ourselves,
// since the library looks for each new key among all others, and an index of 90,000 tensors would take a minute.
#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace thimble {
namespace {

// The parser's listener: the open values from the root to where parsing stands, each the last child of the one before it.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view where, int max_depth) : where_(where), max_depth_(size_t(max_depth)) {}
  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool x) { return add(x); }
  bool number_integer(int64_t x) { return add(x); }
  bool number_unsigned(uint64_t x) { return add(x); }
  bool number_float(double x, const std::string&) { return add(x); }
  bool string(std::string& x) { return add(std::move(x)); }
  bool binary(Json::binary_t&) { return false; }  // not in text
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool key(std::string& key) {
    members(*open_.back()).emplace_back(std::move(key), nullptr);
    return true;
  }
  bool end_object() {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : members(*open_.back())) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("a key stands twice in one object", std::string(twice->substr(0, 80)));
    return end_array();
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception& e) {
    fail("cannot parse JSON", std::string(e.what()).substr(0, 240));
  }

  [[noreturn]] void fail(std::string what, std::string found = "") const {
    throw Error(Fault::bad_input,
                {.what = std::move(what), .where = std::string(where_), .expected = "valid JSON", .found = std::move(found)});
  }

 private:
  static Json::object_t::Container& members(Json& object) { return object.get_ref<Json::object_t&>(); }
  Json& place(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    Json& parent = *open_.back();
    if (parent.is_object()) return members(parent).back().second = std::move(value);
    parent.push_back(std::move(value));
    return parent.back();
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= max_depth_) fail(fmt::format("nested deeper than {} levels", max_depth_));
    open_.push_back(&place(std::move(value)));
    return true;
  }

  std::string_view where_;
  size_t max_depth_;
  Json root_;
  std::vector<Json*> open_;  // stable: a parent does not grow while a child is open
};

}  // namespace

Json parse_json(std::string_view text, std::string_view where, int max_depth) {
  TreeBuilder tree(where, max_depth);
  if (text.starts_with("\xef\xbb\xbf")) tree.fail("the file starts with a byte order mark");
  if (const auto nul = text.find('\0'); nul != text.npos)
    tree.fail("cannot parse JSON", fmt::format("a NUL at byte {}", nul));  // the parser would take it for the end
  Json::sax_parse(text.begin(), text.end(), &tree);
  return tree.take();
}

void fail_field(std::string_view where, std::string_view key, std::string_view expected, const Json* found) {
  std::string shown = found ? found->dump(-1, ' ', false, Json::error_handler_t::replace) : "nothing";
  if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
  throw Error(
      Fault::bad_input,
      {.what = fmt::format("bad value of '{}'", key), .where = std::string(where), .expected = std::string(expected), .found = shown});
}

template <>
int64_t read_as(const Json& v, std::string_view key, std::string_view where) {
  if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t(INT64_MAX)))
    fail_field(where, key, "an integer", &v);
  return v.get<int64_t>();
}
template <>
double read_as(const Json& v, std::string_view key, std::string_view where) {
  if (!v.is_number() || !std::isfinite(v.get<double>())) fail_field(where, key, "a finite number", &v);
  return v.get<double>();
}
template <>
bool read_as(const Json& v, std::string_view key, std::string_view where) {
  if (!v.is_boolean()) fail_field(where, key, "true or false", &v);
  return v.get<bool>();
}
template <>
std::string read_as(const Json& v, std::string_view key, std::string_view where) {
  if (!v.is_string()) fail_field(where, key, "a string", &v);
  return v.get<std::string>();
}

}  // namespace thimble
