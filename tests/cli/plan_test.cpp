// A budget that is too small: the error says what is short, and whatever it suggests fits when it is typed.
#include "base/philox.h"
#include "cli/program.h"

namespace thimble::cli {
namespace {

// "key: value and key: value" -> "key=value key=value"
std::string typed(std::string change) {
  for (const auto& [from, to] : {std::pair<std::string, std::string>{" and ", " "}, {": ", "="}})
    for (size_t at; (at = change.find(from)) != change.npos;) change.replace(at, from.size(), to);
  return change;
}

// The lines after "any of these fits:", without what stands in brackets.
std::vector<std::string> suggestions(const std::string& text) {
  std::vector<std::string> all;
  size_t at = text.find("any of these fits:");
  while (at != text.npos && (at = text.find('\n', at)) != text.npos) {
    const size_t end = text.find('\n', ++at);
    std::string line = text.substr(at, end == text.npos ? end : end - at);
    line = line.substr(0, line.find(" ("));
    line.erase(0, line.find_first_not_of(' '));
    if (!line.empty()) all.push_back(line);
  }
  return all;
}

TEST_F(Program, EverySuggestionFits) {
  int suggested = 0, other_than_sizes = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Draws draws{seed, 21};
    const auto between = [&](int64_t least, int64_t most) { return least + int64_t(draws.below(uint64_t(most - least + 1))); };
    const int64_t kv = between(1, 3);
    write("config.json", config(between(1, 4), between(30, 300), between(30, 400), kv * between(1, 2), kv, between(20, 900)).dump());
    const std::string method = std::array{"finetuning_type=full", "finetuning_type=lora lora_rank=16", "finetuning_type=lora quantization_bit=4"}[seed % 3];
    const std::string run = fmt::format("plan model_name_or_path=config.json threads=1 {} cutoff_len={} per_device_train_batch_size={}", method, between(8, 300), between(1, 3));
    // Little memory, and little of the other: the program itself takes some tens of MiB of RAM.
    std::vector<std::string> budgets{"vram=200KiB ram=2GiB", "vram=2GiB ram=1MiB", "vram=300KiB ram=1MiB"};
    for (size_t i = 0; i < budgets.size(); ++i) {
      const std::string budget = budgets[i];
      SCOPED_TRACE(run + " " + budget);
      const Answer refused = thimble(run + " " + budget);
      ASSERT_EQ(refused.code, 4) << refused.text;
      const bool device = budget.starts_with("vram=2GiB") == false, ram = budget.ends_with("1MiB");
      const char* expected = device && ram ? "device memory and RAM are too small" : device ? "device memory is too small" : "RAM is too small";
      EXPECT_TRUE(refused.says(expected)) << refused.text;
      const auto fits = suggestions(refused.text);
      ASSERT_FALSE(fits.empty()) << refused.text;
      // A little below the least: near enough for a change of method to help.
      if (const auto& sizes = fits.back(); i == 0 && sizes.starts_with("vram: "))
        if (const long most = std::strtol(sizes.c_str() + 6, nullptr, 10); most > 1) budgets.push_back(fmt::format("vram={}KiB ram=2GiB", (most - 1) * 1024 - 200));
      for (const auto& change : fits) {
        const Answer again = thimble(run + " " + budget + " " + typed(change));
        EXPECT_EQ(again.code, 0) << change << "\n" << again.text;
        ++suggested;
        other_than_sizes += !change.starts_with("vram");
      }
    }
  }
  EXPECT_GE(suggested, 9);
  EXPECT_GT(other_than_sizes, 0);
}

TEST_F(Program, PlansFromAConfigAlone) {
  write("config.json", config(3, 40, 60, 4, 2, 100).dump());
  const Answer a = thimble("plan model_name_or_path=config.json threads=1 cutoff_len=32 vram=1GiB ram=1GiB");
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_TRUE(a.says("plans tried")) << a.text;
}

// A card that is not here, by its name: from config.json alone, as text, for programs, and as a page.
TEST_F(Program, PlansForACardByItsName) {
  write("config.json", config(4, 512, 1024, 8, 4, 5000).dump());
  const std::string run = "plan config.json quantization_bit=4 cutoff_len=512 ram=2GiB threads=1 ";
  const Answer text = thimble(run + "--gpu rtx4090 --explain");
  ASSERT_EQ(text.code, 0) << text.text;
  for (const char* part : {"predicted on GeForce RTX 4090", "what binds: ", "the ladder", "device [", "23.99 GiB"}) EXPECT_TRUE(text.says(part)) << part << text.text;
  const Answer json = thimble(run + "gpu=rtx4090 vram=2GiB --json --html plan.html");
  ASSERT_EQ(json.code, 0) << json.text;
  const Json plan = parse_json(json.text.substr(json.text.find('{')), "plan");
  EXPECT_EQ(plan["machine"]["kind"], "cuda");
  EXPECT_LE(plan["total"]["device_bytes"].get<int64_t>(), int64_t{2} << 30);
  EXPECT_NE(read("plan.html").find("</html>"), std::string::npos);
  const Answer unknown = thimble(run + "gpu=rtx4091");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_TRUE(unknown.says("did you mean 'rtx4090'?")) << unknown.text;
  const Answer train = thimble("train model_name_or_path=. dataset=rows.jsonl output_dir=out gpu=rtx4090");
  EXPECT_EQ(train.code, 2);
  EXPECT_TRUE(train.says("to plan for")) << train.text;
}

TEST_F(Program, AModelAndACardAloneGiveAMatrix) {
  write("config.json", config(2, 256, 512, 4, 2, 1000).dump());
  const Answer a = thimble("plan config.json --gpu l4 ram=4GiB");
  ASSERT_EQ(a.code, 0) << a.text;
  for (const char* part : {"QLoRA, 4 bits", "full, AdamW", "65536 tokens"}) EXPECT_TRUE(a.says(part)) << a.text;
}

}  // namespace
}  // namespace thimble::cli
