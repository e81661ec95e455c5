// Memory under twice the file: 24 MB of each kind of text, built so that a reader who keeps a tree of it, or room for what it announces, would take
// ten to fifty times as much. What the program takes on a good folder comes on top.
#include <cstring>
#include <functional>

#include "cli/damaged_program.h"

namespace thimble::cli {
namespace {

constexpr int64_t large = 24'000'000;

class BadMemory : public DamagedProgram {
 protected:
  // Written piece by piece: what this process holds would be counted as its child's.
  void write_large(const std::string& name, std::string_view begin, const std::function<std::string(int64_t)>& piece, std::string_view end, int64_t size = large) const {
    AtomicFile file(folder / name);
    std::string some(begin);
    int64_t bytes = 0;
    const auto flush = [&] {
      file.write(some.data(), int64_t(some.size()));
      bytes += int64_t(some.size());
      some.clear();
    };
    for (int64_t i = 0; bytes + int64_t(some.size()) < size; ++i) {
      some += piece(i);
      if (some.size() > 65536) flush();
    }
    some += end;
    flush();
    file.commit();
  }
  // Eight bytes before it: its length.
  void write_header(const std::string& name, std::string_view begin, const std::function<std::string(int64_t)>& piece, std::string_view end) const {
    write_large(name, "12345678" + std::string(begin), piece, end);
    const auto n = uint64_t(fs::file_size(folder / name)) - 8;
    std::FILE* f = std::fopen((folder / name).c_str(), "r+b");
    std::fwrite(&n, 1, 8, f);
    std::fclose(f);
  }
};

TEST_F(BadMemory, IsUnderTwiceTheFile) {
  const std::string converse = "generate --model bad --batch talk.jsonl --max-new-tokens 1 --threads 1";
  write("talk.jsonl", R"({"messages":[{"role":"user","content":"a"}]})");
  const auto each = [](const char* text) { return [=](int64_t) { return std::string(text); }; };
  const auto named = [](const char* format) { return [=](int64_t i) { return fmt::format(fmt::runtime(format), i); }; };
  const struct {
    const char *of, *file;
    const char* begin;
    std::function<std::string(int64_t)> piece;
    const char* end;
    std::vector<std::string_view> words;
    bool header = false;
  } cases[] = {
      {"tensors of no bytes", "model.safetensors", "{", named(R"("{}":{{"dtype":"U8","shape":[],"data_offsets":[0,0]}},)"), "}", {"do not match"}, true},
      {"tensors in one place", "model.safetensors", "{", named(R"("{0:}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},)"), R"("x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", {"outside the file"}, true},
      {"a tensor many times", "model.safetensors", "{", each(R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"), R"("x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", {"twice"}, true},
      {"a tensor of lists", "model.safetensors", R"({"x":{"y":[)", each("[],"), "[]]}}", {"small parts"}, true},
      {"metadata of keys", "model.safetensors", R"({"__metadata__":{)", named(R"("{}":"",)"), R"("":""}})", {"small parts"}, true},
      {"an index of one tensor", "model.safetensors.index.json", R"({"weight_map":{)", each(R"("model.norm.weight":"one.safetensors",)"), R"("model.norm.weight":"one.safetensors"}})", {"twice"}},
      {"an index of lists", "model.safetensors.index.json", R"({"metadata":[)", each("[],"), "[]]}", {"small parts"}},
      {"a vocabulary", "tokenizer.json", R"({"model":{"vocab":{)", named("\"{0:x}\":{0},"), R"("a":0}}})", {"model.vocab", "a"}},
      {"merges", "tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":[)", each("\"a a\","), "\"a a\"]}}", {"merges"}},
      {"added tokens", "tokenizer.json", R"({"added_tokens":[)", named(R"({{"id":{0},"content":"{0}"}},)"), "0]}", {"added tokens"}},
      {"a normalizer of lists", "tokenizer.json", R"({"normalizer":[)", each("[],"), "[]]}", {"small parts"}},
      {"keys", "tokenizer.json", "{", named("\"{}\":0,"), "\"a\":0}", {"small parts"}},
      {"a config", "config.json", R"({"a":[)", each("0,"), "0]}", {"config.json", "larger"}},
      {"a generation config", "generation_config.json", R"({"a":[)", each("0,"), "0]}", {"generation_config.json", "larger"}},
      {"a tokenizer's config", "tokenizer_config.json", R"({"chat_template":")", each("{{ a }}"), "\"}", {"tokenizer_config.json", "larger"}},
      {"a template", "chat_template.jinja", "", each("{{ a }}"), "", {"chat_template.jinja", "larger"}},
      {"SentencePiece", "tokenizer.model", "", each("\x0a\x05\x0a\x03" "abc"), "", {"tokenizer.model", "larger"}},
      {"tiktoken", "tokenizer.model", "", named("YQ== {}\n"), "", {"tokenizer.model", "larger"}},
  };
  fresh();
  const int64_t usual = run(converse).peak;
  for (const auto& c : cases) {
    fresh();
    const std::string file = std::string("bad/") + c.file;
    if (c.file == std::string_view("model.safetensors.index.json")) fs::rename(folder / "bad/model.safetensors", folder / "bad/one.safetensors");
    if (c.file == std::string_view("tokenizer.model")) fs::remove(folder / "bad/tokenizer.json");
    c.header ? write_header(file, c.begin, c.piece, c.end) : write_large(file, c.begin, c.piece, c.end);
    const Ended e = run(converse);
    expect_refused(e, c.of, 3, c.words);
    std::printf("%s: %.1f x\n", c.of, double(e.peak - usual) / double(large));
    EXPECT_LE(e.peak - usual, 2 * large) << c.of;
  }
}

// Files within their limits: 16 MiB of a tree are allowed whatever the text.
TEST_F(BadMemory, OfSmallFilesIsBounded) {
  const std::string converse = "generate --model bad --batch talk.jsonl --max-new-tokens 1 --threads 1";
  write("talk.jsonl", R"({"messages":[{"role":"user","content":"a"}]})");
  fresh();
  const int64_t usual = run(converse).peak;
  const struct {
    const char *file, *begin, *piece, *end;
    int64_t bytes;
    const char* word;
  } cases[] = {
      {"config.json", R"({"a":[)", "0,", "0]}", 4 << 20, "small parts"},
      {"config.json", R"({"a":[)", "\"\",", "0]}", 4 << 20, "small parts"},
      {"generation_config.json", R"({"a":[)", "{},", "0]}", 4 << 20, "small parts"},
      {"tokenizer_config.json", R"({"a":[)", "[[]],", "0]}", 4 << 20, "small parts"},
      {"tokenizer.model", "", "\x0a\x05\x0a\x03" "abc", "", (16 << 20) - 16, "pieces"},
      {"tokenizer.model", "", "YQ== 1\n", "", (16 << 20) - 16, "tokenizer.model"},
      {"chat_template.jinja", "", "{{a}}", "{{ b.c }}", (128 << 10) - 16, "line"},
      {"chat_template.jinja", "{{ [", "1,", "1] }}", (128 << 10) - 16, ""},
      {"chat_template.jinja", "", "{% if a %}{% endif %}", "{{ b.c }}", (128 << 10) - 32, "line"},
  };
  for (const auto& c : cases) {
    fresh();
    if (c.file == std::string_view("tokenizer.model")) fs::remove(folder / "bad/tokenizer.json");
    write_large(std::string("bad/") + c.file, c.begin, [&](int64_t) { return std::string(c.piece); }, c.end, c.bytes);
    const Ended e = run(converse);
    if (*c.word) expect_refused(e, c.piece, 3, {c.file, c.word});
    std::printf("%s %s: %.1f MiB of %.1f\n", c.file, c.piece, double(e.peak - usual) / 1048576, double(c.bytes) / 1048576);
    EXPECT_LE(e.peak - usual, 2 * c.bytes + (24 << 20)) << c.file << " " << c.piece;
  }
}

// A row of data has a limit of its own, 64 MiB. Beside it there may be the tree that it is read into, of 16 MiB.
TEST_F(BadMemory, OfARowIsUnderTwiceTheFile) {
  const int64_t usual = run("data check rows.jsonl --model model --threads 1").peak;
  const auto each = [](const char* text) { return [=](int64_t) { return std::string(text); }; };
  const std::tuple<const char*, const char*, const char*, const char*, const char*> cases[] = {
      {"a.jsonl", R"({"prompt":"a","response":[)", "[],", "[]]}\n", "small parts"},
      {"a.json", R"([{"prompt":"a","response":[)", "[],", "[]]}]", "small parts"},
      {"b.jsonl", "", "a", "\n", "JSON"},
      {"c.csv", "", "a,", "a\n", "too many columns"},
  };
  for (const auto& [file, begin, piece, end, word] : cases) {
    write_large(file, begin, each(piece), end);
    const Ended e = run(fmt::format("data check {} --model model --threads 1", file));
    EXPECT_EQ(e.code, 3) << e.text.substr(0, 500);
    EXPECT_NE(e.text.find(word), e.text.npos) << file << "\n" << e.text.substr(0, 500);
    std::printf("%s: %.1f x\n", file, double(e.peak - usual) / double(large));
    EXPECT_LE(e.peak - usual, 2 * large + (16 << 20)) << file;  // and a tree
  }
}

}  // namespace
}  // namespace thimble::cli
