// A trie, walked from each byte that can begin a token. Contents are short by decree, so the walk is linear in the text.
#include "data/added_tokens.h"

#include <algorithm>

#include "data/strings.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr size_t longest_content = 1024;

bool word_before(std::string_view text, size_t at) {
  size_t begin = at;
  while (begin > 0 && (text[--begin] & 0xc0) == 0x80) {
  }
  return at > 0 && is_word(code_point_at(text, begin).value);
}
bool word_after(std::string_view text, size_t at) { return at < text.size() && is_word(code_point_at(text, at).value); }

size_t blanks_before(std::string_view text, size_t at, size_t floor) {
  while (at > floor) {
    size_t begin = at - 1;
    while (begin > 0 && (text[begin] & 0xc0) == 0x80) --begin;
    if (begin < floor || !is_whitespace(code_point_at(text, begin).value)) break;
    at = begin;
  }
  return at;
}
size_t blanks_after(std::string_view text, size_t at) {
  while (at < text.size()) {
    const CodePoint c = code_point_at(text, at);
    if (!is_whitespace(c.value)) break;
    at += size_t(c.bytes);
  }
  return at;
}

}  // namespace

AddedToken read_added_token(const Json& entry, std::string_view where) {
  if (!entry.is_object()) fail_field(where, "added_tokens", "objects", &entry);
  const auto id = require<int64_t>(entry, "id", where);
  if (id < 0 || id > INT32_MAX) fail_field(where, "added_tokens.id", "an id from 0 to 2147483647", &entry);
  AddedToken t{.id = int32_t(id),
               .content = require<std::string>(entry, "content", where),
               .special = value_or(entry, "special", false, where),
               .normalized = value_or(entry, "normalized", false, where),
               .lstrip = value_or(entry, "lstrip", false, where),
               .rstrip = value_or(entry, "rstrip", false, where),
               .single_word = value_or(entry, "single_word", false, where)};
  if (t.content.empty() || t.content.size() > longest_content)
    fail_field(where, "added_tokens.content", fmt::format("1 to {} bytes of text", longest_content), &entry);
  return t;
}

std::vector<AddedToken> distinct(std::vector<AddedToken> tokens, std::string_view where) {
  std::vector<const AddedToken*> order;
  for (const AddedToken& t : tokens) order.push_back(&t);
  const auto once = [&](auto of, const char* key, const char* expected) {
    std::sort(order.begin(), order.end(), [&](const auto* a, const auto* b) { return a->*of < b->*of; });
    const auto twice = std::adjacent_find(order.begin(), order.end(), [&](const auto* a, const auto* b) { return a->*of == b->*of; });
    if (twice == order.end()) return;
    const Json found{{"id", (*twice)->id}, {"content", (*twice)->content}};
    fail_field(where, key, expected, &found);
  };
  once(&AddedToken::id, "added_tokens.id", "an id that no other added token has");
  once(&AddedToken::content, "added_tokens.content", "a content that no other added token has");
  return tokens;
}

TokenFinder::TokenFinder(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer& normalizer) {
  Strings sought;
  for (const AddedToken& t : tokens) {
    if (t.normalized != normalized) continue;
    const std::string content = normalized ? normalizer.apply(t.content) : t.content;
    if (content.empty()) continue;
    begins_[static_cast<unsigned char>(content[0])] = true;
    sought.add(content);
    tokens_.push_back(t);
  }
  std::vector<Trie::Word> words;
  for (size_t i = 0; i < sought.size(); ++i) words.emplace_back(sought[i], int32_t(i));
  trie_ = Trie(std::move(words));
}

std::vector<Section> TokenFinder::cut(std::string_view text, bool with_special, const SpecialRule* rule) const {
  std::vector<Section> sections;
  size_t done = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    size_t length = 0;
    int32_t found = -1;
    if (begins_[static_cast<unsigned char>(text[at])])
      trie_.prefixes(text.substr(at), [&](int32_t token, size_t bytes) { found = token, length = bytes; });
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& t = tokens_[size_t(found)];
    size_t begin = at, end = at + length;
    at = end;
    if (t.special && (!with_special || (rule && !(*rule)({begin, end})))) continue;
    if (t.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (t.lstrip) begin = blanks_before(text, begin, done);
    if (t.rstrip) end = blanks_after(text, end);
    if (begin > done) sections.push_back({-1, {done, begin}});
    sections.push_back({t.id, {begin, end}});
    done = end;
    at = std::max(at, done);
  }
  if (done < text.size()) sections.push_back({-1, {done, text.size()}});
  return sections;
}

}  // namespace thimble::data
