// The header of a safetensors file: a table of lies, each refused by name; random damage; and files that are read back as written.
#include "store/safetensors.h"

#include <sys/stat.h>

#include "base/philox.h"
#include "files.h"
#include "store/odd_numbers.h"

namespace thimble::store {
namespace {

struct Lie {
  const char* of;
  std::string header;
  size_t data;
  std::vector<std::string_view> words;
};

std::string entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"x":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}
std::string two(std::string_view a, std::string_view b) {
  return fmt::format(R"({{"a":{{"dtype":"F32","shape":[2],"data_offsets":{}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{}}}}})", a,
                     b);
}
std::string named(std::string_view name) { return fmt::format(R"({{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}})", name); }

const std::vector<Lie> lies = {
    {"an empty header", "", 0, {"not a safetensors header"}},
    {"an array", "[]", 0, {"not a safetensors header"}},
    {"a space first", " {}", 0, {"not a safetensors header"}},
    {"not JSON", "{nonsense}", 0, {"cannot parse JSON"}},
    {"torn JSON", R"({"x":{"dtype":"F32")", 0, {"cannot parse JSON"}},
    {"bytes after the JSON", "{}xyz", 0, {"cannot parse JSON"}},
    {"a NUL after the JSON", std::string("{}\0\0", 4), 0, {"a NUL"}},
    {"a comment", "{/**/}", 0, {"cannot parse JSON"}},
    {"bad UTF-8", "{\"\xff\":{}}", 0, {"cannot parse JSON"}},
    {"deep JSON", R"({"x":)" + std::string(100000, '['), 0, {"nested deeper"}},
    {"a name twice",
     R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
     2,
     {"twice"}},
    {"a field twice", R"({"x":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, {"twice"}},
    {"an entry that is a list", R"({"x":[]})", 0, {"'x'", "not an object"}},
    {"an entry that is null", R"({"x":null})", 0, {"'x'", "not an object"}},
    {"no dtype", R"({"x":{"shape":[1],"data_offsets":[0,1]}})", 1, {"'x'", "'dtype'"}},
    {"no shape", R"({"x":{"dtype":"U8","data_offsets":[0,1]}})", 1, {"'x'", "'shape'"}},
    {"no offsets", R"({"x":{"dtype":"U8","shape":[1]}})", 1, {"'x'", "'data_offsets'"}},
    {"an unknown dtype", entry("F128", "[1]", "[0,16]"), 16, {"'x'", "element type", "F128"}},
    {"a dtype in lower case", entry("f32", "[1]", "[0,4]"), 4, {"'x'", "element type", "f32"}},
    {"a dtype that is a number", R"({"x":{"dtype":4,"shape":[1],"data_offsets":[0,1]}})", 1, {"'x'", "'dtype'"}},
    {"bits that fill no byte", entry("F4", "[3]", "[0,1]"), 1, {"'x'", "whole number of bytes"}},
    {"a shape that is a number", entry("U8", "1", "[0,1]"), 1, {"'x'", "'shape'"}},
    {"a negative dimension", entry("F32", "[-1]", "[0,4]"), 4, {"'x'", "'shape'", "negative"}},
    {"two negative dimensions", entry("F32", "[-2,-2]", "[0,16]"), 16, {"'x'", "'shape'", "negative"}},
    {"a fraction of a dimension", entry("F32", "[1.5]", "[0,6]"), 6, {"'x'", "'shape'"}},
    {"a dimension that is text", entry("F32", R"(["2"])", "[0,8]"), 8, {"'x'", "'shape'"}},
    {"a dimension of 2^64 - 1", entry("F32", "[18446744073709551615]", "[0,4]"), 4, {"'x'", "'shape'"}},
    {"a dimension of 1e30", entry("F32", "[1e30]", "[0,4]"), 4, {"'x'", "'shape'"}},
    {"a product of 2^64", entry("F32", "[4294967296,4294967296]", "[0,0]"), 0, {"'x'", "overflows"}},
    {"a product that wraps to the truth", entry("U8", "[4294967297,4294967297]", "[0,8589934593]"), 8, {"'x'", "overflows"}},
    {"bits that overflow", entry("F64", "[1152921504606846976]", "[0,0]"), 0, {"'x'", "overflows"}},
    {"an overflow hidden by a zero", entry("F32", "[9223372036854775807,0,2]", "[0,0]"), 0, {"'x'", "overflows"}},
    {"an overflow behind a zero", entry("F32", "[0,9223372036854775807,2]", "[0,0]"), 0, {"'x'", "overflows"}},
    {"five dimensions", entry("U8", "[1,1,1,1,1]", "[0,1]"), 1, {"'x'", "too many dimensions"}},
    {"65 dimensions",
     entry(
         "U8",
         "[1" +
             [] {
               std::string s;
               for (int i = 0; i < 64; ++i) s += ",1";
               return s;
             }() +
             "]",
         "[0,1]"),
     1,
     {"'x'", "'shape'"}},
    {"one offset", entry("U8", "[1]", "[0]"), 1, {"'x'", "data_offsets"}},
    {"three offsets", entry("U8", "[1]", "[0,1,2]"), 1, {"'x'", "data_offsets"}},
    {"reversed offsets", entry("U8", "[1]", "[1,0]"), 1, {"'x'", "outside the file"}},
    {"a negative offset", entry("U8", "[1]", "[-1,0]"), 1, {"'x'", "'data_offsets'", "negative"}},
    {"offsets that are fractions", entry("U8", "[1]", "[0.0,1.0]"), 1, {"'x'", "'data_offsets'"}},
    {"an offset of 1e30", entry("U8", "[1]", "[0,1e30]"), 1, {"'x'", "'data_offsets'"}},
    {"an end beyond the file", entry("U8", "[2]", "[0,2]"), 1, {"'x'", "outside the file"}},
    {"an end of 2^63 - 1", entry("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 1, {"'x'"}},
    {"fewer bytes than its shape", entry("F32", "[3]", "[0,8]"), 8, {"'x'", "do not match", "12 bytes", "8 bytes"}},
    {"more bytes than its shape", entry("F32", "[1]", "[0,8]"), 8, {"'x'", "do not match"}},
    {"an odd number of bytes", entry("BF16", "[1]", "[0,3]"), 3, {"'x'", "do not match"}},
    {"the same bytes twice", two("[0,8]", "[0,8]"), 8, {"overlap"}},
    {"a partial overlap", two("[0,8]", "[4,12]"), 12, {"'b'", "overlap"}},
    {"a hole", two("[0,8]", "[12,20]"), 20, {"'b'", "hole"}},
    {"a hole before the first", entry("F32", "[1]", "[4,8]"), 8, {"'x'", "hole"}},
    {"bytes after the last", entry("F32", "[1]", "[0,4]"), 9, {"after the last"}},
    {"data without tensors", "{}", 1, {"after the last"}},
    {"metadata that is a list", R"({"__metadata__":[]})", 0, {"__metadata__"}},
    {"metadata that is a number", R"({"__metadata__":{"format":1}})", 0, {"__metadata__.format", "a string"}},
    {"an empty name", named(""), 1, {"name is not a name"}},
    {"a NUL in a name", named("a\\u0000b"), 1, {"name is not a name", "a?b"}},
    {"an escape in a name", named("a\\u001b[2J"), 1, {"name is not a name"}},
    {"an escape late in a name", named(std::string(300, 'y') + "\\u001b[2J"), 1, {"name is not a name"}},
    {"a name of 1 MB", named(std::string(1 << 20, 'y')), 1, {"name is not a name", "1048576 bytes"}},
};

TEST(Safetensors, EveryLieOfAHeaderIsRefused) {
  const Folder folder;
  for (const Lie& lie : lies) {
    const auto path = folder.put("x.safetensors", file_of(lie.header, lie.data));
    expect_refused([&] { SafetensorsFile file(path); }, lie.words, lie.of);
  }
}

TEST(Safetensors, LengthsThatAreNotTheHeaders) {
  const Folder folder;
  for (size_t n = 0; n < 8; ++n)
    expect_refused([&] { SafetensorsFile f(folder.put("x", std::string(n, '\0'))); }, {"too short"}, std::to_string(n) + " bytes");
  for (const uint64_t length : {uint64_t{3}, uint64_t{100'000'001}, uint64_t{1} << 32, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 7}) {
    std::string bytes = file_of("{}");
    std::memcpy(bytes.data(), &length, 8);
    expect_refused([&] { SafetensorsFile f(folder.put("x", bytes)); }, {"longer than it may be", "2 bytes"}, std::to_string(length));
  }
  // A header that the file could hold is refused by the limit, before anything of its size is made.
  std::string bytes = file_of("{}");
  const uint64_t length = 100'000'001;
  std::memcpy(bytes.data(), &length, 8);
  const auto path = folder.put("x", bytes);
  fs::resize_file(path, uintmax_t{1} << 36);
  expect_refused([&] { SafetensorsFile f(path); }, {"100000000 bytes"});
}

TEST(Safetensors, OnlyRegularFiles) {
  const Folder folder;
  ASSERT_EQ(::mkfifo((folder.path / "fifo").c_str(), 0600), 0);
  for (const fs::path& path : {folder.path, folder.path / "fifo", fs::path("/dev/zero")})
    expect_refused([&] { SafetensorsFile f(path); }, {"not a regular file"}, path.string());
  expect_refused([&] { SafetensorsFile f(folder.path / "absent"); }, {"No such file"});
}

TEST(Safetensors, ATornFileIsRefusedAtEveryLength) {
  const Folder folder;
  write_numbers(folder.path / "whole", {{"a", DType::f32, {3, 2}}, {"b", DType::bf16, {5}}});
  const std::string whole = read_text(folder.path / "whole");
  for (size_t n = 0; n < whole.size(); ++n)
    expect_refused([&] { SafetensorsFile f(folder.put("torn", whole.substr(0, n))); }, {"torn"}, std::to_string(n));
}

// Whatever a few damaged bytes do: an Error, or a file whose tensors lie inside it.
TEST(Safetensors, RandomDamageNeverReachesBeyondTheFile) {
  const Folder folder;
  write_numbers(folder.path / "whole", {{"a", DType::f32, {3, 2}}, {"b", DType::bf16, {5}}, {"c", DType::f16, {1}}});
  const std::string whole = read_text(folder.path / "whole");
  int accepted = 0;
  for (uint64_t round = 0; round < 500; ++round) {
    std::string bytes = whole;
    const auto r = philox(7, 0, round);
    for (int k = 0; k < 1 + int(r[0] % 3); ++k) {
      const char* printable = "0123456789[]{},:\"-eFBU";
      bytes[r[1 + size_t(k)] % (whole.size() - 20)] = r[3 - size_t(k)] % 4 ? printable[(r[0] >> 8) % 22] : char(r[0] >> 24);
    }
    try {
      const SafetensorsFile f(folder.put("x", bytes));
      ++accepted;
      for (const auto& t : f.tensors()) {
        ASSERT_TRUE(t.begin >= 8 && t.begin <= t.end && t.end <= int64_t(bytes.size()));
        std::vector<float> room(size_t(t.shape.count()));
        f.read(t, 0, {room.data(), DType::f32, t.shape});
      }
    } catch (const Error& e) {
      ASSERT_EQ(e.fault(), Fault::bad_input) << e.what();
    }
  }
  EXPECT_GT(accepted, 0) << "damage of a name alone is none that a reader can see";
}

TEST(Safetensors, WhatIsWrittenIsReadInEveryType) {
  const Folder folder;
  const std::vector<Named> tensors = {{"a", DType::f32, {3, 5}},     {"b.weight", DType::bf16, {7}}, {"c", DType::f16, {2, 1, 3}},
                                      {"empty", DType::f32, {0, 4}}, {"one", DType::f32, {}},        {"d", DType::f16, {2, 2, 2, 2}}};
  write_numbers(folder.path / "x", tensors);
  const SafetensorsFile file(folder.path / "x");
  ASSERT_EQ(file.tensors().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("format"), "pt");
  for (size_t n = 0; n < tensors.size(); ++n) {
    const auto* info = file.find(tensors[n].name);
    ASSERT_TRUE(info && info->shape == tensors[n].shape) << tensors[n].name;
    for (const DType as : {DType::f32, DType::bf16, DType::f16}) {
      std::vector<float> room(size_t(info->shape.count()) + 1);
      const Tensor to{room.data(), as, info->shape};
      file.read(*info, 0, to);
      visit_float(as, [&]<class T>(T) {
        for (int64_t i = 0; i < to.count(); ++i) ASSERT_EQ(float(to.get<T>()[i]), number(n, i)) << tensors[n].name << " as " << name_of(as);
      });
    }
  }
  EXPECT_EQ(file.tensor("c").get<f16>()[5], number(2, 5));
  EXPECT_EQ(file.find("z"), nullptr);
  expect_refused([&] { (void)file.tensor("z"); }, {"missing", "z"});
}

TEST(Safetensors, AReadOfManyPiecesAndOfAMiddle) {
  const Folder folder;
  write_numbers(folder.path / "x", {{"a", DType::bf16, {1000003}}});
  const SafetensorsFile file(folder.path / "x");
  std::vector<float> all(1000003), middle(600001);
  file.read(file.tensors()[0], 0, {all.data(), DType::f32, {1000003}});
  file.read(file.tensors()[0], 200002, {middle.data(), DType::f32, {600001}});
  int64_t wrong = 0;
  for (int64_t i = 0; i < 1000003; ++i) wrong += all[size_t(i)] != number(0, i);
  for (int64_t i = 0; i < 600001; ++i) wrong += middle[size_t(i)] != number(0, 200002 + i);
  EXPECT_EQ(wrong, 0);
  EXPECT_THROW(file.read(file.tensors()[0], 1, {all.data(), DType::f32, {1000003}}), Error);
}

// The format does not promise alignment, and older writers gave none.
TEST(Safetensors, TensorsAtOddPlacesAreReadButNotViewed) {
  const Folder folder;
  std::string bytes =
      file_of(R"({"u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})", 9);
  const float values[] = {1.5f, -2};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  const SafetensorsFile file(folder.put("x", bytes));
  float read[2] = {};
  bf16 narrow[2];
  file.read(*file.find("x"), 0, {read, DType::f32, {2}});
  file.read(*file.find("x"), 0, {narrow, DType::bf16, {2}});
  EXPECT_EQ(read[0], 1.5f);
  EXPECT_EQ(float(narrow[1]), -2.0f);
  if (file.find("x")->begin % 4) expect_refused([&] { (void)file.tensor("x"); }, {"'x'", "aligned"});
  expect_refused([&] { file.read(*file.find("u"), 0, {read, DType::f32, {1}}); }, {"'u'", "F32, BF16 or F16", "U8"});
}

TEST(Safetensors, TypesThatAreListedButNotRead) {
  const Folder folder;
  const SafetensorsFile file(folder.put("x", file_of(entry("F64", "[1]", "[0,8]"), 8)));
  EXPECT_EQ(file.tensors()[0].type, "F64");
  expect_refused([&] { (void)file.tensor("x"); }, {"'x'", "not read here", "F64"});
  float to = 0;
  expect_refused([&] { file.read(file.tensors()[0], 0, {&to, DType::f32, {1}}); }, {"'x'", "F64"});
}

TEST(Safetensors, AFileThatIsCutShortWhileItIsReadIsAnErrorAndNoSignal) {
  const Folder folder;
  write_numbers(folder.path / "x", {{"a", DType::f32, {100000}}});
  const SafetensorsFile file(folder.path / "x");
  fs::resize_file(folder.path / "x", 4096);
  std::vector<float> to(100000);
  expect_refused([&] { file.read(file.tensors()[0], 0, {to.data(), DType::f32, {100000}}); }, {"'a'", "shorter"});
}

// By hand: in each type a number, a subnormal one, an infinity where the type has one, a NaN.
TEST(Safetensors, OddNumbersAreCounted) {
  const Folder folder;
  const struct {
    const char* type;
    std::vector<uint64_t> bits;
    int width;
    int64_t nan, infinite, subnormal;
  } cases[] = {{"F64", {0x3ff0000000000000, 1, 0x7ff0000000000000, 0xfff8000000000000, 0}, 8, 1, 1, 1},
               {"F32", {0x3f800000, 0x807fffff, 0xff800000, 0x7fc00000, 0x7f800001, 0x80000000}, 4, 2, 1, 1},
               {"BF16", {0x3f80, 0x0001, 0x7f80, 0xffff, 0x0080}, 2, 1, 1, 1},
               {"F16", {0x3c00, 0x83ff, 0xfc00, 0x7c01, 0x0400}, 2, 1, 1, 1},
               {"F8_E5M2", {0x3c, 0x03, 0x7c, 0xfd, 0x04}, 1, 1, 1, 1},
               {"F8_E4M3", {0x38, 0x87, 0x78, 0x7e, 0x7f, 0xff, 0x08}, 1, 2, 0, 1},
               {"I32", {0x7fc00000}, 4, 0, 0, 0}};
  for (const auto& c : cases) {
    const size_t n = c.bits.size(), bytes = n * size_t(c.width);
    std::string file = file_of(entry(c.type, fmt::format("[{}]", n), fmt::format("[0,{}]", bytes)), bytes);
    for (size_t i = 0; i < n; ++i) std::memcpy(file.data() + file.size() - bytes + i * size_t(c.width), &c.bits[i], size_t(c.width));
    const SafetensorsFile f(folder.put("x", file));
    const OddNumbers odd = odd_numbers(f, f.tensors()[0]);
    EXPECT_EQ(odd.nan, c.nan) << c.type;
    EXPECT_EQ(odd.infinite, c.infinite) << c.type;
    EXPECT_EQ(odd.subnormal, c.subnormal) << c.type;
  }
}

TEST(Safetensors, NamesAreWrittenAsJson) {
  const Folder folder;
  const std::string name = "a \"quoted\" \\ name, \xc3\xa4";
  write_numbers(folder.path / "x", {{name, DType::f32, {1}}});
  EXPECT_NE(SafetensorsFile(folder.path / "x").find(name), nullptr);
  EXPECT_EQ(fs::file_size(folder.path / "x") % 4, 0u);
}

TEST(Safetensors, AWriterThatIsMisusedLeavesNothing) {
  const Folder folder;
  float values[4] = {};
  const std::vector<SafetensorsWriter::Declared> declared = {{"a", DType::f32, {2}}, {"b", DType::f16, {2}}};
  const auto misuse = [&](const std::function<void(SafetensorsWriter&)>& f) {
    SafetensorsWriter writer(folder.path / "x", declared);
    EXPECT_THROW(f(writer), Error);
  };
  misuse([&](auto& w) { w.commit(); });
  misuse([&](auto& w) { w.write({values, DType::f32, {3}}); });
  misuse([&](auto& w) { w.write({values, DType::f16, {2}}); });
  misuse([&](auto& w) { w.write({values, DType::f32, {2}}), w.commit(); });
  misuse([&](auto& w) { w.write({values, DType::f32, {2}}), w.write({values, DType::f16, {2}}), w.write({values, DType::f16, {1}}); });
  EXPECT_TRUE(fs::is_empty(folder.path));
}

TEST(Safetensors, TwentyThousandTensors) {
  const Folder folder;
  std::vector<Named> tensors;
  for (int i = 0; i < 20000; ++i) tensors.push_back({fmt::format("model.layers.{}.weight", i), DType::f16, {i % 1000 ? 0 : 1}});
  write_numbers(folder.path / "x", tensors);
  const SafetensorsFile file(folder.path / "x");
  EXPECT_EQ(file.tensors().size(), 20000u);
  EXPECT_EQ(file.tensor("model.layers.19000.weight").get<f16>()[0], number(19000, 0));
}

}  // namespace
}  // namespace thimble::store
