// Every offset is compared with the file, every shape with its bytes, and tensors must tile the data without holes or overlaps.
#include "store/safetensors.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/json.h"
#include "base/threads.h"

namespace thimble::store {
namespace {

constexpr int64_t longest_header = 100'000'000;  // the reference implementation's limit
constexpr int64_t shortest_entry = 49;           // "":{"dtype":"U8","shape":[],"data_offsets":[0,0]} and a comma

struct Type {
  std::string_view name;
  int bits;
};
constexpr Type types[] = {{"F64", 64}, {"F32", 32}, {"BF16", 16}, {"F16", 16},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8},
                          {"I64", 64}, {"I32", 32}, {"I16", 16},  {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},
                          {"U8", 8},   {"BOOL", 8}, {"C64", 64},  {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};

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
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f16:
      return "F16";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
    case DType::i8:
      return "I8";
  }
  return "?";
}

[[noreturn]] void refuse(std::string what, std::string where, std::string expected, std::string found,
                         std::string fix = "download the file again") {
  throw Error(Fault::bad_input, {.what = std::move(what),
                                 .where = std::move(where),
                                 .expected = std::move(expected),
                                 .found = std::move(found),
                                 .fix = std::move(fix)});
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

std::string tensor_in(const fs::path& path, std::string_view whole_name) {
  std::string name(whole_name.substr(0, 200));
  if (whole_name.size() > 200) name.replace(197, 3, "...");
  std::replace_if(name.begin(), name.end(), is_control, '?');
  return fmt::format("{}, tensor '{}'", path.string(), name);
}

// An entry of the header into a TensorInfo, whose name the caller keeps.
class HeaderReader {
 public:
  HeaderReader(const fs::path& path, int64_t data_begin, int64_t data_bytes)
      : path_(path), data_begin_(data_begin), data_bytes_(data_bytes) {}

  TensorInfo read(std::string_view name, const Json& entry) const {
    const std::string where = tensor_in(path_, name);
    if (name.empty() || name.size() > 1024 || std::any_of(name.begin(), name.end(), is_control))
      refuse("a tensor's name is not a name", where, "1 to 1024 printable characters", fmt::format("{} bytes", name.size()));
    if (!entry.is_object()) refuse("a tensor's entry is not an object", where, "{dtype, shape, data_offsets}", entry.type_name());
    const auto said = require<std::string>(entry, "dtype", where);
    const auto type = std::find_if(std::begin(types), std::end(types), [&](const Type& t) { return t.name == said; });
    if (type == std::end(types)) refuse("unknown element type", where, "F32, BF16, F16 ...", said.substr(0, 40));
    TensorInfo info{.name = name, .type = type->name};
    const auto shape = numbers(entry, "shape", where), offsets = numbers(entry, "data_offsets", where);
    if (shape.size() > 4) refuse("too many dimensions", where, "at most 4", std::to_string(shape.size()));
    if (offsets.size() != 2) refuse("bad data_offsets", where, "[begin, end]", fmt::format("{} numbers", offsets.size()));
    int64_t most = type->bits, bits = type->bits;  // `most` leaves zeros out, so that the order of dimensions does not matter
    for (const int64_t n : shape)
      if (__builtin_mul_overflow(most, std::max<int64_t>(n, 1), &most))
        refuse("a tensor's size overflows", where, "fewer than 2^63 bits", entry["shape"].dump());
    for (const int64_t n : shape) bits *= n;
    if (bits % 8 != 0)
      refuse("packed elements do not fill a tensor's last byte", where, "a whole number of bytes", fmt::format("{} bits", bits));
    if (offsets[0] > offsets[1] || offsets[1] > data_bytes_)
      refuse("a tensor lies outside the file", where, fmt::format("0 <= begin <= end <= {}", data_bytes_), entry["data_offsets"].dump());
    if (offsets[1] - offsets[0] != bits / 8)
      refuse("a tensor's bytes do not match its shape", where,
             fmt::format("{} bytes for {} {}", bits / 8, info.type, entry["shape"].dump()),
             fmt::format("{} bytes", offsets[1] - offsets[0]));
    switch (shape.size()) {
      case 0:
        break;
      case 1:
        info.shape = {shape[0]};
        break;
      case 2:
        info.shape = {shape[0], shape[1]};
        break;
      case 3:
        info.shape = {shape[0], shape[1], shape[2]};
        break;
      default:
        info.shape = {shape[0], shape[1], shape[2], shape[3]};
    }
    info.begin = data_begin_ + offsets[0];
    info.end = data_begin_ + offsets[1];
    return info;
  }

 private:
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
  const fs::path& path_;
  int64_t data_begin_, data_bytes_;
};

}  // namespace

