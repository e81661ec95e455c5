// What a run leaves, and what eval says of it.
#include <sstream>

#include "cli/program.h"

namespace thimble::cli {
namespace {

std::vector<Json> lines(const std::string& text) {
  std::vector<Json> all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "line"));
  return all;
}

const std::string tuning = "train model_name_or_path=model dataset=rows.jsonl threads=1 cutoff_len=64 vram=64MiB ram=512MiB per_device_train_batch_size=2 lora_rank=4 ";

TEST_F(Program, ARunLeavesTheArgumentsThatRepeatIt) {
  make_model(), make_data();
  const Answer first = thimble(tuning + "output_dir=first max_steps=3 learning_rate=1e-2 logging_steps=1");
  ASSERT_EQ(first.code, 0) << first.text;
  const Json args = json("first/args.json");
  EXPECT_EQ(args["lora_rank"], 4);
  EXPECT_EQ(args["lora_alpha"], 8.0);  // resolved
  EXPECT_EQ(args["weight_decay"], 0.0);  // a default
  EXPECT_EQ(args["lr_scheduler_type"], "linear");
  const Answer second = thimble("train first/args.json output_dir=second");
  ASSERT_EQ(second.code, 0) << second.text;
  const auto a = lines(read("first/trainer_log.jsonl")), b = lines(read("second/trainer_log.jsonl"));
  ASSERT_EQ(a.size(), 3u);
  ASSERT_EQ(b.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(a[i]["loss"], b[i]["loss"]);
  EXPECT_EQ(read("first/adapter_model.safetensors"), read("second/adapter_model.safetensors"));
  Json again = json("second/args.json");
  again["output_dir"] = "first";
  EXPECT_EQ(again, args);
}

// A model that RAM does not hold: the same adapter as where it does, and nothing is left in the disk's folder.
TEST_F(Program, LayersOnDiskTrainTheSameAdapter) {
  make_model(), make_data();
  write("shape/config.json", config(8, 256, 1024, 32, 4, 28).dump());  // 30 MiB of layers
  ASSERT_EQ(thimble("init shape --out large --seed 3 --std 0.05").code, 0);
  fs::create_directories(folder / "scratch");
  const std::string what = "model_name_or_path=large threads=1 cutoff_len=64 vram=24MiB per_device_train_batch_size=2 lora_rank=4 ",
                    run = "train " + what + "dataset=rows.jsonl max_steps=3 learning_rate=1e-2 ";
  const auto planned = [&](const std::string& budget) {
    const Answer a = thimble("plan " + what + budget + " --json");
    EXPECT_EQ(a.code, 0) << a.text;
    return parse_json(a.text.substr(a.text.find('{')), "plan");
  };
  const Json held = planned("ram=512MiB disk=scratch:1GiB");
  EXPECT_EQ(held["total"]["disk_bytes"], 0) << "RAM holds it";
  const int64_t mib = int64_t{1} << 20, ram = held["process_bytes"].get<int64_t>() / mib + 20;  // what the program itself takes, and a little
  const Answer refused = thimble(fmt::format("{} output_dir=none ram={}MiB", run, ram));
  EXPECT_EQ(refused.code, 4) << refused.text;
  EXPECT_TRUE(refused.says("disk: /var/tmp:")) << refused.text;
  const std::string budget = fmt::format("ram={}MiB disk=scratch:1GiB", ram);
  const Json plan = planned(budget);
  EXPECT_GT(plan["plan"]["disk_layers"], 0);
  EXPECT_EQ(plan["total"]["disk_bytes"], plan["tiers"]["disk"]["by_use"]["weights"]);
  const Answer from_disk = thimble(run + "output_dir=streamed " + budget), in_memory = thimble(run + "output_dir=held ram=512MiB");
  ASSERT_EQ(from_disk.code, 0) << from_disk.text;
  ASSERT_EQ(in_memory.code, 0) << in_memory.text;
  EXPECT_TRUE(from_disk.says("of these from disk")) << from_disk.text;
  EXPECT_EQ(read("streamed/adapter_model.safetensors"), read("held/adapter_model.safetensors"));
  EXPECT_TRUE(fs::is_empty(folder / "scratch"));
}

TEST_F(Program, ADisksFolderIsLookedAtBeforeAnythingIsRead) {
  make_model(), make_data();
  for (const char* disk : {"absent:1GiB", "rows.jsonl:1GiB", "/proc:1GiB"}) {
    const Answer a = thimble(tuning + "output_dir=out disk=" + disk);
    EXPECT_EQ(a.code, 3) << a.text;
    EXPECT_TRUE(a.says("disk: FOLDER:SIZE")) << a.text;
  }
  EXPECT_FALSE(fs::exists(folder / "out" / "args.json"));
}

TEST_F(Program, TheFirstStepIsLoggedWhereWanted) {
  make_model(), make_data();
  for (const bool wanted : {true, false}) {
    const Answer a = thimble(tuning + fmt::format("output_dir=out max_steps=5 logging_steps=4 logging_first_step={} overwrite_output_dir=true", wanted));
    ASSERT_EQ(a.code, 0) << a.text;
    std::vector<int> steps;
    for (const Json& line : lines(read("out/trainer_log.jsonl"))) steps.push_back(line["current_steps"]);
    EXPECT_EQ(steps, wanted ? (std::vector<int>{1, 4, 5}) : (std::vector<int>{4, 5}));
  }
}

TEST_F(Program, EvalSaysTheLossThatTrainingSays) {
  make_model(), make_data();
  // Weights that are bf16 already: a processor that computes in it multiplies a few tokens by the weights as they are, and many by rounded ones.
  ASSERT_EQ(thimble("init shape --out half --seed 3 --std 0.2 --dtype bfloat16").code, 0);
  // A rate of 0: the loss that training evaluates is the base model's.
  const Answer trained = thimble(tuning + "model_name_or_path=half output_dir=out max_steps=1 learning_rate=0 eval_dataset=rows.jsonl eval_strategy=epoch");
  ASSERT_EQ(trained.code, 0) << trained.text;
  double loss = -1;
  for (const Json& line : lines(read("out/trainer_log.jsonl")))
    if (line.contains("eval_loss")) loss = line["eval_loss"];
  ASSERT_GT(loss, 0);
  const Answer alone = thimble("eval --model half --data rows.jsonl --threads 1 --no-generate");
  ASSERT_EQ(alone.code, 0) << alone.text;
  EXPECT_TRUE(alone.says("answer tokens: 32, ")) << alone.text;  // letters and blanks of four answers, and the end of each
  const size_t at = alone.text.find("loss ");
  ASSERT_NE(at, alone.text.npos);
  EXPECT_NEAR(std::strtod(alone.text.c_str() + at + 5, nullptr), loss, 1e-4);
  EXPECT_NEAR(std::strtod(alone.text.c_str() + alone.text.find("perplexity ") + 11, nullptr), std::exp(loss), 1e-3 * std::exp(loss));
  EXPECT_FALSE(alone.says("exact match")) << alone.text;
  const Answer both = thimble("eval --model half --adapter out --data rows.jsonl --threads 1 --max-new-tokens 4");
  ASSERT_EQ(both.code, 0) << both.text;
  EXPECT_TRUE(both.says(alone.text.substr(at, 11))) << both.text;  // the adapter learned nothing
  EXPECT_TRUE(both.says("exact match: 0 of 4")) << both.text;
}

TEST_F(Program, EvalTakesTheLikeliestLetter) {
  make_model("TABCD():.\n");
  write("questions.jsonl", R"({"question": "a b", "A": "c", "B": "d", "answer": "A", "subject": "letters"}
{"question": "b a", "choices": ["d", "c", "a"], "answer": 2, "subject": "others"}
)");
  const Answer plain = thimble("eval --model model --data questions.jsonl --threads 1");
  ASSERT_EQ(plain.code, 0) << plain.text;
  EXPECT_TRUE(plain.says("letters: ") && plain.says("others: ") && plain.says("multiple choice: ") && plain.says(" of 2 right")) << plain.text;
  // Whatever the model takes of one question, that letter is the one right answer of as many copies as it has choices.
  write("each.jsonl", R"({"question": "a b", "A": "c", "B": "d", "answer": "A"}
{"question": "a b", "A": "c", "B": "d", "answer": "B"}
)");
  const Answer each = thimble("eval --model model --data each.jsonl --examples questions.jsonl --shots 1 --threads 1");
  ASSERT_EQ(each.code, 0) << each.text;
  EXPECT_TRUE(each.says("multiple choice: 1 of 2 right (50.0%)")) << each.text;
  write("bad.jsonl", R"({"question": "a b", "A": "c", "B": "d", "answer": "E"})" "\n");
  EXPECT_EQ(thimble("eval --model model --data bad.jsonl --threads 1").code, 3);
}

TEST_F(Program, ARowBeyondTheContextIsNamed) {
  make_model(), make_data();
  const Answer a = thimble("eval --model model --data rows.jsonl --threads 1 --no-generate --context 12");
  EXPECT_EQ(a.code, 2) << a.text;
  EXPECT_TRUE(a.says("does not fit the context") && a.says("--context")) << a.text;
}

}  // namespace
}  // namespace thimble::cli
