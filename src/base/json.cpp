// Parsing with limits: depth and size are refused before anything has grown, duplicate keys when their object ends. RapidJSON reads, in a fraction
// of the time of nlohmann's lexer; the tree is built by ourselves, since that library looks for each new key among all others, and an index of
// 90,000 tensors would take a minute. A vocabulary of 150,000 tokens makes no tree, nor does an item of it.
#include "base/json.h"

#ifdef __clang__  // whose sanitizer ends the program where RapidJSON 1.1 adds to the null that an empty stack begins at
#pragma clang attribute push(__attribute__((no_sanitize("pointer-overflow"))), apply_to = function)
#endif
#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>
#ifdef __clang__
#pragma clang attribute pop
#endif

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "base/utf8.h"

namespace thimble {

const Json& JsonItem::tree() {
  const auto value = [](const JsonScalar& s) { return s.text ? Json(std::string(*s.text)) : s.other; };
  if (shape_ == Shape::scalar) {
    tree_ = value(parts_.front());
  } else if (shape_ == Shape::list) {
    tree_ = Json::array();
    for (const JsonScalar& s : parts_) tree_.push_back(value(s));
  }
  return tree_;
}

// The parser's listener: the open values from the root to where parsing stands, each the last child of the one before it.
class JsonTreeBuilder {
 public:
  JsonTreeBuilder(std::string_view where, int max_depth, int64_t tree_bytes, std::span<const JsonItems> handed_over = {})
      : where_(where), max_depth_(size_t(max_depth)), most_(tree_bytes), handed_over_(handed_over) {}
  Json take() { return std::move(root_); }

  bool Null() { return add({}); }
  bool Bool(bool x) { return add({.other = x}); }
  bool RawNumber(const char* text, unsigned length, bool) { return add({.other = number({text, length})}); }
  bool Int(int) { return false; }  // all numbers are raw
  bool Uint(unsigned) { return false; }
  bool Int64(int64_t) { return false; }
  bool Uint64(uint64_t) { return false; }
  bool Double(double) { return false; }
  bool String(const char* text, unsigned length, bool) { return is_text({text, length}) && add({.text = std::string_view(text, length)}); }
  bool StartObject() { return open(Json::object()); }
  bool StartArray() {
    if (!takes_items() || item_.shape_ == Shape::list) return open(Json::array());
    check_depth();
    item_.shape_ = Shape::list;
    return true;
  }
  bool Key(const char* text, unsigned length, bool) {
    if (!is_text({text, length})) return false;
    if (takes_items()) {
      item_.key_.assign(text, length);
    } else {
      std::string key(text, length);
      grow(heap_of(key));
      auto& list = members(*open_.back().value);
      grow_to_hold(list);
      list.emplace_back(std::move(key), nullptr);
    }
    return true;
  }
  bool EndObject(unsigned) {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : members(*open_.back().value)) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("a key stands twice in one object", std::string(twice->substr(0, 80)));
    return close();
  }
  bool EndArray(unsigned) { return takes_items() && item_.shape_ == Shape::list ? hand_over() : close(); }

  const char* wrong_text() const { return wrong_text_; }  // of the string at which the parser was stopped
  [[noreturn]] void fail(std::string what, std::string found = "", std::string expected = "valid JSON") const {
    throw Error(Fault::bad_input,
                {.what = std::move(what), .where = std::string(where_), .expected = std::move(expected), .found = std::move(found)});
  }
  [[noreturn]] void fail_at_nul(int64_t byte) const { fail("cannot parse JSON", fmt::format("a NUL at byte {}", byte)); }

 private:
  using Shape = JsonItem::Shape;
  struct Open {
    Json* value;             // stable: a parent does not grow while a child is open
    const JsonItems* items;  // takes its items
    std::optional<std::string> path;  // as JsonItems says it; none: nothing in here is handed over
  };