SafetensorsFile::Descriptor::Descriptor(const fs::path& path) : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd < 0) throw Error(Fault::bad_input, {.what = "cannot open a file", .where = path.string(), .found = std::strerror(errno)});
}
SafetensorsFile::Descriptor::~Descriptor() { ::close(fd); }

SafetensorsFile::SafetensorsFile(const fs::path& path) : file_(path), descriptor_(std::make_unique<Descriptor>(path)) {
  const auto size = int64_t(file_.bytes().size());
  if (size < 8) refuse("too short for a safetensors file", path.string(), "at least 8 bytes", fmt::format("{} bytes", size));
  FilePieces beginning(path, 0, std::min<int64_t>(size, 9));
  const std::string first(beginning.next());
  uint64_t header = 0;
  check(first.size() >= 8, "a file gives its first bytes at once");
  std::memcpy(&header, first.data(), 8);
  if (header > uint64_t(longest_header) || int64_t(header) > size - 8)
    refuse("the header is longer than it may be", path.string(), fmt::format("at most {} bytes", std::min(longest_header, size - 8)),
           fmt::format("{} bytes", header));
  if (header == 0 || first[8] != '{') refuse("not a safetensors header", path.string(), "a JSON object", header == 0 ? "nothing" : fmt::format("'{}'", first[8]));
  // Tensors are what a header has many of. Their room is reserved, not touched: what is used of it is less than the header, whatever that says.
  names_.reserve(size_t(header));
  tensors_.reserve(size_t(int64_t(header) / shortest_entry));
  const HeaderReader reader(path, 8 + int64_t(header), size - 8 - int64_t(header));
  bool has_metadata = false;
  const JsonItems entries{"", [&](JsonItem& item) {
    const std::string* name = item.key();
    if (!name) refuse("not a safetensors header", path.string(), "a JSON object", "a list");
    if (*name == "__metadata__") {
      if (std::exchange(has_metadata, true)) refuse("a key stands twice in one object", path.string(), "each key once", *name);
      return read_metadata(item.tree());
    }
    const TensorInfo info = reader.read(*name, item.tree());
    check(names_.size() + name->size() <= names_.capacity() && tensors_.size() < tensors_.capacity(), "an entry is no shorter than what it says");
    names_.insert(names_.end(), name->begin(), name->end());
    tensors_.push_back(info);
    tensors_.back().name = {names_.data() + names_.size() - name->size(), name->size()};
  }};
  FilePieces text(path, 8, int64_t(header));
  parse_json(text, path.string() + ", header", {&entries, 1}, 8);
  index_names();
  check_tiling(8 + int64_t(header));
}

void SafetensorsFile::read_metadata(const Json& entry) {
  const std::string where = file_.path().string();
  if (!entry.is_object()) refuse("__metadata__ is not an object", where, "strings by name", entry.type_name());
  for (const auto& [key, value] : entry.items()) metadata_[key] = read_as<std::string>(value, "__metadata__." + key.substr(0, 100), where);
}

void SafetensorsFile::index_names() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return tensors_[a].name == tensors_[b].name; });
  if (twice != by_name_.end()) refuse("a tensor stands twice in one file", where(tensors_[*twice].name), "each name once", "two entries");
}

void SafetensorsFile::check_tiling(int64_t begin) const {
  const auto size = int64_t(file_.bytes().size());
  std::vector<uint32_t> order(by_name_);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::pair(tensors_[a].begin, tensors_[a].end) < std::pair(tensors_[b].begin, tensors_[b].end);
  });
  int64_t at = begin;
  for (const uint32_t i : order) {
    const TensorInfo& t = tensors_[i];
    if (t.begin != at)
      refuse(t.begin < at ? "tensors overlap" : "there is a hole between tensors", where(t.name), fmt::format("at byte {}", at),
             fmt::format("at byte {}", t.begin));
    at = t.end;
  }
  if (at != size)
    refuse("there are bytes after the last tensor", file_.path().string(), fmt::format("{} bytes", at), fmt::format("{} bytes", size));
}

std::string SafetensorsFile::where(std::string_view name) const { return tensor_in(file_.path(), name); }

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name, [&](uint32_t i, std::string_view n) { return tensors_[i].name < n; });
  return it == by_name_.end() || tensors_[*it].name != name ? nullptr : &tensors_[*it];
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const TensorInfo* info = find(name);
  if (!info) refuse("a tensor is missing", file_.path().string(), name, "no tensor of this name");
  const auto dtype = readable(info->type);
  if (!dtype)
    refuse("an element type that is not read here", where(name), "F32, BF16, F16, I32, U8 or I8", std::string(info->type), "convert the tensor first");
  if (info->begin % size_of(*dtype) != 0)
    refuse("a tensor is not aligned to its elements", where(name), fmt::format("a multiple of {}", size_of(*dtype)),
           fmt::format("byte {}", info->begin), "save the file again");
  return {const_cast<std::byte*>(file_.bytes().data()) + info->begin, *dtype, info->shape};
}

