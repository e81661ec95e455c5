// What a state says is compared with what its matrix must be; its maps with ours, since the formats here have one map each.
#include "store/packed_files.h"

#include <cmath>

#include "base/json.h"
#include "quant/dynamic8.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace thimble::store {
namespace {

constexpr std::string_view state_name = ".quant_state.bitsandbytes__nf4", foreign_state = ".quant_state.bitsandbytes__fp4";
constexpr int64_t longest_state = 65536, state_room = 256;  // bytes of a state that is read; that ours has, blanks behind the text

[[noreturn]] void refuse(const std::string& what, std::string where, std::string expected, std::string found, std::string fix = "download the file again") {
  throw Error(Fault::bad_input, {.what = what, .where = std::move(where), .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
}

std::string module_of(const std::string& weight) {
  constexpr std::string_view leaf = ".weight";
  return weight.ends_with(leaf) ? weight.substr(0, weight.size() - leaf.size()) : weight;
}

Located beside(const Locate& locate, const std::string& weight, const std::string& name) {
  const Located at = locate(name);
  if (!at) refuse("a tensor that belongs to a packed matrix is missing", locate(weight).where(), name, "no tensor of this name",
                  "check that all shards were downloaded");
  return at;
}

void expect(const Located& at, std::string_view type, const Shape& shape) {
  if (at.info->type != type || at.info->shape.count() != shape.count())
    refuse("a tensor of a packed matrix is of another type or size than it must be", at.where(), fmt::format("{} {}", type, to_string(shape)),
           fmt::format("{} {}", at.info->type, to_string(at.info->shape)), "quantise the model again");
}

// Bytes [first, first + n) of a tensor, of whatever type.
void read_bytes(const Located& at, int64_t first, int64_t n, void* to) { at.file->read_bytes(*at.info, first, n, to); }

// The shape that a state names.
Shape shape_in(const Json& state, const std::string& where) {
  constexpr int64_t most = int64_t{1} << 31;
  const auto sizes = state.find("shape");
  if (sizes == state.end() || !sizes->is_array() || sizes->size() != 2) fail_field(where, "shape", "[rows, columns]", sizes == state.end() ? nullptr : &*sizes);
  const auto rows = read_as<int64_t>((*sizes)[0], "shape", where), columns = read_as<int64_t>((*sizes)[1], "shape", where);
  if (rows < 1 || columns < 1 || rows > most || columns > most) fail_field(where, "shape", fmt::format("two sizes from 1 to {}", most), &*sizes);
  return {rows, columns};
}

// A map of theirs holds our numbers (a last bit may differ: they compute theirs anew).
void expect_map(const Located& at, std::span<const float> ours) {
  expect(at, "F32", {int64_t(ours.size())});
  std::vector<float> theirs(ours.size());
  read_bytes(at, 0, int64_t(ours.size() * sizeof(float)), theirs.data());
  for (size_t i = 0; i < ours.size(); ++i)
    if (!(std::abs(theirs[i] - ours[i]) <= 1e-6f))
      refuse("a packed matrix has a map of its own", at.where(), fmt::format("{} at {}", ours[i], i), fmt::format("{}", theirs[i]), "quantise the model again as nf4");
}

// e4m3 without infinities (OCP 8-bit floating point, 2023): NaN where all but the sign is set.
float from_e4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float magnitude = exponent == 15 && mantissa == 7 ? NAN : exponent ? std::ldexp(1.0f + float(mantissa) / 8, exponent - 7) : std::ldexp(float(mantissa), -9);
  return bits & 128 ? -magnitude : magnitude;
}

const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> all{};
    for (int i = 0; i < 256; ++i) all[size_t(i)] = from_e4m3(uint8_t(i));
    return all;
  }();
  return values;
}

int64_t fp8_blocks(int64_t n) { return (n + fp8_block - 1) / fp8_block; }

std::string state_text(const quant::Weight& w, const std::string& dtype) {
  Json s = {{"quant_type", "nf4"}, {"blocksize", quant::nf4_block}, {"dtype", dtype}, {"shape", {w.shape[0], w.shape[1]}}};
  if (w.format == quant::FormatId::nf4_dq) {
    s["nested_blocksize"] = quant::nested_block;
    s["nested_dtype"] = "float32";
    s["nested_offset"] = *w.parts[3].get<float>();
  }
  std::string text = s.dump();
  check(int64_t(text.size()) <= state_room, "a state's text fits the room that was declared for it");
  text.resize(size_t(state_room), ' ');
  return text;
}

