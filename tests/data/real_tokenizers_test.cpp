// Ids of real tokenizer files beside those of the reference, line by line. The files are not committed: tests/golden/real_tokenizers.py
// fetches them.
#include <cstdlib>
#include <vector>

#include "data/utf8.h"
#include "files.h"

namespace thimble::data {
namespace {

uint64_t hash_of(std::string_view bytes) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

std::string hash_of(const std::vector<int32_t>& ids) {
  std::string bytes;
  for (const int32_t id : ids)
    for (int shift = 0; shift < 32; shift += 8) bytes += char(uint32_t(id) >> shift & 0xff);
  return fmt::format("{:016x}", hash_of(bytes)).substr(0, 8);
}

std::string text_of(const Json& line) {
  if (line.is_string()) return line.get<std::string>();
  std::string text;
  for (int64_t n = line["times"].get<int64_t>(); n > 0; --n) text += line["text"].get<std::string>();
  return text;
}

// Byte-level without a normalizer that changes text: what was encoded comes back as it was.
bool is_lossless(std::string_view name) {
  return !name.starts_with("claude") && !name.starts_with("mistral") && !name.starts_with("unigram");
}

void expect_equal(const fs::path& folder, const std::string& name, const Json& corpus, const Json& golden) {
  SCOPED_TRACE(folder.filename().string());
  const auto t = Tokenizer::open(folder);
  std::string texts;
  size_t count = 0, wrong = 0;
  for (size_t i = 0; i < corpus.size(); ++i) {
    const std::string text = text_of(corpus[i]);
    const auto ids = t->encode(text, false);
    count += ids.size();
    if (hash_of(ids) != golden["ids"][i].get<std::string>() && ++wrong < 10) ADD_FAILURE() << "line " << i << ": " << corpus[i].dump();
    const std::string decoded = t->decode(ids, false);
    if (corpus[i].is_string()) texts += decoded + '\0';
    if (is_lossless(name) && decoded != text) ADD_FAILURE() << "changed: " << corpus[i].dump();
  }
  EXPECT_EQ(count, golden["tokens"].get<size_t>());
  EXPECT_EQ(fmt::format("{:016x}", hash_of(texts)), golden["texts"].get<std::string>());
}

}  // namespace

TEST(RealTokenizers, EqualTheReference) {
  const char* folder = std::getenv("THIMBLE_TOKENIZERS");
  if (!folder) GTEST_SKIP() << "THIMBLE_TOKENIZERS names no folder (tests/golden/real_tokenizers.py makes one)";
  const Json golden = parse_json(read_text(golden_folder() / "real_tokenizers.json"), "real_tokenizers.json");
  for (const auto& [name, of_name] : golden["tokenizers"].items()) {
    int forms = 0;
    for (const char* form : {"", "-json"}) {
      const fs::path home = fs::path(folder) / (name + form);
      if (!fs::exists(home)) continue;
      ++forms;
      expect_equal(home, name, golden["corpus"], of_name);
    }
    EXPECT_GT(forms, 0) << name;
  }
}

}  // namespace thimble::data
