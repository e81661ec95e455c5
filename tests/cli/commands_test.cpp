// The program on a tiny model: what it writes is read again, and exit codes tell the class of a failure.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/file.h"

namespace thimble {
namespace {

const fs::path source = THIMBLE_SOURCE_DIR;

struct Result {
  int code;
  std::string out, error;
};

// A folder that holds config.json, DIR, recipe.yaml, questions.jsonl.
class Commands : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "thimble-cli-XXXXXX").string();
    dir = ::mkdtemp(name.data());
    put("config.json",
        R"({"architectures":["LlamaForCausalLM"],"vocab_size":1024,"hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,)"
        R"("num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":512,"eos_token_id":0})");
    fs::copy_file(source / "tests/golden/bytelevel_llama3.json", dir / "tokenizer.json");
    put("questions.jsonl", R"({"prompt":"Where does Ann live?","response":"In York."})"
                           "\n"
                           R"({"prompt":"What does Bob own?","response":"A lamp."})"
                           "\n");
    put("recipe.yaml",
        "stage: sft\nmodel_name_or_path: DIR\ndataset: questions.jsonl\noutput_dir: out/b\nfinetuning_type: lora\nlora_rank: "
        "4\nlora_target: all\n"
        "cutoff_len: 32\nper_device_train_batch_size: 1\nmax_steps: 2\nlearning_rate: 1e-3\nplot_loss: true\n");
    expect(" init config.json --out DIR --seed 2", 0);
  }
  void TearDown() override { fs::remove_all(dir); }

  void put(const char* name, std::string_view text) const { write_atomically(dir / name, text); }
  Result run(const std::string& arguments) const {
    put("input", "Who are you?\n\n");
    const auto command = fmt::format("cd '{}' && '{}'{} < input > stdout 2> stderr", dir.string(), THIMBLE_BINARY, arguments);
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_text(dir / "stdout"), read_text(dir / "stderr")};
  }
  // Runs it, expects the exit code, and of a failure one error; gives back all that it printed.
  std::string expect(const std::string& arguments, int code) const {
    const auto r = run(arguments);
    EXPECT_EQ(r.code, code) << "thimble" << arguments << "\n" << r.out << r.error;
    if (code > 2) {
      const auto first = r.error.find("error: ");
      EXPECT_TRUE(first != r.error.npos && r.error.find("error: ", first + 1) == r.error.npos) << "thimble" << arguments << "\n" << r.error;
      EXPECT_NE(r.error.find("\n  where:"), r.error.npos) << "thimble" << arguments << "\n" << r.error;
    }
    return r.out + r.error;
  }
  std::string expect_fault(const std::string& arguments, Fault fault) const { return expect(arguments, int(fault)); }
  fs::path dir;
};

// However many lines run beside each other, they come out in their order, each as alone.
TEST_F(Commands, ABatchIsItsLinesAlone) {
  std::string lines;
  for (const char* text : {"Where?", "Who owns the lamp that Ann saw in York?", "a", "one two three", "Bob", "again and again"})
    lines += fmt::format("{{\"prompt\":\"{}\",\"id\":{}}}\n", text, lines.size());
  put("prompts.jsonl", lines);
  const std::string ask = " generate --model DIR --batch prompts.jsonl --threads 1 --max-new-tokens 20 --temperature 1 --seed 3 --sequences ";
  const auto alone = expect(ask + "1", 0);
  EXPECT_EQ(std::count(alone.begin(), alone.end(), '\n'), 6);
  EXPECT_EQ(expect(ask + "4", 0), alone);
}

TEST_F(Commands, HelpNamesEveryCommand) {
  const auto help = expect(" --help", 0);
  for (const char* name : {"plan", "train", "eval", "chat", "generate", "inspect", "init", "quantize", "export", "doctor", "bench", "profile"}) {
    EXPECT_NE(help.find(name), help.npos) << name;
    EXPECT_NE(expect(fmt::format(" {} --help", name), 0), "");
  }
  EXPECT_NE(expect(" --version", 0), "");
}

