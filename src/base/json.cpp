// Parsing with limits: depth and size are refused before anything has grown, duplicate keys when their object ends. RapidJSON reads, in a third
// of the time of nlohmann's lexer; the tree is built by ourselves, since that library looks for each new key among all others, and an index of
// 90,000 tensors would take a minute.
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
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace thimble {
namespace {

// The parser's listener: the open values from the root to where parsing stands, each the last child of the one before it.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view where, int max_depth, int64_t tree_bytes, std::span<const JsonItems> handed_over = {})
      : where_(where), max_depth_(size_t(max_depth)), most_(tree_bytes), handed_over_(handed_over) {}
  Json take() { return std::move(root_); }

  bool Null() { return add(nullptr); }
  bool Bool(bool x) { return add(x); }
  bool RawNumber(const char* text, unsigned length, bool) { return add(number({text, length})); }
  bool Int(int) { return false; }  // all numbers are raw
  bool Uint(unsigned) { return false; }
  bool Int64(int64_t) { return false; }
  bool Uint64(uint64_t) { return false; }
  bool Double(double) { return false; }
  bool String(const char* text, unsigned length, bool) {
    std::string s = checked({text, length});
    grow(int64_t(sizeof s) + heap_of(s));
    return add(std::move(s));
  }
  bool StartObject() { return open(Json::object()); }
  bool StartArray() { return open(Json::array()); }
  bool Key(const char* text, unsigned length, bool) {
    std::string key = checked({text, length});
    if (!open_.back().items) {
      grow(heap_of(key));
      auto& list = members(*open_.back().value);
      grow_to_hold(list);
      list.emplace_back(std::move(key), nullptr);
    } else {
      key_ = std::move(key);
    }
    return true;
  }
  bool EndObject(unsigned) {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : members(*open_.back().value)) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("a key stands twice in one object", std::string(twice->substr(0, 80)));
    return EndArray(0);
  }
  bool EndArray(unsigned) {
    open_.pop_back();
    hand_over();
    return true;
  }

  [[noreturn]] void fail(std::string what, std::string found = "", std::string expected = "valid JSON") const {
    throw Error(Fault::bad_input,
                {.what = std::move(what), .where = std::string(where_), .expected = std::move(expected), .found = std::move(found)});
  }
  [[noreturn]] void fail_at_nul(int64_t byte) const { fail("cannot parse JSON", fmt::format("a NUL at byte {}", byte)); }

 private:
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
  // The parser refuses what is not UTF-8, but takes an escaped half of a pair for a character.
  std::string checked(std::string_view text) const {
    for (size_t at = text.find('\xed'); at != text.npos; at = text.find('\xed', at + 1))
      if (static_cast<unsigned char>(text[at + 1]) >= 0xa0) fail("cannot parse JSON", "a lone surrogate in a string");
    return std::string(text);
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
    if (parent.items) return item_ = std::move(value);
    if (parent.value->is_object()) return members(*parent.value).back().second = std::move(value);
    auto& list = parent.value->get_ref<Json::array_t&>();
    grow_to_hold(list);
    return list.emplace_back(std::move(value));
  }
  bool add(Json value) {
    place(std::move(value));
    hand_over();
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
  bool open(Json value) {
    if (open_.size() >= max_depth_) fail(fmt::format("nested deeper than {} levels", max_depth_));
    grow(48);  // the list's own fields, on the heap
    Open next{nullptr, nullptr, path_of_next()};
    for (const JsonItems& items : handed_over_)
      if (items.path == next.path) next.items = &items, kept_ = taken_;
    next.value = &place(std::move(value));
    open_.push_back(std::move(next));
    return true;
  }
  void hand_over() {  // the item that is complete now, if its parent's are
    if (open_.empty() || !open_.back().items) return;
    open_.back().items->take(open_.back().value->is_object() ? &key_ : nullptr, item_);
    item_ = nullptr;
    taken_ = kept_;
  }

  std::string_view where_;
  size_t max_depth_;
  int64_t most_, taken_ = 0, kept_ = 0;  // bytes of the tree; without the item that is being read
  std::span<const JsonItems> handed_over_;
  Json root_, item_;
  std::string key_;  // of item_
  std::vector<Open> open_;
};

// The characters of a text or a file as the parser's stream: one after the other, then NUL.
class Characters {
 public:
  using Ch = char;
  Characters(std::string_view text, FilePieces* file, const TreeBuilder& tree) : file_(file), tree_(&tree) {
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
    do {
      while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
    } while (at_ == end_ && next_piece());
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
  const TreeBuilder* tree_;
  int64_t before_ = 0;  // bytes of the pieces before
};

}  // namespace
}  // namespace thimble

namespace rapidjson {  // which keeps such a stream in registers while it reads a string or a number

template <>
struct StreamTraits<thimble::Characters> {
  enum { copyOptimization = 1 };
};
template <>
inline void SkipWhitespace(thimble::Characters& characters) {
  characters.skip_blanks();
}

}  // namespace rapidjson

namespace thimble {
namespace {

Json parse(Characters characters, TreeBuilder& tree) {
  using namespace rapidjson;
  Reader reader;
  const ParseResult result = reader.Parse<kParseValidateEncodingFlag | kParseNumbersAsStringsFlag>(characters, tree);
  if (!result) tree.fail("cannot parse JSON", fmt::format("{}: {}", characters.position(), GetParseError_En(result.Code())));
  return tree.take();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where, int max_depth, int64_t tree_bytes) {
  TreeBuilder tree(where, max_depth, std::max(tree_bytes, int64_t(text.size()) + 4096));
  return parse(Characters(text, nullptr, tree), tree);
}

Json parse_json(std::string_view text, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  TreeBuilder tree(where, max_depth, small_tree, items);
  return parse(Characters(text, nullptr, tree), tree);
}

Json parse_json(FilePieces& file, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  TreeBuilder tree(where, max_depth, small_tree, items);
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
