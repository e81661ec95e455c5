// Packed matrices of others: every part that is missing, of another size or of other words is one error that names file and tensor; and what we
// write is what we read.
#include "store/packed_files.h"

#include "base/json.h"
#include "comm/rank.h"
#include "files.h"
#include "quant/int8.h"
#include "quant/nf4.h"
#include "store/weight_source.h"

namespace thimble::store {
namespace {

constexpr const char* matrix = "model.layers.0.mlp.up_proj.weight";  // of every folder in tests/golden/quantised but fp8: (52, 36)

struct Raw {
  std::string name, type, bytes;
  std::vector<int64_t> shape;
};

// One matrix of a golden folder with all that belongs to it, to be damaged.
std::vector<Raw> parts_of_golden(const char* folder) {
  const SafetensorsFile file(golden(fmt::format("quantised/{}/model.safetensors", folder)));
  std::vector<Raw> all;
  const std::string module = std::string(matrix).substr(0, std::string_view(matrix).size() - 7);
  for (const auto& t : file.tensors()) {
    if (!t.name.starts_with(module)) continue;
    Raw raw{std::string(t.name), std::string(t.type), std::string(size_t(t.bytes()), '\0'), {}};
    for (int i = 0; i < t.shape.rank(); ++i) raw.shape.push_back(t.shape[i]);
    file.read_bytes(t, 0, t.bytes(), raw.bytes.data());
    all.push_back(std::move(raw));
  }
  return all;
}

std::string file_with(const std::vector<Raw>& tensors) {
  Json header = Json::object();
  std::string data;
  for (const auto& t : tensors) {
    header[t.name] = {{"dtype", t.type}, {"shape", t.shape}, {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  return file_of(header.dump()) + data;
}

ParamTable table_of(quant::FormatId format, Shape shape) {
  ParamTable t;
  t.layers.push_back({{matrix, shape, Role::linear, 0, format, DType::f32, format}});
  return t;
}

using Damage = std::function<void(std::vector<Raw>&)>;
Raw& part(std::vector<Raw>& all, std::string_view end) {
  for (auto& t : all)
    if (t.name.ends_with(end)) return t;
  throw std::runtime_error("no such part");
}
Damage without(std::string_view end) {
  return [=](auto& all) { std::erase_if(all, [&](const Raw& t) { return t.name.ends_with(end); }); };
}
Damage shorter(std::string_view end, int64_t shape, int64_t bytes) {
  return [=](auto& all) { part(all, end).shape = {shape}, part(all, end).bytes.resize(size_t(bytes)); };
}
Damage typed(std::string_view end, const char* type, int64_t count) {
  return [=](auto& all) { part(all, end).type = type, part(all, end).shape = {count}; };
}
Damage state(const std::string& from, const std::string& to) {
  return [=](auto& all) {
    Raw& t = part(all, "bitsandbytes__nf4");
    const auto at = t.bytes.find(from);
    if (at == std::string::npos) throw std::runtime_error("no such words: " + t.bytes);
    t.bytes.replace(at, from.size(), to);
    t.shape = {int64_t(t.bytes.size())};
  };
}

struct Case {
  const char *of, *folder;
  quant::FormatId format;
  Damage damage;
  std::vector<std::string_view> words;
};

const std::vector<Case> cases = {
    {"no absmax", "nf4", quant::FormatId::nf4, without(".absmax"), {"missing", "up_proj.weight.absmax"}},
    {"no map", "nf4", quant::FormatId::nf4, without(".quant_map"), {"missing", "up_proj.weight.quant_map"}},
    {"no state", "nf4", quant::FormatId::nf4, without("__nf4"), {"missing", "bitsandbytes__nf4"}},
    {"no nested absmax", "nf4_dq", quant::FormatId::nf4_dq, without(".nested_absmax"), {"missing", "nested_absmax"}},
    {"no nested map", "nf4_dq", quant::FormatId::nf4_dq, without(".nested_quant_map"), {"missing", "nested_quant_map"}},
    {"a short absmax", "nf4", quant::FormatId::nf4, shorter(".absmax", 3, 12), {".absmax", "F32 (30)", "F32 (3)"}},
    {"a short nested absmax", "nf4_dq", quant::FormatId::nf4_dq, shorter(".nested_absmax", 0, 0), {"nested_absmax", "F32 (1)"}},
    {"an absmax of another type", "nf4_dq", quant::FormatId::nf4_dq, typed(".absmax", "I8", 30), {".absmax", "U8"}},
    {"a short map", "nf4", quant::FormatId::nf4, shorter(".quant_map", 15, 60), {".quant_map", "F32 (16)"}},
    {"another map", "nf4", quant::FormatId::nf4, [](auto& all) { part(all, ".quant_map").bytes[3] = 0; }, {".quant_map", "a map of its own"}},
    {"another nested map", "nf4_dq", quant::FormatId::nf4_dq, [](auto& all) { part(all, ".nested_quant_map").bytes[1023] = 0; }, {".nested_quant_map", "a map of its own"}},
    {"too few codes", "nf4", quant::FormatId::nf4, shorter("up_proj.weight", 935, 935), {"up_proj.weight", "936 bytes", "935 bytes"}},
    {"torn state", "nf4_dq", quant::FormatId::nf4_dq, state("}", ""), {"__nf4", "JSON"}},
    {"a state that is a list", "nf4", quant::FormatId::nf4, [](auto& all) { part(all, "__nf4").bytes = "[]", part(all, "__nf4").shape = {2}; }, {"__nf4", "an object"}},
    {"a deep state", "nf4", quant::FormatId::nf4, [](auto& all) { part(all, "__nf4").bytes.assign(60000, '['), part(all, "__nf4").shape = {60000}; }, {"__nf4", "nested deeper"}},
    {"an endless state", "nf4", quant::FormatId::nf4, [](auto& all) { part(all, "__nf4").bytes.assign(70000, ' '), part(all, "__nf4").shape = {70000}; }, {"__nf4", "65536"}},
    {"a state that is no text", "nf4", quant::FormatId::nf4, [](auto& all) { part(all, "__nf4").bytes[5] = '\xff'; }, {"__nf4", "JSON"}},
    {"fp4 in the state", "nf4", quant::FormatId::nf4, state("\"nf4\"", "\"fp4\""), {"quant_type", "nf4", "fp4"}},
    {"blocks of 128", "nf4", quant::FormatId::nf4, state("64", "128"), {"blocksize", "64"}},
    {"no shape", "nf4", quant::FormatId::nf4, state("\"shape\"", "\"form\""), {"'shape'"}},
    {"a shape that is a number", "nf4", quant::FormatId::nf4, state("[52, 36]", "52"), {"'shape'"}},
    {"a negative shape", "nf4", quant::FormatId::nf4, state("[52, 36]", "[-52, -36]"), {"'shape'"}},
    {"a shape of 1e30", "nf4", quant::FormatId::nf4, state("[52, 36]", "[1e30, 36]"), {"'shape'"}},
    {"a shape that overflows", "nf4", quant::FormatId::nf4, state("[52, 36]", "[4294967297, 4294967297]"), {"'shape'"}},
    {"another shape of as many codes", "nf4", quant::FormatId::nf4, state("[52, 36]", "[36, 52]"), {"(52, 36)", "(36, 52)", "config.json"}},
    {"nested blocks of 64", "nf4_dq", quant::FormatId::nf4_dq, state("256", "64"), {"nested_blocksize", "256"}},
    {"no nested offset", "nf4_dq", quant::FormatId::nf4_dq, state("nested_offset", "nested_office"), {"nested_offset"}},
    {"a nested offset of 1e300", "nf4_dq", quant::FormatId::nf4_dq, state("\"nested_offset\": 0", "\"nested_offset\": 1e300, \"x\": 0"), {"nested_offset"}},
    {"nested codes of another type", "nf4_dq", quant::FormatId::nf4_dq, state("float32\", \"nested", "float16\", \"nested"), {"nested_dtype"}},
    {"not nested as the config says", "nf4", quant::FormatId::nf4_dq, [](auto&) {}, {"not packed as the config says", "nf4_dq", "nf4"}},
    {"nested unlike the config", "nf4_dq", quant::FormatId::nf4, [](auto&) {}, {"not packed as the config says"}},
    {"8 bits where the config says 4", "int8", quant::FormatId::nf4, [](auto&) {}, {"not packed as the config says", "nf4", "int8"}},
    {"no SCB", "int8", quant::FormatId::int8, without(".SCB"), {"missing", "up_proj.SCB"}},
    {"a short SCB", "int8", quant::FormatId::int8, shorter(".SCB", 51, 204), {"SCB", "F32 (52)", "F32 (51)"}},
    {"codes in an old order", "int8", quant::FormatId::int8, [](auto& all) { part(all, "weight_format").bytes[0] = 2; }, {"weight_format", "row by row"}},
    {"codes of no matrix", "int8", quant::FormatId::int8, [](auto& all) { part(all, ".weight").shape = {1872}; }, {"two dimensions"}},
    {"codes of another shape", "int8", quant::FormatId::int8, [](auto& all) { part(all, ".weight").shape = {36, 52}, part(all, ".SCB").shape = {36}, part(all, ".SCB").bytes.resize(144); }, {"(52, 36)", "(36, 52)"}},
};

TEST(PackedFiles, EveryDamageIsNamed) {
  const Folder folder;
  for (const auto& c : cases) {
    auto tensors = parts_of_golden(c.folder);
    ASSERT_FALSE(tensors.empty());
    c.damage(tensors);
    folder.put("model.safetensors", file_with(tensors));
    std::unique_ptr<WeightSource> source;
    expect_refused([&] { source = open_weights(folder.path), source->check_table(table_of(c.format, {52, 36})); }, c.words, c.of);
  }
}

TEST(PackedFiles, FloatsIn8BitsNeedTheirScales) {
  const Folder folder;
  const auto entry = [](const char* type, Shape s, int64_t begin, int64_t end) {
    return Json{{"dtype", type}, {"shape", {s[0], s[1]}}, {"data_offsets", {begin, end}}};
  };
  const std::string name = matrix;
  const auto put = [&](const Json& header, size_t bytes) { folder.put("model.safetensors", file_of(header.dump(), bytes)); };
  const auto check = [&] { open_weights(folder.path)->check_table(table_of(quant::FormatId::dense, {130, 4})); };
  put({{name, entry("F8_E4M3", {130, 4}, 0, 520)}, {name + "_scale_inv", entry("F32", {2, 1}, 520, 528)}}, 528);
  EXPECT_NO_THROW(check());
  put({{name, entry("F8_E4M3", {130, 4}, 0, 520)}}, 520);
  expect_refused(check, {"missing", "weight_scale_inv"});
  put({{name, entry("F8_E4M3", {130, 4}, 0, 520)}, {name + "_scale_inv", entry("F32", {1, 1}, 520, 524)}}, 524);
  expect_refused(check, {"weight_scale_inv", "(2, 1)", "(1, 1)"});
  put({{name, entry("F8_E4M3", {130, 4}, 0, 520)}, {name + "_scale_inv", entry("I32", {2, 1}, 520, 528)}}, 528);
  expect_refused(check, {"weight_scale_inv", "F32", "I32"});
  put({{name, entry("F8_E5M2", {130, 4}, 0, 520)}}, 520);
  expect_refused(check, {"F8_E5M2", "holds no numbers that are read here"});
}

// Declared, filled and read again: the same codes, whole and by rows, every tensor aligned to its elements.
TEST(PackedFiles, WhatIsWrittenIsReadBack) {
  using quant::FormatId;
  for (const FormatId id : {FormatId::nf4, FormatId::nf4_dq, FormatId::int8})
    for (const Shape& shape : {Shape{7, 27}, Shape{300, 64}}) {
      const Folder folder;
      const auto device = cpu_device();
      comm::Rank rank(*device, {int64_t{4} << 20, 0, 0});
      quant::Weight w{.format = id, .shape = shape};
      int count = 0;
      const auto parts = quant::parts_of(id, shape, DType::f32, count);
      for (size_t i = 0; i < size_t(count); ++i) w.parts[i] = rank.memory.take(Use::weights, "part", parts[i].dtype, parts[i].shape);
      const Tensor dense = rank.memory.take(Use::weights, "dense", DType::f32, shape), odd{dense.data, DType::f32, {1}};
      for (int64_t i = 0; i < shape.count(); ++i) dense.get<float>()[i] = number(3, i) * (i % 7 ? 0.1f : 0.3f);
      quant::format(id).pack(rank.stream, w, dense);
      auto declared = declare_packed(matrix, id, shape);
      declared.insert(declared.begin(), {"odd", DType::u8, {3}});
      SafetensorsWriter writer(folder.path / "model.safetensors", declared);
      writer.write({odd.data, DType::u8, {3}});
      fill_packed(w, "float32", [&](const Tensor& t) { writer.write(t); });
      const WrittenFile written = writer.commit();
      EXPECT_EQ(written, measure(folder.path / "model.safetensors"));
      const SafetensorsFile file(folder.path / "model.safetensors");
      for (const auto& t : file.tensors()) {
        if (t.type == "F32") {
          EXPECT_EQ(t.begin % 4, 0) << t.name;
        }
      }
      const auto source = open_weights(folder.path);
      ASSERT_NO_THROW(source->check_table(table_of(id, shape)));
      for (size_t i = 0; i < size_t(count); ++i) {
        const int64_t n = w.parts[i].count(), from = n / 3;
        std::vector<std::byte> bytes(size_t((n - from) * size_of(w.parts[i].dtype)));
        source->read_part(matrix, int(i), from, {bytes.data(), w.parts[i].dtype, {n - from}});
        EXPECT_EQ(std::memcmp(bytes.data(), static_cast<std::byte*>(w.parts[i].data) + from * size_of(w.parts[i].dtype), bytes.size()), 0) << i;
      }
      quant::format(id).unpack(rank.stream, dense, w);
      std::vector<float> rows(size_t(3 * shape[1]));
      source->read(matrix, 2, {rows.data(), DType::f32, {3, shape[1]}});
      EXPECT_EQ(std::memcmp(rows.data(), dense.rows(2, 3).data, rows.size() * 4), 0);
    }
}

}  // namespace
}  // namespace thimble::store
