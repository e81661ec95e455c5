// Parsing with limits: depth and duplicate keys are caught while parsing, before a hostile file can grow anything.
#include "base/json.h"

#include <cmath>
#include <set>
#include <vector>

namespace thimble {

Json parse_json(std::string_view text, std::string_view where, int max_depth) {
  const auto wrong = [&](std::string what, std::string found = "") {
    return Error(Fault::bad_input, {.what = std::move(what), .where = std::string(where), .expected = "valid JSON", .found = std::move(found)});
  };
  if (text.starts_with("\xef\xbb\xbf")) throw wrong("the file starts with a byte order mark");
  std::vector<std::set<std::string>> keys;
  const auto on_event = [&](int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start: keys.emplace_back(); [[fallthrough]];
      case Json::parse_event_t::array_start:
        if (depth >= max_depth) throw wrong(fmt::format("nested deeper than {} levels", max_depth));
        break;
      case Json::parse_event_t::object_end: keys.pop_back(); break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second) throw wrong("a key stands twice in one object", parsed.get<std::string>().substr(0, 80));
        break;
      default: break;
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), on_event);
  } catch (const Json::exception& e) {
    throw wrong("cannot parse JSON", e.what());
  }
}

void fail_field(std::string_view where, std::string_view key, std::string_view expected, const Json* found) {
  std::string shown = found ? found->dump(-1, ' ', false, Json::error_handler_t::replace) : "nothing";
  if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
  throw Error(Fault::bad_input, {.what = fmt::format("bad value of '{}'", key), .where = std::string(where), .expected = std::string(expected), .found = shown});
}

template <>
int64_t read_as(const Json& v, std::string_view key, std::string_view where) {
  if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t(INT64_MAX))) fail_field(where, key, "an integer", &v);
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
