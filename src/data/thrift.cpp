// Every element takes at least a byte of the text, so that no count can ask for more memory than the file is long.
#include "data/thrift.h"

#include <algorithm>

#include "base/error.h"

namespace thimble::data {
namespace {

enum Type { stop, yes, no, byte, i16, i32, i64, float64, binary, list, set, map, structure };
constexpr int deepest = 32;

class Reader {
 public:
  Reader(std::string_view text, const std::string& where, int64_t tree_bytes) : text_(text), where_(where), room_(tree_bytes) {}
  size_t at() const { return at_; }

  Thrift read_struct(int depth) {
    if (depth > deepest) fail("nested deeper than 32 levels");
    Thrift t;
    for (int64_t id = 0;;) {
      const int head = next(), type = head & 15;
      if (head == stop) return t;
      id = head >> 4 ? id + (head >> 4) : zigzag();
      if (id < 0 || id > INT16_MAX) fail(fmt::format("a field with id {}", id));
      take_room(sizeof(Thrift::Field));
      Thrift value = type == yes || type == no ? Thrift{.number = type == yes} : read(type, depth);
      t.fields.push_back({int(id), std::move(value)});
    }
  }

 private:
  [[noreturn]] void fail(std::string found) const {
    throw Error(Fault::bad_input, {.what = "the metadata of a parquet file cannot be read", .where = where_, .expected = "Thrift's compact protocol",
                                   .found = std::move(found)});
  }
  int next() {
    if (at_ == text_.size()) fail("it is cut short");
    return static_cast<unsigned char>(text_[at_++]);
  }
  uint64_t varint() {
    uint64_t x = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const int b = next();
      x |= uint64_t(b & 127) << shift;
      if (b < 128) return x;
    }
    fail("a number of more than 64 bits");
  }
  int64_t zigzag() {
    const uint64_t x = varint();
    return int64_t(x >> 1) ^ -int64_t(x & 1);
  }
  std::string_view take(uint64_t n) {
    if (n > text_.size() - at_) fail("it is cut short");
    at_ += size_t(n);
    return text_.substr(at_ - size_t(n), size_t(n));
  }
  void take_room(size_t bytes) {
    room_ -= 2 * int64_t(bytes);  // lists grow by doubling
    if (room_ < 0) fail("more small parts than a file of this size has");
  }
  Thrift read(int type, int depth) {
    switch (type) {
      case yes: case no: case byte: return {.number = next()};
      case i16: case i32: case i64: return {.number = zigzag()};
      case float64: take(8); return {};
      case binary: return {.bytes = std::string(take(varint()))};
      case list: case set: return read_list(depth + 1);
      case map: return read_map(depth + 1);
      case structure: return read_struct(depth + 1);
    }
    fail(fmt::format("a value of type {}", type));
  }
  Thrift read_list(int depth) {
    if (depth > deepest) fail("nested deeper than 32 levels");
    const int head = next();
    const uint64_t n = head >> 4 == 15 ? varint() : uint64_t(head >> 4);
    if (n > text_.size() - at_) fail("a list longer than the file");
    Thrift t;
    for (uint64_t i = 0; i < n; ++i) {
      take_room(sizeof(Thrift));
      t.list.push_back(read(head & 15, depth));
    }
    return t;
  }
  Thrift read_map(int depth) {
    if (depth > deepest) fail("nested deeper than 32 levels");
    const uint64_t n = varint();
    if (n > text_.size() - at_) fail("a map longer than the file");
    const int types = n ? next() : 0;
    for (uint64_t i = 0; i < n; ++i) read(types >> 4, depth), read(types & 15, depth);  // parquet's own metadata has none
    return {};
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  int64_t room_;
};

}  // namespace

const Thrift* Thrift::find(int id) const {
  const auto it = std::find_if(fields.begin(), fields.end(), [&](const auto& f) { return f.id == id; });
  return it == fields.end() ? nullptr : &it->value;
}

int64_t Thrift::number_or(int id, int64_t otherwise) const {
  const Thrift* t = find(id);
  return t ? t->number : otherwise;
}

Thrift read_thrift(std::string_view text, const std::string& where, size_t* used, int64_t tree_bytes) {
  Reader reader(text, where, tree_bytes);
  Thrift t = reader.read_struct(0);
  if (used) *used = reader.at();
  return t;
}

}  // namespace thimble::data
