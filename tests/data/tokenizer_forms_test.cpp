// Tokenizers that are not a tokenizer.json: tiktoken files, and SentencePiece files that lie.
#include "data/base64.h"
#include "data/sentencepiece_file.h"
#include "files.h"

namespace thimble::data {
namespace {

using Ids = std::vector<int32_t>;

void expect_refused(std::string_view bytes, std::string_view part) {
  Json config;
  const std::string found = error_of([&] { parse_sentencepiece(bytes, "tokenizer.model", config); });
  EXPECT_NE(found.find(part), std::string::npos) << "expected \"" << part << "\" in: " << found;
}

std::string field(int number, std::string_view bytes) {
  return std::string{char(number << 3 | 2), char(bytes.size())} + std::string(bytes);
}
std::string piece(std::string_view text) { return field(1, field(1, text)); }

}  // namespace

TEST(Base64, IsThatOfTheStandard) {
  EXPECT_EQ(from_base64("Zm9vYmFy"), "foobar");
  EXPECT_EQ(from_base64("Zm8="), "fo");
  EXPECT_EQ(from_base64("Zg=="), "f");
  EXPECT_EQ(from_base64(""), "");
  for (const char* bad : {"Zg", "Z===", "Zm9v!", "Zm 9", "====", "Z-9v"}) EXPECT_FALSE(from_base64(bad)) << bad;
}

// 256 bytes, then "ab", "abc" and "bc": of two ways to "abc" the one with the lower halves comes first, and ranks decide.
TEST(Tiktoken, RanksAreMerges) {
  const TemporaryFolder folder;
  std::string lines;
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int b = 0; b < 256; ++b) lines += fmt::format("{}{}== {}\n", letters[size_t(b >> 2)], letters[size_t((b & 3) << 4)], b);
  folder.write("tokenizer.model", lines + "YmM= 256\nYWI= 257\nYWJj 258\r\n");
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"259": {"content": "<|end|>", "special": true}}, "eos_token": "<|end|>"})");
  const auto t = Tokenizer::open(folder.path);
  EXPECT_EQ(t->encode("abc"), (Ids{258}));
  EXPECT_EQ(t->encode("abcbc"), (Ids{258, 256}));
  EXPECT_EQ(t->encode("ab1234"), (Ids{257, 49, 50, 51, 52}));
  EXPECT_EQ(t->eos(), 259);
  EXPECT_EQ(t->decode(t->encode("né\n")), "né\n");
}

TEST(Tiktoken, DamagedLinesAreNamed) {
  const auto refused = [](std::string_view text, std::string_view part) {
    const TemporaryFolder folder;
    folder.write("x.tiktoken", text);
    EXPECT_NE(error_of([&] { Tokenizer::open(folder.path); }).find(part), std::string::npos) << text;
  };
  refused("YQ== 0\nYg== x\n", "line 2");
  refused("YQ== 0\nYg=\n", "line 2");
  refused("YQ== 0\nYg== 0\n", "one id");
  refused("YQ== 0\nYQ== 1\n", "twice");
  refused("YQ== 0\nYg== 99999999999\n", "out of range");
  refused("YQ== -1\n", "out of range");
  refused("YQ== 0\n == 1\n", "line 2");
}

TEST(SentencePiece, DamagedFilesAreRefused) {
  const std::string good = read_text(golden("sentencepiece_bpe.model"));
  Json config;
  EXPECT_NO_THROW(parse_sentencepiece(good, "tokenizer.model", config));
  expect_refused(std::string_view(good).substr(0, 1000), "fewer");
  expect_refused("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "fewer");             // a length of 2^64 - 1
  expect_refused(std::string("\x08") + std::string(11, '\xff'), "at most ten bytes");  // a number without an end
  expect_refused("\x0b", "kind");
  expect_refused("\x08", "the end");
  expect_refused(piece("\xff\xfe"), "UTF-8");
  expect_refused(field(1, field(2, "xx")), "a float");
  expect_refused("", "unk_id");
  expect_refused(piece("a") + field(2, std::string("\x18\x04", 2)), "model_type");
  expect_refused(piece("a") + piece("a") + field(2, std::string("\x18\x02", 2)), "twice");
}

}  // namespace thimble::data