TEST_F(Commands, WhatDoesNotFitSaysWhatWould) {
  const auto text = expect_fault(" plan recipe.yaml vram=64KiB", Fault::does_not_fit);
  EXPECT_NE(text.find("any of these fits"), text.npos) << text;
  expect_fault(" train recipe.yaml vram=64KiB output_dir=out/never", Fault::does_not_fit);
  EXPECT_FALSE(fs::exists(dir / "out/never")) << "nothing is written by a run that does not fit";
  expect_fault(" generate --model DIR --vram 1KiB --prompt x", Fault::does_not_fit);
}

TEST_F(Commands, MistakesOfUse) {
  for (const char* arguments :
       {"", " tarin recipe.yaml", " generate", " generate --model DIR --no-such-option", " init config.json --out DIR",
        " quantize DIR --out kept --type fp3", " generate --model DIR --quantization nf5", " generate --model DIR --vram lots",
        " generate --model DIR --threads 0", " plan recipe.yaml vram=-1", " plan recipe.yaml lora_rank=none"})
    expect_fault(arguments, Fault::usage);
  const auto text = expect_fault(" plan recipe.yaml lora_rnak=4", Fault::usage);
  EXPECT_NE(text.find("lora_rank"), text.npos) << text;
}

// Packed, tuned straight from the packed folder, merged, packed again in shards; and what contradicts a packed folder.
TEST_F(Commands, PackedFolders) {
  for (const char* type : {"nf4", "nf4_dq", "int8"}) {
    const std::string folder = fmt::format("packed_{}", type), adapter = "out/" + folder, recipe = fmt::format(" train recipe.yaml model_name_or_path={} output_dir={}", folder, adapter);
    expect(fmt::format(" quantize DIR --out {} --type {}", folder, type), 0);
    EXPECT_NE(expect(" inspect " + folder, 0).find(fmt::format("stored as {}\n", type)), std::string::npos);
    expect(recipe, 0);
    expect(fmt::format(" generate --model {} --adapter {} --prompt x --max-new-tokens 2", folder, adapter), 0);
    const auto merged = expect(fmt::format(" export {} --adapter {} --out {}_merged", folder, adapter, folder), 0);
    EXPECT_NE(merged.find("the likeliest token the same at "), merged.npos) << merged;
    expect(fmt::format(" export {} --adapter {} --out {}_again --type {} --max-shard-size 40KB --no-compare", folder, adapter, folder, type), 0);
    EXPECT_TRUE(fs::exists(dir / (folder + "_again/model.safetensors.index.json")));
    expect(fmt::format(" generate --model {}_again --prompt x --max-new-tokens 2", folder), 0);
    const auto thawed = expect(recipe + "_thawed finetuning_type=freeze freeze_trainable_layers=1", 0);
    EXPECT_NE(thawed.find(fmt::format("the base's matrices are {}, the result's ", type)), thawed.npos) << thawed;
    EXPECT_EQ(expect(" inspect " + adapter + "_thawed", 0).find("stored as"), std::string::npos);
    expect(fmt::format(" generate --model {}_thawed --prompt x --max-new-tokens 2", adapter), 0);
    expect_fault(recipe + "_full finetuning_type=full", Fault::usage);
    expect_fault(recipe + (type == std::string("int8") ? "_other quantization_bit=4" : "_other quantization_bit=8"), Fault::usage);
    expect_fault(fmt::format(" export {} --out {}_merged", folder, folder), Fault::usage);
  }
  expect(" train recipe.yaml quantization_bit=8 output_dir=out/eight", 0);
}

// The drift that export prints, in logits by the largest of them.
double drift_of(const std::string& said) {
  const std::string before = "logits at most ";
  const auto at = said.find(before);
  EXPECT_NE(at, said.npos) << said;
  return at == said.npos ? 1 : std::strtod(said.c_str() + at + before.size(), nullptr);
}

