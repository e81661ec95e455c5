// {"maker": "...", "algorithms": [{"key": [...], "algorithm": [8 numbers]}, ...]}
#include "device/algorithm_file.h"

#include <algorithm>

#include "base/json.h"
#include "base/log.h"

namespace thimble {
namespace {

constexpr int64_t largest_file = int64_t{16} << 20;  // a few hundred bytes a shape

template <class T>
std::vector<T> numbers(const Json& entry, const char* key, const std::string& where) {
  const auto list = entry.find(key);
  if (list == entry.end() || !list->is_array()) fail_field(where, key, "a list of numbers", list == entry.end() ? nullptr : &*list);
  std::vector<T> all;
  for (const Json& n : *list) {
    if (std::is_unsigned_v<T> ? !n.is_number_unsigned() : !n.is_number_integer()) fail_field(where, key, "whole numbers", &n);
    all.push_back(n.get<T>());
  }
  return all;
}

}  // namespace

Algorithms read_algorithms(const fs::path& file, std::string_view maker) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  try {
    const std::string where = file.string();
    const Json json = parse_json(read_text(file, largest_file), where);
    if (!json.is_object()) throw Error(Fault::bad_input, {.what = "no table of algorithms", .where = where});
    if (const auto found = require<std::string>(json, "maker", where); found != maker)
      throw Error(Fault::bad_input, {.what = "another library's algorithms", .where = where, .expected = std::string(maker), .found = found});
    const auto list = json.find("algorithms");
    if (list == json.end() || !list->is_array()) fail_field(where, "algorithms", "a list", list == json.end() ? nullptr : &*list);
    Algorithms all;
    for (const Json& entry : *list) {
      if (!entry.is_object()) fail_field(where, "algorithms", "a list of tables", &entry);
      const auto bytes = numbers<uint64_t>(entry, "algorithm", where);
      Algorithm algorithm{};
      if (bytes.size() != algorithm.size()) fail_field(where, "algorithm", "8 numbers", &entry);
      std::copy(bytes.begin(), bytes.end(), algorithm.begin());
      all[numbers<int64_t>(entry, "key", where)] = algorithm;
    }
    return all;
  } catch (const Error& e) {
    log_warning("algorithms of earlier runs are not used and will be found again: {}", e.what());
    return {};
  }
}

void write_algorithms(const fs::path& file, std::string_view maker, const Algorithms& all) noexcept try {
  Json list = Json::array();
  for (const auto& [key, algorithm] : all) list.push_back({{"key", key}, {"algorithm", algorithm}});
  fs::create_directories(file.parent_path());
  write_atomically(file, Json{{"maker", maker}, {"algorithms", std::move(list)}}.dump() + "\n");
} catch (const std::exception& e) {
  log_warning("the algorithms found in this run are not kept: {}", e.what());
}

}  // namespace thimble
