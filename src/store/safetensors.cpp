// Every offset is compared with the file, every shape with its bytes, and tensors must tile the data without holes or overlaps.
#include "store/safetensors.h"

#include <algorithm>
#include <cstring>

#include "base/json.h"

namespace thimble::store {
namespace {

constexpr int64_t longest_header = 100'000'000;  // the reference implementation's limit

struct Type { std::string_view name; int bits; };
constexpr Type types[] = {{"F64", 64}, {"F32", 32}, {"BF16", 16}, {"F16", 16}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"I64", 64}, {"I32", 32},
                          {"I16", 16}, {"I8", 8}, {"U64", 64}, {"U32", 32}, {"U16", 16}, {"U8", 8}, {"BOOL", 8}};

std::optional<DType> readable(std::string_view type) {
  if (type == "F32") return DType::f32;
  if (type == "BF16") return DType::bf16;
  if (type == "F16") return DType::f16;
  if (type == "I32") return DType::i32;
  if (type == "U8") return DType::u8;
  if (type == "I8") return DType::i8;
  return std::nullopt;
}

const char* spelled(DType t) {
  switch (t) {
    case DType::f32: return "F32";
    case DType::bf16: return "BF16";
    case DType::f16: return "F16";
    case DType::i32: return "I32";
    case DType::u8: return "U8";
    case DType::i8: return "I8";
  }
  return "?";
}

class HeaderReader {
 public:
  HeaderReader(const fs::path& path, int64_t data_begin, int64_t data_bytes) : path_(path.string()), data_begin_(data_begin), data_bytes_(data_bytes) {}

  TensorInfo read(const std::string& name, const Json& entry) const {
    const std::string where = fmt::format("{}, tensor '{}'", path_, printable(name));
    const auto wrong = [&](std::string what, std::string expected, std::string found) {
      return Error(Fault::bad_input, {.what = std::move(what), .where = where, .expected = std::move(expected), .found = std::move(found), .fix = "download the file again"});
    };
    if (name.empty() || name.size() > 1024 || printable(name) != name) throw wrong("a tensor's name is not a name", "up to 1024 printable characters", fmt::format("{} bytes", name.size()));
    if (!entry.is_object()) throw wrong("a tensor's entry is not an object", "{dtype, shape, data_offsets}", entry.type_name());
    TensorInfo info{.name = name, .type = require<std::string>(entry, "dtype", where)};
    const auto type = std::find_if(std::begin(types), std::end(types), [&](const Type& t) { return t.name == info.type; });
    if (type == std::end(types)) throw wrong("unknown element type", "F32, BF16, F16 ...", info.type.substr(0, 40));
    const auto shape = numbers(entry, "shape", where), offsets = numbers(entry, "data_offsets", where);
    if (shape.size() > 4) throw wrong("too many dimensions", "at most 4", std::to_string(shape.size()));
    if (offsets.size() != 2) throw wrong("bad data_offsets", "[begin, end]", fmt::format("{} numbers", offsets.size()));
    int64_t count = 1, bits = 0;
    for (const int64_t n : shape)
      if (__builtin_mul_overflow(count, n, &count)) throw wrong("a shape's product overflows", "a product below 2^63", entry["shape"].dump());
    if (__builtin_mul_overflow(count, int64_t(type->bits), &bits)) throw wrong("a tensor's size overflows", "fewer than 2^63 bits", entry["shape"].dump());
    if (offsets[0] > offsets[1] || offsets[1] > data_bytes_)
      throw wrong("a tensor lies outside the file", fmt::format("0 <= begin <= end <= {}", data_bytes_), entry["data_offsets"].dump());
    if (offsets[1] - offsets[0] != bits / 8) throw wrong("a tensor's bytes do not match its shape", fmt::format("{} bytes", bits / 8), fmt::format("{} bytes", offsets[1] - offsets[0]));
    switch (shape.size()) {
      case 0: break;
      case 1: info.shape = {shape[0]}; break;
      case 2: info.shape = {shape[0], shape[1]}; break;
      case 3: info.shape = {shape[0], shape[1], shape[2]}; break;
      default: info.shape = {shape[0], shape[1], shape[2], shape[3]};
    }
    info.begin = data_begin_ + offsets[0];
    info.end = data_begin_ + offsets[1];
    return info;
  }

