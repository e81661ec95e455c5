// The program on folders and files that are damaged, hostile or contradict each other, a row a case: one error that says what and where, the exit
// code of its class, within seconds, and in memory that does not grow beyond twice the file. docs/bad-inputs.md lists the cases and all their tests.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <functional>

#include "cli/damaged_program.h"

namespace thimble::cli {
namespace {

class BadInput : public DamagedProgram {
 protected:
  std::string config_with(const std::string& key, const Json& value) const {
    Json c = json("model/config.json");
    c[key] = value;
    return c.dump();
  }
  std::string tokenizer_with(const std::function<void(Json&)>& change) const {
    Json t = json("model/tokenizer.json");
    change(t);
    return t.dump();
  }
};

std::string safetensors(std::string_view header, size_t data = 0) {
  const auto n = uint64_t(header.size());
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + std::string(header) + std::string(data, '\0');
}
std::string length(uint64_t n, std::string_view rest) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + std::string(rest);
}
std::string times(std::string_view s, int n) {
  std::string all;
  for (int i = 0; i < n; ++i) all += s;
  return all;
}

const std::string generate = "generate --model bad --prompt a --max-new-tokens 1 --threads 1";
const std::string converse = "generate --model bad --batch talk.jsonl --max-new-tokens 1 --threads 1";

// A file of the folder replaced by these bytes.
struct Replaced {
  int number;  // of docs/bad-inputs.md
  std::string file, bytes;
  std::vector<std::string_view> words;
};

TEST_F(BadInput, WeightsThatLie) {
  const int64_t usual = (fresh(), run(generate).peak);
  const std::string x = R"({"x":{"dtype":"F32","shape":)";
  const std::vector<Replaced> cases = {
      {1, "model.safetensors", "", {"too short"}},
      {1, "model.safetensors", "1234567", {"too short"}},
      {2, "model.safetensors", length(1000, "{}"), {"longer than it may be"}},
      {3, "model.safetensors", length(uint64_t{1} << 63, "{}"), {"longer than it may be"}},
      {4, "model.safetensors", safetensors("[]"), {"not a safetensors header"}},
      {5, "model.safetensors", safetensors("{\"\xff\":{}}"), {"cannot parse JSON"}},
      {6, "model.safetensors", safetensors("{}x"), {"cannot parse JSON"}},
      {7, "model.safetensors", safetensors(R"({"x":)" + std::string(100'000, '[')), {"nested deeper"}},
      {8, "model.safetensors", safetensors(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2), {"'x'", "twice"}},
      {10, "model.safetensors", safetensors(x + "[1],\"data_offsets\":[4,8]}}", 8), {"'x'", "hole"}},
      {10, "model.safetensors", safetensors(x + "[1],\"data_offsets\":[0,4]}}", 5), {"after the last"}},
      {11, "model.safetensors", safetensors(x + "[1],\"data_offsets\":[4,0]}}", 4), {"'x'", "outside the file"}},
      {11, "model.safetensors", safetensors(x + "[1],\"data_offsets\":[0,1e30]}}", 4), {"'x'", "data_offsets"}},
      {12, "model.safetensors", safetensors(x + "[2],\"data_offsets\":[0,4]}}", 4), {"'x'", "do not match"}},
      {13, "model.safetensors", safetensors(x + "[9223372036854775807,0,2],\"data_offsets\":[0,0]}}"), {"'x'", "overflows"}},
      {14, "model.safetensors", safetensors(x + "[1" + times(",1", 9999) + "],\"data_offsets\":[0,4]}}", 4), {"'x'", "at most 64"}},
      {15, "model.safetensors", safetensors(R"({"x":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4), {"'x'", "f32"}},
      {16, "model.safetensors", safetensors(R"({"__metadata__":{"a":1}})"), {"__metadata__.a"}},
      {17, "model.safetensors", safetensors("{\"a\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1), {"name is not a name", "a?[2J"}},
      {26, "model.safetensors", safetensors(R"({"model.embed_tokens.weight":{"dtype":"F32","shape":[29,24],"data_offsets":[0,2784]}})", 2784), {"model.embed_tokens.weight", "(28, 24)", "(29, 24)"}},
  };
  for (const Replaced& c : cases) {
    fresh();
    write("bad/" + c.file, c.bytes);
    const Ended e = run(generate);
    const std::string of = fmt::format("case {}: {}", c.number, c.words.back());
    expect_refused(e, of, 3, c.words);
    EXPECT_NE(e.text.find(c.file), e.text.npos) << of << "\n" << e.text;
    EXPECT_LE(e.peak, usual + 2 * int64_t(c.bytes.size()) + (1 << 20)) << of;
  }
}

TEST_F(BadInput, IndexesThatLie) {
  const auto put = [&](const std::string& index) {
    fresh();
    fs::rename(folder / "bad/model.safetensors", folder / "bad/one.safetensors");
    write("bad/model.safetensors.index.json", index);
  };
  std::string all;  // every tensor of the model, as the index has them
  const std::string bytes = read("model/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const Json entries = parse_json(std::string_view(bytes).substr(8, header), "header");
  for (const auto& [name, entry] : entries.items())
    if (name != "__metadata__") all += fmt::format("{}\"{}\":\"one.safetensors\"", all.empty() ? "" : ",", name);
  const auto index = [&](std::string_view metadata, std::string_view map) { return fmt::format(R"({{"metadata":{},"weight_map":{{{}}}}})", metadata, map); };
  const size_t sum = bytes.size() - 8 - header;
  put(index(fmt::format(R"({{"total_size":{}}})", sum), all));
  EXPECT_EQ(run(generate).text.find("total_size"), std::string::npos);
  for (const std::string& size : {std::string("1"), std::to_string(sum + 1), std::to_string(sum) + "0.0"}) {
    put(index(fmt::format(R"({{"total_size":{}}})", size), all));
    const Ended e = run(generate);
    EXPECT_EQ(e.code, 0) << e.text;  // each shard was checked to its last byte: a wrong sum is a warning
    EXPECT_NE(e.text.find(fmt::format("and the tensors have {} bytes", sum)), std::string::npos) << e.text;
  }
  const std::tuple<const char*, std::string, std::vector<std::string_view>> cases[] = {
      {"a size below zero", index(R"({"total_size":-1})", all), {"metadata.total_size"}},
      {"half a byte", index(R"({"total_size":1.5})", all), {"metadata.total_size"}},
      {"a size of 2^64", index(R"({"total_size":18446744073709551616})", all), {"metadata.total_size"}},
      {"a size in words", index(R"({"total_size":"much"})", all), {"metadata.total_size"}},
      {"metadata that is a list", index("[1]", all), {"'metadata'", "an object"}},
      {"the folder above", index("{}", R"("x":"../model/model.safetensors")"), {"inside the folder"}},
      {"an absolute path", index("{}", R"("x":"/etc/passwd")"), {"inside the folder"}},
      {"a missing shard", index("{}", R"("x":"two.safetensors")"), {"a shard is missing", "two.safetensors"}},
      {"a tensor that its shard has not", index("{}", all + R"(,"x":"one.safetensors")"), {"does not hold what the index says", "one.safetensors"}},
      {"a tensor twice", index("{}", all + R"(,"model.norm.weight":"one.safetensors")"), {"twice", "model.norm.weight"}},
      {"no tensor", index("{}", ""), {"weight_map"}},
      {"a NUL", index("{}", all) + std::string(1, '\0'), {"a NUL at byte"}},
  };
  for (const auto& [of, text, words] : cases) {
    put(text);
    expect_refused(run(generate), of, 3, words);
  }
  put(index("{}", all + R"(,"lm_head.weight.":"two.safetensors")"));
  write("bad/two.safetensors", safetensors(R"({"lm_head.weight.":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"model.norm.weight":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2));
  expect_refused(run(generate), "a tensor in two shards", 3, {"two shards hold", "two.safetensors", "model.norm.weight"});
}

// Case 20: the bytes are whole and are no numbers.
TEST_F(BadInput, WeightsThatAreNotNumbers) {
  fresh();
  Ended e = run("inspect bad --check-tensors");
  EXPECT_EQ(e.code, 0) << e.text;
  EXPECT_NE(e.text.find("tensors are finite"), e.text.npos) << e.text;
  for (const auto& [value, found] : {std::pair{0x7fc00000u, "1 NaN and 0 infinite; 1 of"}, {0xff800000u, "0 NaN and 1 infinite; 1 of"}}) {
    std::string bytes = read("model/model.safetensors");
    std::memcpy(bytes.data() + bytes.size() - 4, &value, 4);
    write("bad/model.safetensors", bytes);
    e = run("inspect bad --check-tensors");
    expect_refused(e, found, 3, {"weights are not numbers", "model.safetensors, tensor '", found});
    expect_refused(run(generate), "generate", 3, {"logits are not numbers", "--check-tensors"});
    expect_refused(run(generate + " --temperature 1"), "generate", 3, {"logits are not numbers"});
  }
}

// Case 21: a pipe must not hang, a device must not end.
TEST_F(BadInput, WhatIsNoFile) {
  write("talk.jsonl", R"({"messages":[{"role":"user","content":"a"}]})");
  const auto in_the_way = [&](const std::string& file, const char* kind) {
    const fs::path path = folder / "bad" / file;
    fs::remove(path);
    if (kind == std::string_view("pipe")) {
      ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    } else if (kind == std::string_view("folder")) {
      fs::create_directory(path);
    } else if (kind == std::string_view("device")) {
      fs::create_symlink("/dev/zero", path);
    } else {
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      const std::string short_path = path.string().substr(0, sizeof address.sun_path - 1);
      std::strcpy(address.sun_path, short_path.c_str());
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
      ::close(fd);
    }
  };
  for (const char* file : {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"})
    for (const char* kind : {"pipe", "device", "folder", "socket"}) {
      fresh();
      in_the_way(file, kind);
      expect_refused(run(converse), fmt::format("{} {}", kind, file), 3, {file});
    }
  fresh();
  in_the_way("rows.jsonl", "pipe");
  expect_refused(run("data check bad/rows.jsonl --model model"), "data", 3, {"rows.jsonl"});
}

// Case 22: files whose size is all that they have.
TEST_F(BadInput, SparseFiles) {
  const int64_t usual = (fresh(), run(generate).peak);
  for (const char* file : {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}) {
    fresh();
    if (!fs::exists(folder / "bad" / file)) write(std::string("bad/") + file, "{");
    fs::resize_file(folder / "bad" / file, uintmax_t{1} << 40);
    const Ended e = run(generate);
    expect_refused(e, file, 3, {file});
    EXPECT_LE(e.peak, usual + (4 << 20)) << file;
  }
}

TEST_F(BadInput, ConfigsThatLie) {
  const int64_t usual = (fresh(), run(generate).peak);
  const auto config = [&](const char* key, const Json& value) { return config_with(key, value); };
  const auto config_text = [&](std::string_view from, std::string_view to) {
    std::string text = json("model/config.json").dump();
    return text.replace(text.find(from), from.size(), to);
  };
  const std::vector<Replaced> cases = {
      {23, "config.json", "", {"cannot parse JSON"}},
      {23, "config.json", "[]", {"an object"}},
      {23, "config.json", "\xef\xbb\xbf{}", {"byte order mark"}},
      {23, "config.json", "// a word\n{}", {"cannot parse JSON"}},
      {24, "config.json", config("hidden_size", 0), {"hidden_size"}},
      {24, "config.json", config("hidden_size", -1), {"hidden_size"}},
      {24, "config.json", config("hidden_size", 1e18), {"hidden_size"}},
      {24, "config.json", config("hidden_size", 4096.5), {"hidden_size"}},
      {24, "config.json", config("hidden_size", "4096"), {"hidden_size", "4096"}},
      {25, "config.json", config("num_key_value_heads", 0), {"num_key_value_heads"}},
      {25, "config.json", config("num_key_value_heads", 4), {"num_key_value_heads", "a divisor of 3"}},
      {25, "config.json", config("head_dim", 7), {"head_dim", "even"}},
      {26, "config.json", config("num_hidden_layers", 1'000'000'000), {"num_hidden_layers"}},
      {26, "config.json", config("vocab_size", 29), {"model.embed_tokens.weight", "(29, 24)"}},
      {26, "config.json", config("vocab_size", 20), {"more tokens than the model has rows", "ids below 20"}},
      {27, "config.json", config_text("\"head_dim\":8", "\"head_dim\":NaN"), {"cannot parse JSON"}},
      {27, "config.json", config_text("\"head_dim\":8", "\"head_dim\":1e999"), {"cannot parse JSON"}},
      {28, "config.json", config("rope_scaling", {{"rope_type", "spiral"}, {"factor", 2}}), {"rope_type", "spiral"}},
      {28, "config.json", config("rope_scaling", {{"rope_type", "linear"}, {"factor", 0}}), {"factor"}},
      {28, "config.json", config("rope_scaling", {{"rope_type", "longrope"}, {"short_factor", {1}}, {"long_factor", {1}}}), {"short_factor", "an array of 4"}},
      {29, "config.json", config("architectures", {"MixtralForCausalLM"}), {"MixtralForCausalLM", "LlamaForCausalLM"}},
      {29, "config.json", config("architectures", {"Qwen3MoeForCausalLM"}), {"Qwen3MoeForCausalLM"}},
      {30, "config.json", config("auto_map", {{"AutoModelForCausalLM", "code.Model"}}), {"code of its own"}},
      {30, "config.json", config("architectures", {"EvilForCausalLM"}), {"EvilForCausalLM", "Gemma3ForCausalLM"}},
      {31, "config.json", config("quantization_config", {{"quant_method", "gptq"}, {"bits", 0}, {"group_size", 0}}), {"gptq", "bitsandbytes"}},
      {31, "config.json", config("quantization_config", {{"quant_method", "awq"}, {"bits", 5}}), {"awq"}},
      {32, "config.json", config("eos_token_id", 28), {"eos_token_id", "below 28"}},
      {32, "config.json", config("eos_token_id", {27, 1'000'000}), {"eos_token_id", "1000000"}},
      {32, "config.json", config("eos_token_id", -1), {"eos_token_id"}},
      {32, "generation_config.json", R"({"eos_token_id":28})", {"eos_token_id", "below 28"}},
      {33, "generation_config.json", R"({"temperature":-1})", {"temperature"}},
      {33, "generation_config.json", R"({"top_p":1.5})", {"top_p"}},
      {33, "generation_config.json", R"({"top_k":-5})", {"top_k"}},
      {33, "generation_config.json", R"({"top_k":1e30})", {"top_k"}},
      {33, "generation_config.json", R"({"min_p":"much"})", {"min_p", "much"}},
      {33, "generation_config.json", R"({"repetition_penalty":0})", {"repetition_penalty"}},
      {33, "generation_config.json", R"({"do_sample":"yes"})", {"do_sample"}},
      {33, "generation_config.json", R"({"temperature":1e999})", {"cannot parse JSON"}},
      {33, "generation_config.json", "[]", {"an object"}},
      {34, "config.json", config("tie_word_embeddings", true), {"tie", "lm_head.weight", "model.embed_tokens.weight"}},
      {35, "config.json", config("torch_dtype", "float8"), {"torch_dtype", "float8"}},
  };
  for (const Replaced& c : cases) {
    fresh();
    write("bad/" + c.file, c.bytes);
    const Ended e = run(generate);
    const std::string of = fmt::format("case {}: {}", c.number, c.bytes.substr(0, 300));
    expect_refused(e, of, 3, c.words);
    EXPECT_LE(e.peak, usual + (2 << 20)) << of;
  }
  // What changes nothing that is done here is taken: other special tokens beyond the vocabulary, an attention kernel from a hub.
  for (const auto& [key, value] : {std::pair{"pad_token_id", Json(-1)}, {"pad_token_id", Json(28)}, {"bos_token_id", Json(1'000'000)}, {"_attn_implementation_internal", Json("hub/kernel")}}) {
    fresh();
    write("bad/config.json", config_with(key, value));
    EXPECT_EQ(run(generate).code, 0) << key;
  }
}

// A tied head may stand in the file once more, with the embedding's numbers.
TEST_F(BadInput, ATiedHeadBesideItself) {
  fresh();
  Json c = json("model/config.json");
  c["tie_word_embeddings"] = true;
  write("bad/config.json", c.dump());
  std::string bytes = read("model/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const Json entries = parse_json(std::string_view(bytes).substr(8, header), "header");
  const auto at = [&](const char* name) { return 8 + header + entries[name]["data_offsets"][0].get<size_t>(); };
  const size_t n = 28 * 24 * 4, embedding = at("model.embed_tokens.weight"), head = at("lm_head.weight");
  bytes.replace(head, n, bytes.substr(embedding, n));
  write("bad/model.safetensors", bytes);
  EXPECT_EQ(run(generate).code, 0);
  bytes[head + n - 1] ^= 1;
  write("bad/model.safetensors", bytes);
  expect_refused(run(generate), "one bit", 3, {"tie", "lm_head.weight", "set tie_word_embeddings to false"});
}

TEST_F(BadInput, TokenizersThatLie) {
  write("talk.jsonl", R"({"messages":[{"role":"user","content":"a"}]})");
  const int64_t usual = (fresh(), run(generate).peak);
  const auto tokenizer = [&](const std::function<void(Json&)>& change) { return tokenizer_with(change); };
  const auto model = [&](const char* key, const Json& value) { return tokenizer([&](Json& t) { t["model"][key] = value; }); };
  const auto part = [&](const char* key, const Json& value) { return tokenizer([&](Json& t) { t[key] = value; }); };
  const auto split = [&](const char* expression) { return part("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}}); };
  const auto added = [](int64_t id, std::string_view content) { return Json::array({{{"id", id}, {"content", content}}}); };
  const std::vector<Replaced> cases = {
      {36, "tokenizer.json", model("vocab", {{"a", 0}, {"b", 0}}), {"one id"}},
      {36, "tokenizer.json", model("vocab", {{"a", -1}}), {"out of range"}},
      {36, "tokenizer.json", model("vocab", {{"a", 2147483648}}), {"out of range"}},
      {36, "tokenizer.json", model("vocab", {{"a", "b"}}), {"model.vocab", "ids by token"}},
      {36, "tokenizer.json", model("vocab", 3), {"model.vocab"}},
      {37, "tokenizer.json", model("merges", {"a X"}), {"not in the vocabulary"}},
      {37, "tokenizer.json", model("merges", {"a a"}), {"not in the vocabulary"}},
      {37, "tokenizer.json", model("merges", {{"a", "b", "c"}}), {"two tokens"}},
      {37, "tokenizer.json", model("merges", {{"a", "b"}, 3}), {"model.merges"}},
      {37, "tokenizer.json", model("merges", {{"x", {{"a", "b"}}}}), {"model.merges"}},
      {39, "tokenizer.json", split("(a"), {"compiled"}},
      {39, "tokenizer.json", split("(?<=a+)b"), {"lookbehind"}},
      {40, "tokenizer.json", part("added_tokens", added(30, "")), {"1 to 1024"}},
      {40, "tokenizer.json", part("added_tokens", added(3, "<x>")), {"contradicts"}},
      {40, "tokenizer.json", part("added_tokens", {{"a", 1}}), {"added_tokens"}},
      {40, "tokenizer.json", part("added_tokens", 1), {"added_tokens"}},
      {41, "tokenizer.json", part("normalizer", {{"type", "Sideways"}}), {"Sideways"}},
      {41, "tokenizer.json", part("decoder", {{"type", "Sideways"}}), {"Sideways"}},
      {42, "tokenizer.json", model("byte_fallback", true), {"<0x00>"}},
      {43, "tokenizer.json", "{\"a\":\"\\ud800\"}", {"cannot parse JSON"}},
      {43, "tokenizer.json", "{}" + std::string(1, '\0'), {"a NUL"}},
      {46, "chat_template.jinja", "{% for i in range(10**18) %}x{% endfor %}", {"more than 100000"}},
      {46, "chat_template.jinja", times("{% for i in range(99999) %}", 3) + times("{% endfor %}", 3), {"steps"}},
      {46, "chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {"nests deeper"}},
      {46, "chat_template.jinja", "{{ 'a' * 10**9 }}", {"grows beyond"}},
      {46, "chat_template.jinja", "{{ " + times("(", 50'000) + "1" + times(")", 50'000) + " }}", {"nesting"}},
      {46, "chat_template.jinja", "{{ ''.__class__ }}", {"not for templates"}},
      {46, "chat_template.jinja", "{{ nothing.x }}", {"line 1"}},
      {46, "chat_template.jinja", "{{ raise_exception('only users speak') }}", {"only users speak"}},
  };
  for (const Replaced& c : cases) {
    fresh();
    write("bad/" + c.file, c.bytes);
    const Ended e = run(converse);
    const std::string of = fmt::format("case {}: {}", c.number, c.bytes.substr(0, 60));
    expect_refused(e, of, 3, c.words);
    EXPECT_NE(e.text.find(c.file), e.text.npos) << of << "\n" << e.text;
    EXPECT_LE(e.peak, usual + (48 << 20)) << of;  // a template may use what its limits allow
  }
  fresh();
  fs::rename(folder / "bad/tokenizer.json", folder / "tokenizer.json");
  expect_refused(run(converse), "no tokenizer", 3, {"no tokenizer"});
  write("bad/tokenizer.model", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
  expect_refused(run(converse), "case 45", 3, {"tokenizer.model", "SentencePiece"});
}

// A token that was added for pictures lies beyond the rows of a model that has none: only a text that holds it is refused.
TEST_F(BadInput, AnAddedTokenBeyondTheModel) {
  fresh();
  write("bad/tokenizer.json", tokenizer_with([](Json& t) { t["added_tokens"].push_back({{"id", 28}, {"content", "<picture>"}, {"special", true}}); }));
  EXPECT_EQ(run(generate).code, 0);
  expect_refused(run("generate --model bad --prompt 'a<picture>' --max-new-tokens 1 --threads 1"), "the picture", 3, {"no row for", "<picture>", "28"});
}

TEST_F(BadInput, TextsThatLie) {
  fresh();
  for (const char* text : {"$(printf 'a\\377')", "$(printf 'a\\355\\240\\200')", "$(printf '\\300\\257')"}) expect_refused(run(fmt::format("generate --model bad --prompt \"{}\" --threads 1", text)), text, 3, {"UTF-8"});
  EXPECT_NE(run("inspect \"$(printf 'a\\377')\"").code, 0);
  write("long.jsonl", R"({"prompt":")" + std::string(2000, 'a') + "\"}");
  expect_refused(run("generate --model bad --batch long.jsonl --threads 1"), "a prompt beyond the context", 2, {"context"});
}

}  // namespace
}  // namespace thimble::cli
