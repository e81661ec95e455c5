// As LLaMA-Factory reads it: where an entry has `columns` (or `tags`), those that it leaves out do not exist (or keep their default).
#include "data/sources.h"

#include <algorithm>
#include <array>

namespace thimble::data {
namespace {

constexpr std::array endings{"", ".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet"};

struct Place {
  std::string where;
  [[noreturn]] void refuse(std::string what, std::string expected, std::string found, std::string fix = "") const {
    throw Error(Fault::bad_input, {.what = std::move(what), .where = where, .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
  }
};

Json object_or_none(const Json& entry, const char* key, const Place& place) {
  const auto it = entry.find(key);
  if (it == entry.end() || it->is_null()) return Json::object();
  if (!it->is_object()) fail_field(place.where, key, "an object", &*it);
  return *it;
}

void only_known(const Json& object, std::initializer_list<std::string_view> known, const Place& place, const char* of) {
  for (const auto& [key, value] : object.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      const auto close = nearest(key, known);
      place.refuse(fmt::format("an unknown key in {}", of), "", key.substr(0, 80), close.empty() ? "" : fmt::format("did you mean '{}'?", close));
    }
}

Layout read_layout(const Json& entry, const Place& place) {
  const Json columns = object_or_none(entry, "columns", place), tags = object_or_none(entry, "tags", place);
  only_known(columns, {"prompt", "query", "response", "history", "messages", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag"}, place, "columns");
  only_known(tags, {"role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"}, place, "tags");
  for (const char* key : {"images", "videos", "audios", "chosen", "rejected", "kto_tag"})
    if (columns.contains(key)) place.refuse("a dataset of a kind that cannot be trained on", "texts or conversations", fmt::format("the column '{}'", key));
  const auto column = [&](const char* key, const char* otherwise) { return columns.empty() ? std::string(otherwise) : value_or<std::string>(columns, key, "", place.where); };
  const auto tag = [&](const char* key, const char* otherwise) { return value_or<std::string>(tags, key, otherwise, place.where); };
  const auto formatting = value_or<std::string>(entry, "formatting", "alpaca", place.where);
  Layout l{.system = column("system", ""), .tools = column("tools", "")};
  if (formatting == "alpaca") {
    l.form = RowForm::alpaca;
    l.prompt = column("prompt", "instruction");
    l.query = column("query", "input");
    l.response = column("response", "output");
    l.history = column("history", "");
    if (l.prompt.empty()) place.refuse("columns without a prompt", "the key 'prompt'", "none");
    if (l.response.empty()) l.form = RowForm::text;
  } else if (formatting == "sharegpt" || formatting == "openai") {
    const bool openai = formatting == "openai";
    l.form = openai ? RowForm::messages : RowForm::sharegpt;
    l.messages = column("messages", openai ? "messages" : "conversations");
    if (l.messages.empty()) l.messages = openai ? "messages" : "conversations";
    l.role = tag("role_tag", openai ? "role" : "from");
    l.content = tag("content_tag", openai ? "content" : "value");
    for (const auto& [key, role] : {std::pair{"user_tag", "user"}, {"assistant_tag", "assistant"}, {"observation_tag", "tool"}, {"function_tag", "function"}, {"system_tag", "system"}})
      if (const auto word = tag(key, ""); !word.empty()) l.roles[word] = role;
  } else {
    place.refuse("an unknown formatting of a dataset", "alpaca, sharegpt or openai", formatting.substr(0, 80));
  }
  return l;
}

std::vector<fs::path> described_files(const Json& entry, const fs::path& folder, const Place& place) {
  for (const char* key : {"script_url", "cloud_file_name"})
    if (entry.contains(key))
      place.refuse("a dataset that is no local file", "file_name", fmt::format("the key '{}'", key), "copy the data beside dataset_info.json and name it in file_name");
  const auto name = entry.find("file_name");
  if (name == entry.end() || name->is_null()) {
    for (const char* key : {"hf_hub_url", "ms_hub_url", "om_hub_url"})
      if (entry.contains(key)) {
        const auto url = value_or<std::string>(entry, key, "", place.where);
        place.refuse("a dataset that is on a hub and not on this disk", "file_name", url.substr(0, 120),
                     fmt::format("download it (huggingface-cli download --repo-type dataset {}), and name its file or folder in file_name", url.substr(0, 120)));
      }
    place.refuse("a dataset without a file", "the key 'file_name'", "none");
  }
  const fs::path path = read_as<std::string>(*name, "file_name", place.where), clean = path.lexically_normal();
  if (path.empty() || (!path.is_absolute() && *clean.begin() == ".."))
    place.refuse("file_name leads out of the folder of dataset_info.json", "a name in this folder, or an absolute path", path.string().substr(0, 120));
  const fs::path found = folder / clean;
  std::error_code ignored;
  if (!fs::exists(found, ignored)) place.refuse("a dataset is not there", found.string(), "no such file", "check file_name");
  return data_files(found);
}

std::optional<Source> described(const std::string& name, const fs::path& folder, const fs::path& file, const Json& info) {
  const auto it = info.find(name);
  if (it == info.end()) return std::nullopt;
  const Place place{fmt::format("{}, '{}'", file.string(), name)};
  if (!it->is_object()) fail_field(place.where, name, "an object", &*it);
  const Json& entry = *it;
  only_known(entry, {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "formatting", "ranking", "subset", "split", "folder",
                     "num_samples", "columns", "tags", "file_sha1"}, place, "a dataset's description");
  if (value_or<bool>(entry, "ranking", false, place.where)) place.refuse("preference data cannot be used to fine-tune on answers", "questions with one answer each", "ranking: true");
  Source s{.name = name, .files = described_files(entry, folder, place), .layout = read_layout(entry, place),
           .samples = value_or<int64_t>(entry, "num_samples", -1, place.where)};
  if (s.samples == 0 || s.samples < -1) fail_field(place.where, "num_samples", "at least 1", &entry["num_samples"]);
  for (const char* key : {"subset", "split", "folder", "hf_hub_url", "ms_hub_url", "om_hub_url", "file_sha1"})
    if (entry.contains(key) && !entry[key].is_null()) s.notes.push_back(fmt::format("{} of '{}' (the file that file_name says is read whole)", key, name));
  return s;
}

}  // namespace

Source find_source(const std::string& entry, const fs::path& folder) {
  std::string name = entry;
  int64_t samples = -1;
  std::error_code ignored;
  if (const size_t hash = entry.rfind('#'); hash != entry.npos && hash > 0 && !fs::exists(entry, ignored)) {
    const std::string count = entry.substr(hash + 1);
    if (count.empty() || count.size() > 12 || count.find_first_not_of("0123456789") != count.npos || (samples = std::stoll(count)) == 0)
      throw Error(Fault::usage, {.what = "a dataset with a number of samples that is none", .where = entry, .expected = "name#1000", .found = count.substr(0, 40)});
    name = entry.substr(0, hash);
  }
  const fs::path info_file = folder / "dataset_info.json";
  Json info = Json::object();
  if (fs::exists(info_file, ignored)) {
    info = parse_json(read_text(info_file, int64_t{16} << 20), info_file.string());
    if (!info.is_object()) fail_field(info_file.string(), "dataset_info", "an object", &info);
  }
  std::optional<Source> source = described(name, folder, info_file, info);
  for (const fs::path& base : {fs::path(name), folder / name})
    for (const char* ending : endings)
      if (fs::path candidate = base; !source && !name.empty() && fs::exists(candidate += ending, ignored)) source = Source{.name = name, .files = data_files(candidate)};
  if (!source) {
    std::vector<std::string> names;
    for (const auto& [key, value] : info.items()) names.push_back(key);
    const auto close = nearest(name, names);
    throw Error(Fault::bad_input, {.what = "a dataset is not there", .where = entry,
                                   .expected = fmt::format("an entry of {}, or a file or folder, here or in dataset_dir '{}'", info_file.string(), folder.string()),
                                   .fix = close.empty() ? "give the path of a .jsonl, .json, .csv, .txt or .parquet file" : fmt::format("did you mean '{}'?", close)});
  }
  if (samples > 0) source->samples = samples;
  return std::move(*source);
}

}  // namespace thimble::data
