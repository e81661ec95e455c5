// One pass over the events of the JSON parser, with limits on depth, on keys of an object and on the two lists.
#include "data/tokenizer_file.h"

namespace thimble::data {
namespace {

constexpr size_t max_depth = 64;
constexpr size_t max_keys = 4096;      // of one object outside the vocabulary
constexpr size_t max_items = 1 << 17;  // of one list outside the vocabulary and the merges: added tokens
constexpr size_t max_vocab = 1 << 22;  // the largest vocabularies have 262k entries
constexpr size_t max_merges = 1 << 22;
constexpr int64_t max_bytes = int64_t{256} << 20;

// The events of nlohmann's parser: a value, or the start or the end of a list or an object; false would stop it.
class Reader {
 public:
  explicit Reader(TokenizerFile& file) : file_(file) {}

  bool null() { return value(nullptr); }
  bool boolean(bool b) { return value(b); }
  bool number_integer(int64_t n) { return number(n); }
  bool number_unsigned(uint64_t n) { return n > uint64_t(INT64_MAX) ? value(n) : number(int64_t(n)); }
  bool number_float(double x, const std::string&) { return in_ == In::piece ? score(x) : value(x); }
  bool string(std::string& s) {
    if (in_ == In::merges) return merge_as_text(s);
    if (in_ == In::pair || (in_ == In::piece && pair_.empty())) return pair_.push_back(std::move(s)), true;
    return value(std::move(s));
  }
  bool binary(Json::binary_t&) { fail("binary data", "JSON"); }

  bool start_object(size_t) {
    if (in_ != In::elsewhere) fail(inside(), "an object");
    if (at_member("vocab")) return in_ = In::vocab, true;
    return open(Json::object());
  }
  bool end_object() {
    if (in_ == In::vocab) return in_ = In::elsewhere, true;
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool start_array(size_t) {
    if (in_ == In::merges) return in_ = In::pair, pair_.clear(), true;
    if (in_ == In::pieces) return in_ = In::piece, pair_.clear(), true;
    if (in_ != In::elsewhere) fail(inside(), "a list");
    if (at_member("merges")) return in_ = In::merges, true;
    if (at_member("vocab")) return in_ = In::pieces, true;  // of a Unigram model
    return open(Json::array());
  }
  bool end_array() {
    if (in_ == In::merges || in_ == In::pieces) return in_ = In::elsewhere, true;
    if (in_ == In::pair) return merge_as_pair();
    if (in_ == In::piece) return end_of_piece();
    open_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool key(std::string& k) {
    if (in_ == In::vocab) return word_ = std::move(k), true;
    Json& object = *open_.back();
    if (object.size() >= max_keys) fail("an object", fmt::format("more than {} keys", max_keys));
    if (object.contains(k)) fail("a key that stands once in its object", "'" + k.substr(0, 80) + "' twice");
    object[k] = nullptr;
    keys_.back() = std::move(k);
    return true;
  }
  bool parse_error(size_t at, const std::string&, const Json::exception& e) {
    throw Error(
        Fault::bad_input,
        {.what = "cannot parse JSON", .where = fmt::format("{}, byte {}", file_.where, at), .expected = "valid JSON", .found = e.what()});
  }

 private:
  enum class In { elsewhere, vocab, pieces, piece, merges, pair };

  [[noreturn]] void fail(std::string_view expected, std::string_view found) {
    throw Error(Fault::bad_input, {.what = "a tokenizer file has the wrong form",
                                   .where = file_.where,
                                   .expected = std::string(expected),
                                   .found = std::string(found)});
  }
  std::string_view inside() const {
    return in_ == In::vocab                        ? "model.vocab: ids by token"
           : in_ == In::pieces || in_ == In::piece ? "model.vocab: pairs of a token and its score"
                                                   : "model.merges: pairs of tokens";
  }
  bool at_member(std::string_view name) const {
    return open_.size() == 2 && keys_[0] == "model" && keys_[1] == name && open_.back()->is_object();
  }

  Json& place(Json v) {
    if (open_.empty()) return file_.rest = std::move(v);
    if (open_.back()->is_array() && open_.back()->size() >= max_items) fail(fmt::format("at most {} items in a list", max_items), "more");
    if (open_.back()->is_array()) return open_.back()->emplace_back(std::move(v));
    return open_.back()->at(keys_.back()) = std::move(v);
  }
  bool open(Json v) {
    if (open_.size() >= max_depth) fail(fmt::format("at most {} levels", max_depth), "deeper nesting");
    open_.push_back(&place(std::move(v)));
    keys_.emplace_back();
    return true;
  }
  bool value(Json v) {
    if (in_ != In::elsewhere) fail(inside(), v.dump());
    place(std::move(v));
    return true;
  }
  bool number(int64_t n) {
    if (in_ == In::piece) return score(double(n));
    return in_ == In::vocab ? add_word(word_, n) : value(n);
  }
  bool add_word(std::string_view word, int64_t id) {
    if (file_.words.size() >= max_vocab) fail(fmt::format("at most {} entries in model.vocab", max_vocab), "more");
    file_.words.add(word);
    file_.ids.push_back(id);
    return true;
  }
  bool score(double x) {
    if (pair_.size() != 1) fail(inside(), "a number");
    pair_.emplace_back();
    score_ = x;
    return true;
  }
  bool end_of_piece() {
    if (pair_.size() != 2) fail(inside(), fmt::format("{} values", pair_.size()));
    in_ = In::pieces;
    file_.scores.push_back(score_);
    return add_word(pair_[0], int64_t(file_.ids.size()));
  }
  bool merge_as_text(std::string_view s) {
    const size_t blank = s.find(' ');
    if (blank == s.npos || s.find(' ', blank + 1) != s.npos)
      fail("a merge of two tokens with one blank between", "\"" + std::string(s.substr(0, 80)) + "\"");
    return add_merge(s.substr(0, blank), s.substr(blank + 1));
  }
  bool merge_as_pair() {
    if (pair_.size() != 2) fail("a merge of two tokens", fmt::format("{} tokens", pair_.size()));
    in_ = In::merges;
    return add_merge(pair_[0], pair_[1]);
  }
  bool add_merge(std::string_view left, std::string_view right) {
    if (file_.merges.size() >= 2 * max_merges) fail(fmt::format("at most {} merges", max_merges), "more");
    file_.merges.add(left);
    file_.merges.add(right);
    return true;
  }

  TokenizerFile& file_;
  In in_ = In::elsewhere;
  std::vector<Json*> open_;        // the objects and lists that are not closed yet; a parent does not grow while a child is open
  std::vector<std::string> keys_;  // beside open_: the key being read
  std::string word_;               // the key being read within the vocabulary
  std::vector<std::string> pair_;  // of a merge, or of a piece and its score
  double score_ = 0;
};

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view text, std::string where) {
  TokenizerFile file{.where = std::move(where)};
  Reader reader(file);
  Json::sax_parse(text.begin(), text.end(), &reader);
  if (!file.rest.is_object()) fail_field(file.where, "tokenizer.json", "an object", &file.rest);
  return file;
}

TokenizerFile read_tokenizer_file(const fs::path& path) {
  const MappedFile file(path);
  if (int64_t(file.text().size()) > max_bytes)
    throw Error(Fault::bad_input, {.what = "a tokenizer file is too large",
                                   .where = path.string(),
                                   .expected = "at most " + human_bytes(max_bytes),
                                   .found = human_bytes(int64_t(file.text().size()))});
  return parse_tokenizer_file(file.text(), path.string());
}

}  // namespace thimble::data