// What a loss may differ by where a product is added up in two parts or in one: nothing that four digits show in f32, a unit of bf16 in bf16.
double rounding(const std::string& doctor, double loss) { return doctor.find("activations       f32") != doctor.npos ? 1e-4 : loss / 256; }

double loss_of(const std::string& said) { return std::strtod(said.c_str() + said.find("loss") + 4, nullptr); }

// An embedding and a head that were trained beside adapters are the merged model's own, of a base that ties both too; of PEFT's adapters as of ours.
TEST_F(Commands, MergesWholeModules) {
  std::string config = read_text(dir / "config.json");
  put("config.json", config.insert(1, R"("tie_word_embeddings":true,"torch_dtype":"float32",)"));
  expect(" init config.json --out tied --seed 3 --std 0.2", 0);
  const auto doctor = expect(" doctor", 0);
  for (const char* modules : {"embed_tokens", "lm_head", "embed_tokens,lm_head"}) {
    SCOPED_TRACE(modules);
    fs::remove_all(dir / "out/m");
    fs::remove_all(dir / "merged");
    expect(fmt::format(" train recipe.yaml model_name_or_path=tied output_dir=out/m learning_rate=0.05 additional_target={}", modules), 0);
    EXPECT_LE(drift_of(expect(" export tied --adapter out/m --out merged", 0)), 5e-6);
    EXPECT_NE(read_text(dir / "merged/config.json").find(R"("tie_word_embeddings": false)"), std::string::npos);
    const auto loss = [&](const char* of) { return loss_of(expect(fmt::format(" eval --device cpu --model {} --data questions.jsonl", of), 0)); };
    const double merged = loss("merged");
    EXPECT_NEAR(loss("tied --adapter out/m"), merged, rounding(doctor, merged));
    EXPECT_GT(std::abs(loss("tied") - merged), 4 * rounding(doctor, merged)) << "or this shows nothing";
    expect(" export tied --adapter out/m --out merged4 --type nf4 --no-compare", 0);
    expect(" generate --model merged4 --prompt x --max-new-tokens 2", 0);
    fs::remove_all(dir / "merged4");
  }
  const fs::path golden = source / "tests/golden";  // DoRA and a head
  EXPECT_LE(drift_of(expect(fmt::format(" export '{}' --adapter '{}' --out golden", (golden / "llama_odd_untied").string(), (golden / "peft_dora").string()), 0)), 1e-5);
}

TEST_F(Commands, BadInput) {
  expect_fault(" inspect gone", Fault::bad_input);
  expect_fault(" inspect '" + std::string(5000, 'x') + "'", Fault::bad_input);
  expect_fault(" generate --model gone --prompt x", Fault::bad_input);
  expect_fault(" eval --model DIR --data gone.jsonl", Fault::bad_input);
  expect_fault(" eval --model DIR --data config.json", Fault::bad_input);
  expect_fault(" generate --model DIR --adapter gone --prompt x", Fault::bad_input);
  expect_fault(" train recipe.yaml dataset=gone.jsonl", Fault::bad_input);
  fs::create_directories(dir / "adapter");
  put("adapter/adapter_config.json", R"({"peft_type":"LORA","r":4,"target_modules":["query_key_value"]})");
  auto text = expect_fault(" generate --model DIR --adapter adapter --prompt x", Fault::bad_input);
  EXPECT_NE(text.find("query_key_value"), text.npos) << text;
  put("other.json", R"({"architectures":["MambaForCausalLM"]})");
  text = expect_fault(" inspect other.json", Fault::bad_input);
  EXPECT_NE(text.find("LlamaForCausalLM"), text.npos) << text;
  fs::resize_file(dir / "DIR/model.safetensors", 1000);
  text = expect_fault(" generate --model DIR --prompt x", Fault::bad_input);
  EXPECT_NE(text.find("model.safetensors"), text.npos) << text;
}

}  // namespace
}  // namespace thimble
