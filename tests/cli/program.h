// The program as its users run it: in a folder of its own that is gone afterwards, with a model of seeded weights and a tokenizer of letters.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "base/file.h"
#include "base/json.h"

namespace thimble::cli {

struct Answer {
  int code = -1;
  std::string text;  // standard output and error together
  bool says(std::string_view part) const { return text.find(part) != text.npos; }
};

class Program : public ::testing::Test {
 protected:
  Program() {
    std::string name = (fs::temp_directory_path() / "thimble-cli-XXXXXX").string();
    folder = ::mkdtemp(name.data());
  }
  ~Program() override { fs::remove_all(folder); }

  Answer thimble(const std::string& arguments) const {
    Answer a;
    std::FILE* pipe = ::popen(fmt::format("cd '{}' && '{}' {} 2>&1", folder.string(), THIMBLE_BINARY, arguments).c_str(), "r");
    if (!pipe) return a;
    char buffer[4096];
    for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) a.text.append(buffer, n);
    const int status = ::pclose(pipe);
    a.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return a;
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder / name).parent_path());
    write_atomically(folder / name, text);
  }
  std::string read(const std::string& name) const { return read_text(folder / name, int64_t{1} << 20); }
  Json json(const std::string& name) const { return parse_json(read(name), name); }

  static Json config(int64_t layers, int64_t hidden, int64_t ffn, int64_t heads, int64_t kv, int64_t vocab) {
    return {{"architectures", {"LlamaForCausalLM"}}, {"hidden_size", hidden}, {"intermediate_size", ffn}, {"num_hidden_layers", layers}, {"num_attention_heads", heads},
            {"num_key_value_heads", kv}, {"head_dim", 8}, {"vocab_size", vocab}, {"max_position_embeddings", 256}, {"torch_dtype", "float32"}};
  }
  // The folder "model": letters, a blank and what else is wanted, </s>; 2 layers.
  void make_model(const std::string& more = "") const {
    Json vocab = Json::object();
    for (const char c : "abcdefghijklmnopqrstuvwxyz " + more) vocab[std::string(1, c)] = vocab.size();
    const auto last = int(vocab.size());
    vocab["</s>"] = last;
    const Json end = {{"id", last}, {"content", "</s>"}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}};
    write("shape/config.json", config(2, 24, 40, 3, 1, last + 1).dump());
    write("shape/tokenizer.json", Json{{"added_tokens", {end}}, {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}}.dump());
    write("shape/tokenizer_config.json", R"({"eos_token": "</s>"})");
    const Answer made = thimble("init shape --out model --seed 3 --std 0.2");
    ASSERT_EQ(made.code, 0) << made.text;
  }
  void make_data() const {
    std::string rows;
    for (const auto& [prompt, response] : {std::pair{"say ab", "ab ab"}, {"say c", "c"}, {"who are you", "a thimble"}, {"count to a", "a b c d e f g"}})
      rows += Json{{"prompt", prompt}, {"response", response}}.dump() + "\n";
    write("rows.jsonl", rows);
  }

  fs::path folder;
};

}  // namespace thimble::cli