void SafetensorsFile::read(const TensorInfo& info, int64_t first, Tensor to) const {
  check(first >= 0 && to.count() <= info.shape.count() && first <= info.shape.count() - to.count(), "a read lies inside its tensor");
  const auto dtype = readable(info.type);
  if (!dtype || (*dtype != to.dtype && *dtype != DType::f32 && *dtype != DType::bf16 && *dtype != DType::f16))
    refuse("a parameter holds no numbers that are read here", where(info.name), "F32, BF16 or F16", std::string(info.type), "name the 16-bit model");
  const int64_t width = size_of(*dtype), begin = first * width;
  if (*dtype == to.dtype) return read_bytes(info, begin, to.bytes(), to.data);
  const int64_t step = (int64_t{1} << 20) / width;
  std::vector<std::byte> piece(size_t(std::min(to.count(), step) * width));
  for (int64_t done = 0; done < to.count(); done += step) {
    const int64_t n = std::min(step, to.count() - done);
    read_bytes(info, begin + done * width, n * width, piece.data());
    visit_float(*dtype, [&]<class From>(From) {
      visit_float(to.dtype, [&]<class To>(To) {
        const From* f = reinterpret_cast<const From*>(piece.data());
        To* t = to.get<To>() + done;
        parallel_for(n, 1 << 16, [&](int64_t i, int64_t end) {
          for (; i < end; ++i) t[i] = To(float(f[i]));
        });
      });
    });
  }
}

void SafetensorsFile::read_bytes(const TensorInfo& info, int64_t first, int64_t n, void* to) const {
  check(first >= 0 && n >= 0 && first <= info.bytes() - n, "a read lies inside its tensor");
  std::atomic<int64_t> missing = 0;
  std::atomic<int> failed = 0;
  parallel_for(n, int64_t{4} << 20, [&](int64_t begin, int64_t end) {  // what is in the page cache is copied as fast as cores copy
    while (begin < end) {
      const ssize_t got = ::pread(descriptor_->fd, static_cast<char*>(to) + begin, size_t(end - begin), off_t(info.begin + first + begin));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) failed = errno;
      if (got == 0) missing += end - begin;
      if (got <= 0) return;
      begin += got;
    }
  });
  if (failed) throw Error(Fault::bad_input, {.what = "cannot read a tensor", .where = where(info.name), .found = std::strerror(failed)});
  if (missing)
    refuse("a file became shorter while it was read", where(info.name), fmt::format("{} more bytes", missing.load()), "the end of the file",
           "leave model files alone while they are in use");
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<Declared> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), tensors_(std::move(tensors)), places_(tensors_.size()) {
  std::vector<size_t> order(tensors_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size_of(tensors_[a].dtype) > size_of(tensors_[b].dtype); });
  std::string text = "{";  // by hand: a JSON object looks for each new key among all others
  if (!metadata.empty()) text += "\"__metadata__\":" + Json(metadata).dump();
  int64_t at = 0;
  for (const size_t i : order) {
    const auto& t = tensors_[i];
    Json sizes = Json::array();
    for (int d = 0; d < t.shape.rank(); ++d) sizes.push_back(t.shape[d]);
    places_[i] = at;
    at += t.shape.count() * size_of(t.dtype);
    text += fmt::format("{}{}:{}", text == "{" ? "" : ",", Json(t.name).dump(),
                        Json{{"dtype", spelled(t.dtype)}, {"shape", sizes}, {"data_offsets", {places_[i], at}}}.dump());
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const auto length = uint64_t(text.size());
  for (int64_t& place : places_) place += 8 + int64_t(text.size());
  file_.write(&length, 8);
  file_.write(text.data(), int64_t(text.size()));
  skip_complete();
}

void SafetensorsWriter::skip_complete() {
  while (next_ < tensors_.size() && written_ == tensors_[next_].shape.count() * size_of(tensors_[next_].dtype)) ++next_, written_ = 0;
}

void SafetensorsWriter::write(const Tensor& piece) {
  if (piece.count() == 0) return;
  check(next_ < tensors_.size(), "no more is written than was declared");
  const Declared& t = tensors_[next_];
  check(piece.dtype == t.dtype && written_ + piece.bytes() <= t.shape.count() * size_of(t.dtype),
        "a piece has the type of the tensor that is next and stays inside it");
  file_.write_at(places_[next_] + written_, piece.data, piece.bytes());
  written_ += piece.bytes();
  skip_complete();
}

WrittenFile SafetensorsWriter::commit() {
  check(next_ == tensors_.size(), "all declared tensors were written");
  return file_.commit();
}

}  // namespace thimble::store
