// The same of what a run is given: adapters, data, recipes, places and words of the command line.
#include <sys/stat.h>

#include <cstring>

#include "cli/damaged_program.h"

namespace thimble::cli {
namespace {

class BadRun : public DamagedProgram {
 protected:
  void make_adapter() const {
    const Ended e = run(train + "output_dir=adapter");
    ASSERT_EQ(e.code, 0) << e.text;
  }
  void adapter_with(const char* key, const Json& value) const {
    fs::remove_all(folder / "bad");
    fs::copy(folder / "adapter", folder / "bad", fs::copy_options::recursive);
    Json c = json("adapter/adapter_config.json");
    c[key] = value;
    write("bad/adapter_config.json", c.dump());
  }
  const std::string train = "train model_name_or_path=model dataset=rows.jsonl threads=1 cutoff_len=64 vram=64MiB ram=512MiB per_device_train_batch_size=2 lora_rank=4 max_steps=1 tokenized_path=kept ";
};

TEST_F(BadRun, Adapters) {
  make_adapter();
  const std::string use = "generate --model model --adapter bad --prompt a --max-new-tokens 1 --threads 1";
  const struct {
    int number;
    const char* key;
    Json value;
    std::vector<std::string_view> words;
  } cases[] = {
      {58, "r", 5, {"(5, ", "(4, "}},
      {58, "r", 0, {"'r'"}},
      {58, "r", -4, {"'r'"}},
      {58, "lora_alpha", "NaN", {"'lora_alpha'"}},
      {60, "target_modules", {"query_key_value"}, {"query_key_value", "fits no matrix"}},
      {60, "target_modules", "(q_proj", {"(q_proj"}},
      {60, "target_modules", Json::array(), {"'target_modules'"}},
      {61, "peft_type", "IA3", {"'peft_type'", "IA3"}},
      {61, "use_dora", true, {"lora_magnitude_vector"}},
      {61, "bias", "all", {"'bias'"}},
      {61, "modules_to_save", {"classifier"}, {"classifier", "embed_tokens or lm_head"}},
      {62, "modules_to_save", {"embed_tokens"}, {"embed_tokens"}},
  };
  for (const auto& c : cases) {
    adapter_with(c.key, c.value);
    expect_refused(run(use), fmt::format("case {}: {} {}", c.number, c.key, c.value.dump()), 3, c.words);
  }
  adapter_with("r", 4);
  const std::string bytes = read("bad/adapter_model.safetensors");
  write("bad/adapter_model.safetensors", bytes.substr(0, bytes.size() - 1));
  expect_refused(run(use), "a torn adapter", 3, {"adapter_model.safetensors"});
  fs::rename(folder / "bad/adapter_model.safetensors", folder / "bad/adapter_model.bin");
  expect_refused(run(use), "case 61: a pickle", 3, {"pickle", "safe_serialization"});

  // Case 59: of another base. Shapes that differ are an error, another name is a warning.
  Json shape = json("model/config.json");
  shape["hidden_size"] = 48;
  write("wide/config.json", shape.dump());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::copy_file(folder / "model" / name, folder / "wide" / name);
  ASSERT_EQ(run("init wide --out other").code, 0);
  adapter_with("r", 4);
  expect_refused(run("generate --model other --adapter bad --prompt a --threads 1"), "another base", 3, {"(4, 48)", "(4, 24)", "base"});
  EXPECT_EQ(run(use).text.find("was trained on"), std::string::npos);
  adapter_with("base_model_name_or_path", "someone/another-model");
  const Ended e = run(use);
  EXPECT_EQ(e.code, 0) << e.text;
  EXPECT_NE(e.text.find("was trained on someone/another-model"), e.text.npos) << e.text;
}

// Case 62: an adapter that holds an embedding of more rows than the model has.
TEST_F(BadRun, AnAdapterOfAResizedEmbedding) {
  const Ended trained = run(train + "output_dir=adapter additional_target=embed_tokens");
  ASSERT_EQ(trained.code, 0) << trained.text;
  Json shape = json("model/config.json");
  shape["vocab_size"] = 32;
  write("larger/config.json", shape.dump());
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) fs::copy_file(folder / "model" / name, folder / "larger" / name);
  ASSERT_EQ(run("init larger --out other").code, 0);
  expect_refused(run("generate --model other --adapter adapter --prompt a --threads 1"), "28 rows for 32", 3, {"embed_tokens", "(32, 24)", "(28, 24)"});
}

TEST_F(BadRun, Data) {
  const std::string good = R"({"prompt":"a","response":"b"})"
                           "\n";
  const std::string bomb = [] {
    std::string s = R"({"prompt":"a","response":)";
    return s + std::string(100'000, '[');
  }();
  const struct {
    int number;
    const char* file;
    std::string bytes;
    std::vector<std::string_view> words;
  } cases[] = {
      {63, "a.jsonl", good + "{\"prompt\":\"\xff\"}\n", {"a.jsonl:2", "UTF-8"}},
      {63, "a.jsonl", std::string("\xff\xfe{\0", 4), {"a.jsonl:1", "UTF-16", "iconv"}},
      {63, "a.jsonl", good + std::string("\0\n", 2), {"a.jsonl:2", "NUL"}},
      {64, "a.jsonl", "", {"a.jsonl", "no rows"}},
      {64, "a.jsonl", "\n \r\n", {"a.jsonl", "no rows"}},
      {65, "a.jsonl", good + "{\"prompt\":\"a\"", {"a.jsonl:2", "JSON"}},
      {65, "a.jsonl", good + R"({"prompt":"a","response":"b",})", {"a.jsonl:2", "JSON"}},
      {65, "a.jsonl", good + R"({"prompt":NaN,"response":"b"})", {"a.jsonl:2", "JSON"}},
      {65, "a.jsonl", good + R"({"prompt":"a","prompt":"a","response":"b"})", {"a.jsonl:2", "twice"}},
      {65, "a.jsonl", good + bomb, {"a.jsonl:2", "deeper"}},
      {66, "a.jsonl", R"({"instruction":"a","output":{"b":1}})", {"a.jsonl:1", "'output'"}},
      {66, "a.jsonl", R"({"messages":[{"role":"user","content":null}]})", {"a.jsonl:1", "content"}},
      {66, "a.jsonl", R"({"messages":[{"role":"wizard","content":"a"}]})", {"a.jsonl:1", "wizard"}},
      {69, "a.csv", "a,b\n1,\"2\n", {"a.csv:2", "never closed"}},
      {69, "a.csv", std::string(100'000, ','), {"a.csv:1", "too many columns"}},
      {70, "a.parquet", "PAR1PAR1", {"a.parquet", "12 bytes"}},
      {70, "a.parquet", "PAR1" + std::string(100, '\x1c') + std::string("\x64\0\0\0PAR1", 8), {"a.parquet", "32 levels"}},
      {70, "a.parquet", std::string("PAR1aaaa\xff\xff\xff\x7fPAR1", 16), {"a.parquet", "footer"}},
      {70, "a.parquet", std::string("PAR1aaaa\4\0\0\0PARE", 16), {"a.parquet", "encrypted"}},
      {71, "a.jsonl", R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":"../../x.png"}]}]})", {"a.jsonl:1", "parts of type text"}},
  };
  for (const auto& c : cases) {
    write(c.file, c.bytes);
    const std::string of = fmt::format("case {}: {}", c.number, c.bytes.substr(0, 60));
    const Ended checked = run(fmt::format("data check {} --model model --threads 1", c.file));
    EXPECT_EQ(checked.code, 3) << of << "\n" << checked.text;
    expect_refused(run(train + "output_dir=never dataset=" + c.file), of, 3, c.words);
    EXPECT_FALSE(fs::exists(folder / "never/adapter_model.safetensors")) << of;
    fs::remove_all(folder / "never");
  }
  // Case 64: 1 TiB that is one row; case 63: what is taken.
  write("a.jsonl", good);
  fs::resize_file(folder / "a.jsonl", uintmax_t{1} << 40);
  for (const std::string& command : {std::string("data check a.jsonl --model model --threads 1"), train + "output_dir=never dataset=a.jsonl"}) {
    const Ended endless = run(command);
    EXPECT_EQ(endless.code, 3) << endless.text;
    EXPECT_TRUE(endless.text.find("a.jsonl:2") != endless.text.npos && endless.text.find("64 MiB") != endless.text.npos) << endless.text;
  }
  write("a.jsonl", "\xef\xbb\xbf" + std::string(R"({"prompt":"a","response":"b"})") + "\r\n" + R"({"prompt":"c","response":"d"})");
  EXPECT_EQ(run("data check a.jsonl --model model --threads 1").code, 0);
  // Case 67: nothing to learn from.
  write("a.jsonl", R"({"prompt":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","response":"b"})");
  expect_refused(run(train + "output_dir=never dataset=a.jsonl cutoff_len=8"), "beyond the cutoff", 3, {"behind cutoff_len"});
}

// Case 68: dataset_info.json leads nowhere else and not in a circle.
TEST_F(BadRun, DescriptionsOfData) {
  const std::tuple<const char*, const char*, std::string_view> cases[] = {
      {"y", R"({"x":{"file_name":"a.json"}})", "y"},
      {"x", R"({"x":{"file_name":"../rows.jsonl"}})", "leads out"},
      {"x", R"({"x":{"file_name":"/etc/passwd"}})", "the kind of a data file is not known"},
      {"x", R"({"x":{"file_name":"a.json","columns":{"promt":"p"}}})", "did you mean 'prompt'"},
      {"x", R"({"x":{"file_name":"dataset_info.json"}})", "dataset_info.json"},
      {"x", R"({"x":{"file_name":"circle"}})", "circle"},
      {"x", R"({"x":{"script_url":"evil.py"}})", "script_url"},
      {"x", R"({"x":{"file_name":"a.json"},"x":{"file_name":"b.json"}})", "twice"},
  };
  write("data/a.json", "[]");
  fs::create_directory_symlink(".", folder / "data/circle");
  for (const auto& [name, text, word] : cases) {
    write("data/dataset_info.json", text);
    expect_refused(run(train + fmt::format("output_dir=never dataset_dir=data dataset={}", name)), text, 3, {word});
  }
}

TEST_F(BadRun, Recipes) {
  const std::string begin = "model_name_or_path: model\ndataset: rows.jsonl\noutput_dir: never\n";
  const std::tuple<int, std::string, std::vector<std::string_view>> cases[] = {
      {73, "lora_rnak: 4", {"lora_rnak", "did you mean 'lora_rank'", "r.yaml:4"}},
      {73, "seed: 1\nseed: 2", {"r.yaml:5", "twice"}},
      {73, "seed:\n\t1", {"r.yaml:5", "tab"}},
      {73, "a: &a [x]\nb: [*a, *a]", {"r.yaml:4", "anchors"}},
      {73, "seed: !!python/object:os.system x", {"r.yaml:4", "tags"}},
      {73, "seed: " + std::string(1000, '['), {"r.yaml:4"}},
      {74, "learning_rate: '1e-4'", {"learning_rate", "remove the quotes"}},
      {74, "plot_loss: yes", {"plot_loss", "write true"}},
      {74, "learning_rate: -1e-4", {"learning_rate", "-0.0001"}},
      {74, "learning_rate: .nan", {"learning_rate"}},
      {74, "per_device_train_batch_size: 0", {"per_device_train_batch_size"}},
      {74, "save_steps: 0", {"save_steps"}},
      {74, "max_steps: 10\nwarmup_steps: 11", {"warmup_steps 11 is more than max_steps 10"}},
      {74, "seed: null", {"seed"}},
      {75, "quantization_bit: 4\nfinetuning_type: full", {"quantization_bit"}},
      {75, "train_on_prompt: true\nmask_history: true", {"mask_history"}},
      {75, "fp16: true\nbf16: true", {"fp16", "bf16"}},
      {78, "deepspeed: ds_z3.json", {"deepspeed"}},
  };
  for (const auto& [number, text, words] : cases) {
    write("r.yaml", begin + text + "\n");
    for (const char* command : {"plan r.yaml", "train r.yaml"}) expect_refused(run(command), fmt::format("case {}: {}", number, text.substr(0, 60)), 2, words);
    EXPECT_FALSE(fs::exists(folder / "never"));
  }
  // Case 74: floats that YAML 1.1 takes for text. Case 79: a locale with decimal commas.
  write("r.yaml", begin + "learning_rate: 1e-4\nmax_steps: 1\n");
  EXPECT_EQ(run("plan r.yaml").code, 0);
  const Ended e = run("plan r.yaml learning_rate=0.5");
  EXPECT_EQ(e.code, 0) << e.text;
  ::setenv("LC_ALL", "de_DE.UTF-8", 1);
  EXPECT_EQ(run("plan r.yaml learning_rate=0.5").code, 0);
  expect_refused(run("plan r.yaml learning_rate=0,5"), "a decimal comma", 2, {"learning_rate", "0,5"});
  ::unsetenv("LC_ALL");
  expect_refused(run("plan r.yaml \"output_dir=$(printf 'a\\377')\""), "case 79: bytes that are no text", 2, {"UTF-8"});
}

TEST_F(BadRun, PlacesToWrite) {
  write("file", "kept");
  expect_refused(run(train + "output_dir=file"), "a file", 2, {"file"});
  EXPECT_EQ(read("file"), "kept");
  write("full/notes.txt", "kept");
  expect_refused(run(train + "output_dir=full"), "a folder that holds something", 2, {"full", "overwrite_output_dir"});
  EXPECT_EQ(read("full/notes.txt"), "kept");
  const Ended e = run(train + "'output_dir=a $(touch b) ; c'");
  EXPECT_EQ(e.code, 0) << e.text;
  EXPECT_TRUE(fs::exists(folder / "a $(touch b) ; c/adapter_model.safetensors") && !fs::exists(folder / "b"));
  if (::getuid() == 0) return;  // whom nothing is closed to
  fs::create_directory(folder / "closed");
  fs::permissions(folder / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  expect_refused(run(train + "output_dir=closed/out"), "a closed folder", 2, {"closed/out"});
}

// Case 77.
TEST_F(BadRun, CheckpointsOfANewerProgram) {
  const std::string how = "output_dir=out save_steps=1 max_steps=2 ";
  ASSERT_EQ(run(train + how).code, 0);
  const std::string resume = train + "output_dir=out save_steps=1 max_steps=3 resume_from_checkpoint=out/checkpoint-1";
  const std::string manifest = read("out/checkpoint-1/manifest.json");
  Json newer = parse_json(manifest, "manifest");
  newer["format"] = 2;
  write("out/checkpoint-1/manifest.json", newer.dump());
  expect_refused(run(resume), "a manifest of tomorrow", 3, {"checkpoint-1", "a newer program wrote this"});
  newer["format"] = "1";
  write("out/checkpoint-1/manifest.json", newer.dump());
  expect_refused(run(resume), "a format in words", 3, {"checkpoint-1", "format"});
  write("out/checkpoint-1/manifest.json", manifest);
  for (const char* file : {"adapter_model.safetensors", "training_state.safetensors", "run_state.json"}) {
    if (!fs::exists(folder / "out/checkpoint-1" / file)) continue;
    fs::rename(folder / "out/checkpoint-1" / file, folder / "away");
    expect_refused(run(resume), file, 3, {"checkpoint-1", file});
    fs::rename(folder / "away", folder / "out/checkpoint-1" / file);
  }
}

}  // namespace
}  // namespace thimble::cli
