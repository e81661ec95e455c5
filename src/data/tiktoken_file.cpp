// A tiktoken file says nothing of how text is split: that is code beside it. The expressions below are those published with each family.
#include "data/tiktoken_file.h"

#include <charconv>

#include "data/base64.h"
#include "data/byte_level.h"
#include "data/implied_merges.h"

namespace thimble::data {
namespace {

constexpr size_t max_lines = 1 << 19;
constexpr int64_t max_bytes = int64_t{16} << 20;
constexpr std::string_view llama3_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view o200k_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string_view words_of(std::string_view family) {
  if (family.starts_with("qwen")) return qwen_words;
  if (family == "llama4" || family == "llama4_text" || family == "gpt_oss") return o200k_words;
  return llama3_words;
}

struct Line {
  std::string bytes;
  int64_t rank = 0;
};

std::optional<Line> parse_line(std::string_view line) {
  const size_t blank = line.find(' ');
  if (blank == line.npos) return std::nullopt;
  auto bytes = from_base64(line.substr(0, blank));
  Line parsed;
  const std::string_view number = line.substr(blank + 1);
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), parsed.rank);
  if (!bytes || bytes->empty() || error != std::errc() || end != number.data() + number.size()) return std::nullopt;
  parsed.bytes = std::move(*bytes);
  return parsed;
}

// Ids between the last token of the file and the last added token are all added tokens, named or reserved.
std::vector<AddedToken> added_tokens(const Json& config, int64_t next, const std::string& where) {
  std::vector<AddedToken> list;
  if (!config.is_object() || !config.contains("added_tokens_decoder")) return list;
  const Json& named = config["added_tokens_decoder"];
  if (!named.is_object()) fail_field(where, "added_tokens_decoder", "tokens by id", &named);
  for (const auto& [key, token] : named.items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > next + (1 << 16))
      fail_field(where, "added_tokens_decoder", fmt::format("ids from 0 to {}", next + (1 << 16)), &token);
    Json entry = token.is_object() ? token : Json{{"content", token}};
    entry["id"] = id;
    entry["special"] = true;
    entry["normalized"] = false;
    list.push_back(read_added_token(entry, where));
  }
  return list;
}

}  // namespace

bool is_tiktoken(std::string_view text) {
  return parse_line(text.substr(0, std::min(text.find_first_of("\r\n"), size_t{4096}))).has_value();
}

TokenizerFile read_tiktoken_file(const fs::path& path, const Json& config, std::string_view family) {
  const std::string text = read_text(path, max_bytes);
  TokenizerFile file{.where = path.string()};
  std::string_view rest = text;
  int64_t number = 0, next = 0;
  while (!rest.empty()) {
    ++number;
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) continue;
    const auto parsed = parse_line(line);
    if (!parsed || file.ids.size() >= max_lines)
      throw Error(Fault::bad_input, {.what = "a tiktoken file is damaged",
                                     .where = fmt::format("{}, line {}", file.where, number),
                                     .expected = fmt::format("at most {} lines of base64, a blank and a rank", max_lines),
                                     .found = std::string(line.substr(0, 80))});
    file.words.add(to_byte_level(parsed->bytes));
    file.ids.push_back(parsed->rank);
    next = std::max(next, parsed->rank + 1);
  }
  add_implied_merges(file, FirstHalves::lowest);
  file.added = added_tokens(config, next, (path.parent_path() / "tokenizer_config.json").string());
  file.rest = {{"pre_tokenizer",
                {{"type", "Sequence"},
                 {"pretokenizers",
                  {{{"type", "Split"}, {"pattern", {{"Regex", words_of(family)}}}, {"behavior", "Isolated"}},
                   {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
               {"decoder", {{"type", "ByteLevel"}}},
               {"model", {{"type", "BPE"}, {"ignore_merges", true}}}};
  return file;
}

}  // namespace thimble::data