Tensor view_of(std::span<const float> values) { return {const_cast<float*>(values.data()), DType::f32, {int64_t(values.size())}}; }

}  // namespace

bool is_packed(const Locate& locate, const std::string& name) {
  const Located at = locate(name);
  return at && (at.info->type == "I8" || at.info->type == "U8" || at.info->type == "F8_E4M3" || locate(name + std::string(state_name)) || locate(name + std::string(foreign_state)));
}

PackedMatrix::PackedMatrix(const Locate& locate, const std::string& name) : parts_{locate(name)} {
  check(bool(parts_[0]), "a packed matrix has codes");
  const TensorInfo& codes = *parts_[0].info;
  const bool ints = codes.type == "I8", floats = codes.type == "F8_E4M3";
  if ((ints || floats) && codes.shape.rank() != 2) refuse("8-bit codes of no matrix", parts_[0].where(), "two dimensions", to_string(codes.shape));
  shape_ = codes.shape;
  if (ints) open_8bit(locate, name);
  else if (floats) open_fp8(locate, name);
  else open_4bit(locate, name);
}

void PackedMatrix::open_4bit(const Locate& locate, const std::string& name) {
  if (locate(name + std::string(foreign_state)))
    refuse("a matrix in a 4-bit code that is not read here", parts_[0].where(), "nf4", "fp4", "quantise the model with bnb_4bit_quant_type nf4");
  const Located state = beside(locate, name, name + std::string(state_name));
  if (state.info->type != "U8" || state.info->bytes() > longest_state)
    refuse("the state of a packed matrix is no text", state.where(), fmt::format("U8, at most {} bytes", longest_state), fmt::format("{}, {} bytes", state.info->type, state.info->bytes()));
  std::string text(size_t(state.info->bytes()), '\0');
  read_bytes(state, 0, state.info->bytes(), text.data());
  const std::string where = state.where();
  const Json json = parse_json(text, where, 8);
  if (!json.is_object()) fail_field(where, "quant_state", "an object", &json);
  if (const auto type = require<std::string>(json, "quant_type", where); type != "nf4") fail_field(where, "quant_type", "nf4", &json["quant_type"]);
  if (require<int64_t>(json, "blocksize", where) != quant::nf4_block) fail_field(where, "blocksize", "64, the one that is read here", &json["blocksize"]);
  shape_ = shape_in(json, where);
  const bool nested = json.contains("nested_blocksize");
  format_ = nested ? quant::FormatId::nf4_dq : quant::FormatId::nf4;
  const int64_t count = shape_.count(), bytes = (count + 1) / 2;
  if (parts_[0].info->bytes() != bytes)
    refuse("the codes of a packed matrix are more or fewer than its shape says", parts_[0].where(), fmt::format("{} bytes for {}", bytes, to_string(shape_)),
           fmt::format("{} bytes", parts_[0].info->bytes()), "quantise the model again");
  parts_[1] = beside(locate, name, name + ".absmax");
  expect(parts_[1], nested ? "U8" : "F32", {quant::nf4_blocks(count)});
  expect_map(beside(locate, name, name + ".quant_map"), quant::nf4_values);
  if (!nested) return;
  if (require<int64_t>(json, "nested_blocksize", where) != quant::nested_block) fail_field(where, "nested_blocksize", "256, the one that is read here", &json["nested_blocksize"]);
  if (const auto type = value_or<std::string>(json, "nested_dtype", "float32", where); type != "float32") fail_field(where, "nested_dtype", "float32", &json["nested_dtype"]);
  offset_ = float(require<double>(json, "nested_offset", where));
  if (!std::isfinite(offset_)) fail_field(where, "nested_offset", "a number that f32 holds", &json["nested_offset"]);
  parts_[2] = beside(locate, name, name + ".nested_absmax");
  expect(parts_[2], "F32", {quant::nested_blocks(count)});
  expect_map(beside(locate, name, name + ".nested_quant_map"), quant::signed_map().values());
}

void PackedMatrix::open_8bit(const Locate& locate, const std::string& name) {
  format_ = quant::FormatId::int8;
  parts_[1] = beside(locate, name, module_of(name) + ".SCB");
  expect(parts_[1], "F32", {shape_[0]});
  if (const Located order = locate(module_of(name) + ".weight_format")) {
    expect(order, "U8", {});
    uint8_t code = 0;
    read_bytes(order, 0, 1, &code);
    if (code != 0) refuse("8-bit codes in the order of an old card", order.where(), "0, row by row", std::to_string(code), "save the model again with a newer bitsandbytes");
  }
}