 private:
  static std::string printable(const std::string& s) {
    std::string out = s.substr(0, 200);
    for (char& c : out)
      if (static_cast<unsigned char>(c) < 32 || c == 127) c = '?';
    return s.size() > 1024 ? out : out + s.substr(out.size());
  }
  static std::vector<int64_t> numbers(const Json& entry, const char* key, const std::string& where) {
    const auto it = entry.find(key);
    if (it == entry.end() || !it->is_array()) fail_field(where, key, "an array of integers", it == entry.end() ? nullptr : &*it);
    if (it->size() > 64) fail_field(where, key, "at most 64 numbers", nullptr);
    std::vector<int64_t> out;
    for (const Json& v : *it) {
      out.push_back(read_as<int64_t>(v, key, where));
      if (out.back() < 0) fail_field(where, key, "no negative numbers", &v);
    }
    return out;
  }
  std::string path_;
  int64_t data_begin_, data_bytes_;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  const auto size = int64_t(bytes.size());
  const auto wrong = [&](std::string what, std::string expected, std::string found) {
    return Error(Fault::bad_input, {.what = std::move(what), .where = path.string(), .expected = std::move(expected), .found = std::move(found), .fix = "download the file again"});
  };
  if (size < 8) throw wrong("too short for a safetensors file", "at least 8 bytes", fmt::format("{} bytes", size));
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  if (header > uint64_t(longest_header) || int64_t(header) > size - 8)
    throw wrong("the header is longer than it may be", fmt::format("at most {} bytes", std::min(longest_header, size - 8)), fmt::format("{} bytes", header));
  const auto text = file_.text().substr(8, header);
  if (text.empty() || text[0] != '{') throw wrong("not a safetensors header", "a JSON object", text.empty() ? "nothing" : fmt::format("'{}'", text.substr(0, 1)));
  const Json json = parse_json(text, path.string(), 8);
  const HeaderReader reader(path, 8 + int64_t(header), size - 8 - int64_t(header));
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) throw wrong("__metadata__ is not an object", "strings by name", entry.type_name());
      for (const auto& [key, value] : entry.items()) metadata_[key] = read_as<std::string>(value, "__metadata__." + key, path.string());
      continue;
    }
    index_[name] = tensors_.size();
    tensors_.push_back(reader.read(name, entry));
  }
  auto order = tensors_;
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t at = 8 + int64_t(header);
  for (const auto& t : order) {
    if (t.begin != at) throw wrong(t.begin < at ? "tensors overlap" : "there is a hole between tensors", fmt::format("'{}' at byte {}", t.name, at), fmt::format("at byte {}", t.begin));
    at = t.end;
  }
  if (at != size) throw wrong("there are bytes after the last tensor", fmt::format("{} bytes", at), fmt::format("{} bytes", size));
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorInfo* info = find(name);
  if (!info) throw Error(Fault::bad_input, {.what = "a tensor is missing", .where = file_.path().string(), .expected = name});
  const auto dtype = readable(info->type);
  if (!dtype) throw Error(Fault::bad_input, {.what = "an element type that is not read here", .where = fmt::format("{}, tensor '{}'", file_.path().string(), name),
                                             .expected = "F32, BF16, F16, I32, U8 or I8", .found = info->type});
  return {const_cast<std::byte*>(file_.bytes().data()) + info->begin, *dtype, info->shape};
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<Declared> tensors, const std::map<std::string, std::string>& metadata) : file_(path) {
  Json header = Json::object();
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  for (const auto& t : tensors) {
    const int64_t bytes = t.shape.count() * size_of(t.dtype);
    Json shape = Json::array();
    for (int i = 0; i < t.shape.rank(); ++i) shape.push_back(t.shape[i]);
    header[t.name] = {{"dtype", spelled(t.dtype)}, {"shape", shape}, {"data_offsets", {expected_, expected_ + bytes}}};
    expected_ += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = uint64_t(text.size());
  file_.write(&length, 8);
  file_.write(text.data(), int64_t(text.size()));
}

void SafetensorsWriter::write(const Tensor& piece) {
  file_.write(piece.data, piece.bytes());
  written_ += piece.bytes();
}

void SafetensorsWriter::commit() {
  check(written_ == expected_, "all declared tensors were written");
  file_.commit();
}

}  // namespace thimble::store