  // An integer where it is written as one and 64 bits hold it; exact otherwise too. The text ends with a NUL.
  Json number(std::string_view text) const {
    const char *const begin = text.data(), *const end = begin + text.size();
    if (text.find_first_of(".eE") == text.npos) {
      int64_t negative = 0;
      uint64_t positive = 0;
      if (text.front() == '-' && std::from_chars(begin, end, negative).ec == std::errc()) return negative;
      if (text.front() != '-' && std::from_chars(begin, end, positive).ec == std::errc()) return positive;
    }
    double x = 0;
    if (std::from_chars(begin, end, x).ec != std::errc()) x = std::strtod(begin, nullptr);  // which has 0 or infinity for what is out of range
    if (!std::isfinite(x)) fail("cannot parse JSON", fmt::format("a number out of range: {}", text.substr(0, 80)));
    return x;
  }
  // What the parser does not look at; and it takes an escaped half of a pair for a character.
  bool is_text(std::string_view text) {
    const size_t bad = first_invalid_utf8(text);
    if (bad == text.npos) return true;
    const bool surrogate = text[bad] == '\xed' && bad + 1 < text.size() && static_cast<unsigned char>(text[bad + 1]) >= 0xa0;
    wrong_text_ = surrogate ? "a lone surrogate in a string" : "a string that is not UTF-8";
    return false;
  }
  static Json::object_t::Container& members(Json& object) { return object.get_ref<Json::object_t&>(); }
  static int64_t heap_of(const std::string& s) { return s.size() > 15 ? int64_t(s.size()) + 16 : 0; }
  void grow(int64_t bytes) {
    taken_ += bytes;
    if (taken_ > most_)
      fail("a JSON text of too many small parts", "more", fmt::format("a tree of at most {}, or of the text's own size", human_bytes(small_tree)));
  }
  template <class List>
  void grow_to_hold(const List& list) {  // one more; for a moment the old and the new block are there
    if (list.size() < list.capacity()) return;
    const auto old = int64_t(list.capacity() * sizeof(list[0]));
    grow(list.empty() ? int64_t(sizeof(list[0])) : 2 * old);
    taken_ -= old;
  }

  Json& place(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    const Open& parent = open_.back();
    if (parent.items) return item_.shape_ = Shape::tree, item_.tree_ = std::move(value);
    if (parent.value->is_object()) return members(*parent.value).back().second = std::move(value);
    auto& list = parent.value->get_ref<Json::array_t&>();
    grow_to_hold(list);
    return list.emplace_back(std::move(value));
  }
  bool add(JsonScalar value) {
    if (takes_items()) {
      const int64_t bytes = value.text ? int64_t(value.text->size()) : 0;
      grow(3 * (int64_t(sizeof value) + bytes));  // while a list grows, its old block and the new one, of twice the size
      if (value.text) item_.text_ += *value.text;
      item_.parts_.push_back(std::move(value));
      return item_.shape_ == Shape::list || hand_over();
    }
    if (value.text) {
      std::string s(*value.text);
      grow(int64_t(sizeof s) + heap_of(s));
      place(std::move(s));
    } else {
      place(std::move(value.other));
    }
    return true;
  }
  std::optional<std::string> path_of_next() const {
    if (handed_over_.empty() || open_.size() > 2) return std::nullopt;
    if (open_.empty()) return "";
    const Open& parent = open_.back();
    if (!parent.path || parent.items || !parent.value->is_object()) return std::nullopt;
    const std::string& key = members(*parent.value).back().first;
    if (key.empty() || key.find('.') != key.npos) return std::nullopt;  // which would read like another path
    return parent.path->empty() ? key : *parent.path + "." + key;
  }
  void check_depth() const {
    if (open_.size() >= max_depth_) fail(fmt::format("nested deeper than {} levels", max_depth_));
  }
  bool open(Json value) {
    if (takes_items() && item_.shape_ == Shape::list) make_tree();
    check_depth();
    grow(48);  // the list's own fields, on the heap
    Open next{nullptr, nullptr, path_of_next()};
    for (const JsonItems& items : handed_over_)
      if (items.path == next.path) next.items = &items, kept_ = taken_;
    next.value = &place(std::move(value));
    open_.push_back(std::move(next));
    return true;
  }
  bool close() {
    open_.pop_back();
    return !takes_items() || hand_over();
  }

  bool takes_items() const { return !open_.empty() && open_.back().items; }
  void place_texts() {
    const char* at = item_.text_.data();
    for (JsonScalar& s : item_.parts_)
      if (s.text) s.text = std::string_view(at, s.text->size()), at += s.text->size();
  }
  void make_tree() {  // of a list of scalars that goes on with something else
    place_texts();
    const std::vector<JsonScalar> parts = std::exchange(item_.parts_, {});
    item_.shape_ = Shape::tree;
    open(Json::array());
    for (const JsonScalar& s : parts) add(s);
  }
  bool hand_over() {
    place_texts();
    item_.has_key_ = open_.back().value->is_object();
    open_.back().items->take(item_);
    item_.shape_ = Shape::scalar;
    item_.parts_.clear();
    item_.text_.clear();
    item_.tree_ = nullptr;
    taken_ = kept_;
    return true;
  }

  std::string_view where_;
  size_t max_depth_;
  int64_t most_, taken_ = 0, kept_ = 0;  // bytes of the tree; without the item that is being read
  std::span<const JsonItems> handed_over_;
  Json root_;
  JsonItem item_;  // that is being read
  std::vector<Open> open_;
  const char* wrong_text_ = "";
};

