// The long lists are handed over item by item; base's reader has the limits of everything else.
#include "data/tokenizer_file.h"

namespace thimble::data {
namespace {

constexpr size_t max_vocab = 1 << 20;  // the largest vocabularies have 262k entries, and twice as many merges
constexpr size_t max_merges = 1 << 21;
constexpr int64_t max_bytes = int64_t{256} << 20;

constexpr std::string_view ids_by_token = "model.vocab: ids by token";
constexpr std::string_view scored_tokens = "model.vocab: pairs of a token and its score";
constexpr std::string_view pairs_of_tokens = "model.merges: pairs of tokens";

class Reader {
 public:
  explicit Reader(TokenizerFile& file) : file_(file) {}

  void word(JsonItem& item) {
    if (file_.words.size() >= max_vocab) fail(fmt::format("at most {} entries in model.vocab", max_vocab), "more");
    if (item.key()) {  // of BPE: an id
      const Json* id = item.scalar() ? &item.scalar()->other : nullptr;
      if (!id || !id->is_number_integer() || (id->is_number_unsigned() && id->get<uint64_t>() > uint64_t(INT64_MAX))) fail(ids_by_token, shown(item));
      file_.words.add(*item.key());
      file_.ids.push_back(id->get<int64_t>());
    } else {  // of Unigram: [token, score]
      const auto pair = item.list();
      if (pair.size() != 2 || !pair[0].text || !pair[1].other.is_number()) fail(scored_tokens, shown(item));
      file_.words.add(*pair[0].text);
      file_.scores.push_back(pair[1].other.get<double>());
      file_.ids.push_back(int64_t(file_.ids.size()));
    }
  }
  void merge(JsonItem& item) {
    if (file_.merges.size() >= 2 * max_merges) fail(fmt::format("at most {} merges", max_merges), "more");
    if (item.scalar() && item.scalar()->text) {
      const std::string_view both = *item.scalar()->text;
      const size_t blank = both.find(' ');
      if (blank == both.npos || both.find(' ', blank + 1) != both.npos) fail("a merge of two tokens with one blank between", shown(item));
      add_merge(both.substr(0, blank), both.substr(blank + 1));
    } else if (const auto pair = item.list(); !item.key() && pair.size() == 2 && pair[0].text && pair[1].text) {
      add_merge(*pair[0].text, *pair[1].text);
    } else {
      fail(!item.key() && item.tree().is_array() ? "a merge of two tokens" : pairs_of_tokens, shown(item));
    }
  }
  void added(JsonItem& item) {
    if (item.key()) fail_field(file_.where, "added_tokens", "a list", nullptr);
    if (file_.added.size() >= max_added_tokens) fail(fmt::format("at most {} added tokens", max_added_tokens), "more");
    file_.added.push_back(read_added_token(item.tree(), file_.where));
  }

 private:
  static std::string shown(JsonItem& item) { return item.tree().dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80); }
  [[noreturn]] void fail(std::string_view expected, std::string_view found) const {
    throw Error(Fault::bad_input, {.what = "a tokenizer file has the wrong form",
                                   .where = file_.where,
                                   .expected = std::string(expected),
                                   .found = std::string(found)});
  }
  void add_merge(std::string_view left, std::string_view right) {
    file_.merges.add(left);
    file_.merges.add(right);
  }

  TokenizerFile& file_;
};

template <class Text>
TokenizerFile parse(Text& text, std::string where) {
  TokenizerFile file{.where = std::move(where)};
  Reader reader(file);
  const JsonItems lists[] = {{"model.vocab", [&](JsonItem& item) { reader.word(item); }},
                             {"model.merges", [&](JsonItem& item) { reader.merge(item); }},
                             {"added_tokens", [&](JsonItem& item) { reader.added(item); }}};
  file.rest = parse_json(text, file.where, lists);
  if (!file.rest.is_object()) fail_field(file.where, "tokenizer.json", "an object", &file.rest);
  const auto is_list = [&](const Json& of, const char* key, const char* name, bool or_object) {
    const auto it = of.find(key);
    if (it != of.end() && !it->is_null() && !it->is_array() && !(or_object && it->is_object())) fail_field(file.where, name, "a list", &*it);
  };
  is_list(file.rest, "added_tokens", "added_tokens", false);
  if (const auto model = file.rest.find("model"); model != file.rest.end() && model->is_object())
    is_list(*model, "vocab", "model.vocab", true), is_list(*model, "merges", "model.merges", false);
  return file;
}

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view text, std::string where) { return parse(text, std::move(where)); }

TokenizerFile read_tokenizer_file(const fs::path& path) {
  FilePieces file(path);
  if (file.bytes() > max_bytes)
    throw Error(Fault::bad_input, {.what = "a tokenizer file is too large",
                                   .where = path.string(),
                                   .expected = "at most " + human_bytes(max_bytes),
                                   .found = human_bytes(file.bytes())});
  return parse(file, path.string());
}

}  // namespace thimble::data