void PackedMatrix::open_fp8(const Locate& locate, const std::string& name) {
  parts_[1] = beside(locate, name, name + "_scale_inv");
  const Shape blocks{fp8_blocks(shape_[0]), fp8_blocks(shape_[1])};
  const auto& t = *parts_[1].info;
  if (!(t.shape == blocks) || (t.type != "F32" && t.type != "BF16" && t.type != "F16"))
    refuse("the scales of 8-bit floats do not fit their matrix", parts_[1].where(), fmt::format("F32 {}: one for a block of 128 x 128", to_string(blocks)),
           fmt::format("{} {}", t.type, to_string(t.shape)), "name a model with weight_block_size [128, 128], or the 16-bit model");
}

void PackedMatrix::read_part(int part, int64_t first, Tensor to) const {
  if (format_ == quant::FormatId::nf4_dq && part == 3) {
    *to.get<float>() = offset_;
    return;
  }
  read_bytes(parts_[size_t(part)], first * size_of(to.dtype), to.bytes(), to.data);
}

const quant::Weight& PackedMatrix::whole() const {
  if (!held_.empty()) return whole_;
  int count = 0;
  const auto parts = quant::parts_of(format_, shape_, DType::f32, count);
  whole_ = {.format = format_, .shape = shape_};
  for (size_t i = 0; i < size_t(count); ++i) {
    held_.emplace_back(size_t(parts[i].shape.count() * size_of(parts[i].dtype)));
    whole_.parts[i] = {held_.back().data(), parts[i].dtype, parts[i].shape};
    read_part(int(i), 0, whole_.parts[i]);
  }
  return whole_;
}

void PackedMatrix::read_rows(int64_t row, Tensor to) const {
  const int64_t columns = shape_[1];
  std::vector<float> numbers(static_cast<size_t>(columns)), scales;
  std::vector<uint8_t> codes(static_cast<size_t>(columns));
  int64_t scale_row = -1;
  for (int64_t r = 0; r < to.shape[0]; ++r) {
    if (format_ != quant::FormatId::dense) {
      quant::format(format_).decode(numbers.data(), whole(), (row + r) * columns, columns);
    } else {
      if ((row + r) / fp8_block != scale_row) {
        scale_row = (row + r) / fp8_block;
        scales.resize(size_t(fp8_blocks(columns)));
        parts_[1].file->read(*parts_[1].info, scale_row * int64_t(scales.size()), {scales.data(), DType::f32, {int64_t(scales.size())}});
      }
      read_bytes(parts_[0], (row + r) * columns, columns, codes.data());
      for (size_t k = 0; k < codes.size(); ++k) numbers[k] = e4m3_values()[codes[k]] * scales[k / size_t(fp8_block)];
    }
    visit_float(to.dtype, [&]<class T>(T) {
      for (size_t k = 0; k < numbers.size(); ++k) to.get<T>()[r * columns + int64_t(k)] = T(numbers[k]);
    });
  }
}

std::vector<SafetensorsWriter::Declared> declare_packed(const std::string& name, quant::FormatId format, const Shape& matrix) {
  int count = 0;
  const auto parts = quant::parts_of(format, matrix, DType::f32, count);
  if (format == quant::FormatId::int8)
    return {{name, DType::i8, matrix}, {module_of(name) + ".SCB", DType::f32, parts[1].shape}, {module_of(name) + ".weight_format", DType::u8, {}}};
  std::vector<SafetensorsWriter::Declared> all = {{name, DType::u8, {parts[0].shape[0], 1}}, {name + ".absmax", parts[1].dtype, parts[1].shape}, {name + ".quant_map", DType::f32, {16}}};
  if (format == quant::FormatId::nf4_dq) {
    all.push_back({name + ".nested_absmax", DType::f32, parts[2].shape});
    all.push_back({name + ".nested_quant_map", DType::f32, {256}});
  }
  all.push_back({name + std::string(state_name), DType::u8, {state_room}});
  return all;
}

void fill_packed(const quant::Weight& w, const std::string& dtype, const std::function<void(const Tensor&)>& put) {
  put(w.parts[0]);
  put(w.parts[1]);
  if (w.format == quant::FormatId::int8) {
    uint8_t by_rows = 0;
    return put({&by_rows, DType::u8, {}});
  }
  put(view_of(quant::nf4_values));
  if (w.format == quant::FormatId::nf4_dq) put(w.parts[2]), put(view_of(quant::signed_map().values()));
  std::string text = state_text(w, dtype);
  put({text.data(), DType::u8, {int64_t(text.size())}});
}

}  // namespace thimble::store