namespace {

// The characters of a text or a file as the parser's stream: one after the other, then NUL.
class Characters {
 public:
  using Ch = char;
  Characters(std::string_view text, FilePieces* file, const JsonTreeBuilder& tree) : file_(file), tree_(&tree) {
    if (text.starts_with("\xef\xbb\xbf")) tree.fail("the file starts with a byte order mark");
    begin_piece(text);
  }
  [[gnu::always_inline]] Ch Peek() { return at_ != end_ || next_piece() ? *at_ : '\0'; }
  [[gnu::always_inline]] Ch Take() { return at_ != end_ || next_piece() ? *at_++ : '\0'; }
  size_t Tell() const { return size_t(before_ + (at_ - piece_)); }
  Ch* PutBegin() { return nullptr; }  // of a parser that writes where it reads
  void Put(Ch) {}
  void Flush() {}
  size_t PutEnd(Ch*) { return 0; }

  void skip_blanks() {
    static constexpr char blanks[] = "        ";
    do {
      while (end_ - at_ >= 8 && std::memcmp(at_, blanks, 8) == 0) at_ += 8;
      while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    } while (at_ == end_ && next_piece());
  }
  // Copies what stands for itself in a string, sixteen characters at a time as far as this piece has so many.
  template <class Out>
  void copy_plain(Out& out) {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    while (end_ - at_ >= int64_t{sizeof(Bytes)}) {
      Bytes b;
      std::memcpy(&b, at_, sizeof b);
      const auto marks = (b == '"') | (b == '\\') | (b < 0x20);
      uint64_t halves[2];
      std::memcpy(halves, &marks, sizeof halves);
      const int plain = halves[0] ? std::countr_zero(halves[0]) / 8 : halves[1] ? 8 + std::countr_zero(halves[1]) / 8 : 16;
      if (plain > 0) std::memcpy(out.Push(unsigned(plain)), at_, size_t(plain));  // an empty stack has no place
      at_ += plain;
      if (plain < 16) return;
    }
  }
  std::string position() const {
    if (file_) return fmt::format("byte {}", Tell());
    const auto* newline = static_cast<const char*>(::memrchr(piece_, '\n', size_t(at_ - piece_)));
    return fmt::format("line {}, column {}", std::count(piece_, at_, '\n') + 1, at_ - (newline ? newline : piece_ - 1));
  }

 private:
  void begin_piece(std::string_view text) {
    if (const auto nul = text.find('\0'); nul != text.npos) tree_->fail_at_nul(before_ + int64_t(nul));
    piece_ = at_ = text.data(), end_ = at_ + text.size();
  }
  [[gnu::noinline]] bool next_piece() {
    if (!file_) return false;
    before_ += end_ - piece_;
    begin_piece(file_->next());
    return at_ != end_;
  }
  const char *piece_ = nullptr, *at_ = nullptr, *end_ = nullptr;
  FilePieces* file_;  // none: the text is all
  const JsonTreeBuilder* tree_;
  int64_t before_ = 0;  // bytes of the pieces before
};

}  // namespace
}  // namespace thimble

namespace rapidjson {  // as its own streams have these: such a stream is kept in registers while a string or a number is read

template <>
struct StreamTraits<thimble::Characters> {
  enum { copyOptimization = 1 };
};
// Called where encodings are not checked.
template <>
template <>
inline void Reader::ScanCopyUnescapedString(thimble::Characters& characters, Reader::StackStream<char>& out) {
  characters.copy_plain(out);
}
template <>
inline void SkipWhitespace(thimble::Characters& characters) {
  characters.skip_blanks();
}

}  // namespace rapidjson

namespace thimble {
namespace {

Json parse(Characters characters, JsonTreeBuilder& tree) {
  using namespace rapidjson;
  Reader reader;
  const ParseResult result = reader.Parse<kParseNumbersAsStringsFlag>(characters, tree);
  if (!result) {
    const bool stopped = result.Code() == kParseErrorTermination;
    tree.fail("cannot parse JSON", fmt::format("{}: {}", characters.position(), stopped ? tree.wrong_text() : GetParseError_En(result.Code())));
  }
  return tree.take();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where, int max_depth, int64_t tree_bytes) {
  JsonTreeBuilder tree(where, max_depth, std::max(tree_bytes, int64_t(text.size()) + 4096));
  return parse(Characters(text, nullptr, tree), tree);
}

Json parse_json(std::string_view text, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  JsonTreeBuilder tree(where, max_depth, small_tree, items);
  return parse(Characters(text, nullptr, tree), tree);
}

Json parse_json(FilePieces& file, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  JsonTreeBuilder tree(where, max_depth, small_tree, items);
  return parse(Characters(file.next(), &file, tree), tree);
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
