// Parsing with limits: depth and size are refused before anything has grown, duplicate keys when their object ends. The tree is built by
// ourselves, since the library looks for each new key among all others, and an index of 90,000 tensors would take a minute.
#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace thimble {
namespace {

// The parser's listener: the open values from the root to where parsing stands, each the last child of the one before it.
class TreeBuilder {
 public:
  TreeBuilder(std::string_view where, int max_depth, int64_t tree_bytes, std::span<const JsonItems> handed_over = {})
      : where_(where), max_depth_(size_t(max_depth)), most_(tree_bytes), handed_over_(handed_over) {}
  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool x) { return add(x); }
  bool number_integer(int64_t x) { return add(x); }
  bool number_unsigned(uint64_t x) { return add(x); }
  bool number_float(double x, const std::string&) { return add(x); }
  bool string(std::string& x) {
    grow(int64_t(sizeof x) + heap_of(x));
    return add(std::move(x));
  }
  bool binary(Json::binary_t&) { return false; }  // not in text
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool key(std::string& key) {
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
  bool end_object() {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : members(*open_.back().value)) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("a key stands twice in one object", std::string(twice->substr(0, 80)));
    return end_array();
  }
  bool end_array() {
    open_.pop_back();
    hand_over();
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception& e) { fail("cannot parse JSON", std::string(e.what()).substr(0, 240)); }

  [[noreturn]] void fail(std::string what, std::string found = "", std::string expected = "valid JSON") const {
    throw Error(Fault::bad_input,
                {.what = std::move(what), .where = std::string(where_), .expected = std::move(expected), .found = std::move(found)});
  }
  [[noreturn]] void fail_at_nul(int64_t byte) const { fail("cannot parse JSON", fmt::format("a NUL at byte {}", byte)); }

 private:
  struct Open {
    Json* value;             // stable: a parent does not grow while a child is open
    const JsonItems* items;  // takes its items
    std::string path;        // of what may be handed over
  };

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
  bool open(Json value) {
    if (open_.size() >= max_depth_) fail(fmt::format("nested deeper than {} levels", max_depth_));
    grow(48);  // the list's own fields, on the heap
    Open next{nullptr, nullptr, {}};
    if (!handed_over_.empty() && open_.size() <= 2 && (open_.empty() || (open_.back().value->is_object() && !open_.back().items))) {
      if (!open_.empty()) next.path = (open_.back().path.empty() ? "" : open_.back().path + ".") + members(*open_.back().value).back().first;
      for (const JsonItems& items : handed_over_)
        if (items.path == next.path) next.items = &items, kept_ = taken_;
    }
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

// The characters of a file for the parser, which asks for one after the other.
struct Characters {
  FilePieces& file;
  const TreeBuilder& tree;
  std::string_view rest{};
  int64_t before = 0;  // of the piece that `rest` is of

  bool ended() {
    if (!rest.empty()) return false;
    before += std::exchange(piece, 0);
    rest = file.next();
    piece = int64_t(rest.size());
    if (const auto nul = rest.find('\0'); nul != rest.npos) tree.fail_at_nul(before + int64_t(nul));
    return rest.empty();
  }
  int64_t piece = 0;
};
struct CharacterIterator {
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;
  Characters* of = nullptr;  // null: the end
  reference operator*() const { return of->rest.front(); }
  CharacterIterator& operator++() { return of->rest.remove_prefix(1), *this; }
  bool operator==(const CharacterIterator& other) const { return (!of || of->ended()) == (!other.of || other.of->ended()); }
};

Json parse(std::string_view text, TreeBuilder& tree) {
  if (text.starts_with("\xef\xbb\xbf")) tree.fail("the file starts with a byte order mark");
  if (const auto nul = text.find('\0'); nul != text.npos) tree.fail_at_nul(int64_t(nul));  // the parser would take it for the end
  Json::sax_parse(text.begin(), text.end(), &tree);
  return tree.take();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view where, int max_depth, int64_t tree_bytes) {
  TreeBuilder tree(where, max_depth, std::max(tree_bytes, int64_t(text.size()) + 4096));
  return parse(text, tree);
}

Json parse_json(std::string_view text, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  TreeBuilder tree(where, max_depth, small_tree, items);
  return parse(text, tree);
}

Json parse_json(FilePieces& file, std::string_view where, std::span<const JsonItems> items, int max_depth) {
  TreeBuilder tree(where, max_depth, small_tree, items);
  Characters characters{file, tree};
  if (!characters.ended() && characters.rest.starts_with("\xef\xbb\xbf")) tree.fail("the file starts with a byte order mark");
  Json::sax_parse(CharacterIterator{&characters}, CharacterIterator{}, &tree);
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
