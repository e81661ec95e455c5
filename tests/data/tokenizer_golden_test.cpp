// Ids and texts against those of the reference tokenizers, case by case (tests/golden/tokens.json).
#include "data/stream_decoder.h"
#include "data/utf8.h"
#include "files.h"

namespace thimble::data {
namespace {

const Json& goldens() {
  static const Json all = parse_json(read_text(golden("tokens.json")), "tokens.json");
  return all;
}

std::vector<int32_t> ids_of(const Json& list) { return list.get<std::vector<int32_t>>(); }

void expect_equal(const Tokenizer& t, const Json& expected) {
  EXPECT_EQ(t.vocab_size(), expected["vocab_size"].get<int64_t>());
  ASSERT_GT(expected["cases"].size(), 50u);
  for (const Json& c : expected["cases"]) {
    const auto text = c["text"].get<std::string>();
    const auto with_special = ids_of(c["ids_with_special"]);
    EXPECT_EQ(t.encode(text, false), ids_of(c["ids"])) << c.dump();
    EXPECT_EQ(t.encode(text, true), with_special) << c.dump();
    EXPECT_EQ(t.decode(with_special, false), c["decoded"].get<std::string>()) << c.dump();
    EXPECT_EQ(t.decode(with_special, true), c["decoded_skip_special"].get<std::string>()) << c.dump();
  }
  for (const Json& c : expected["decode_cases"]) EXPECT_EQ(t.decode(ids_of(c["ids"]), false), c["decoded"].get<std::string>()) << c.dump();
}

// What comes piece by piece is what comes at once.
void expect_streams(const Tokenizer& t, const Json& expected) {
  for (const Json& c : expected["cases"]) {
    const auto ids = ids_of(c["ids_with_special"]);
    for (const bool skip : {true, false}) {
      StreamDecoder stream(t, skip);
      std::string all;
      for (const int32_t id : ids) {
        const std::string part = stream.push(id);
        EXPECT_EQ(first_invalid_utf8(part), part.npos);
        all += part;
      }
      all += stream.finish();
      EXPECT_EQ(all, t.decode(ids, skip)) << c.dump();
    }
  }
}

}  // namespace

TEST(TokenizerGolden, Llama3) {
  const auto t = golden_tokenizer("bytelevel_llama3.json");
  expect_equal(*t, goldens()["bytelevel_llama3"]);
  expect_streams(*t, goldens()["bytelevel_llama3"]);
}

TEST(TokenizerGolden, Gpt2) {
  const auto t = golden_tokenizer("bytelevel_gpt2.json");
  expect_equal(*t, goldens()["bytelevel_gpt2"]);
  expect_streams(*t, goldens()["bytelevel_gpt2"]);
}

TEST(TokenizerGolden, Stories) {
  if (!fs::exists(stories_folder())) GTEST_SKIP() << "../shared/data/stories260K is absent";
  const auto t = Tokenizer::open(stories_folder());
  expect_equal(*t, goldens()["stories260k"]);
  expect_streams(*t, goldens()["stories260k"]);
  EXPECT_EQ(t->bos(), 1);
  EXPECT_EQ(t->eos(), 2);
  EXPECT_EQ(t->encode("Once upon a time"), (std::vector<int32_t>{1, 403, 407, 261, 378}));
  EXPECT_EQ(t->encode("One day, Lily met a"), (std::vector<int32_t>{1, 385, 328, 432, 317, 284, 316, 261}));
  EXPECT_EQ(t->encode(""), (std::vector<int32_t>{1}));
}

// Models of SentencePiece itself, without a tokenizer.json (tests/golden/sentencepiece_models.py).
TEST(TokenizerGolden, SentencePiece) {
  const Json expected = parse_json(read_text(golden("sentencepiece.json")), "sentencepiece.json");
  for (const std::string kind : {"bpe", "unigram"}) {
    const TemporaryFolder folder;
    folder.write("tokenizer.model", read_text(golden("sentencepiece_" + kind + ".model")));
    const auto t = Tokenizer::open(folder.path);
    ASSERT_GT(expected[kind].size(), 50u);
    for (const Json& c : expected[kind]) {
      const auto text = c["text"].get<std::string>();
      EXPECT_EQ(t->encode(text, false), ids_of(c["ids"])) << kind << c.dump();
      EXPECT_EQ(t->decode(ids_of(c["ids"]), false), c["decoded"].get<std::string>()) << kind << c.dump();
    }
    EXPECT_EQ(t->bos(), 1);
    EXPECT_EQ(t->eos(), 2);
    EXPECT_EQ(t->before(), kind == "bpe" ? std::vector<int32_t>{1} : std::vector<int32_t>{});
  }
}

}  // namespace thimble::data
