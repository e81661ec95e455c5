// The promise seen from outside: what a run's process takes at most, beside what its plan said.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

#include "cli/program.h"

namespace thimble::cli {
namespace {

struct Measured { int code = -1; int64_t peak = 0; };

// Runs the program by itself, since the shell's children would be counted with it.
Measured measured(const fs::path& folder, const std::string& arguments) {
  std::vector<std::string> words{THIMBLE_BINARY};
  std::istringstream in(arguments);
  for (std::string w; in >> w;) words.push_back(w);
  std::vector<char*> argv;
  for (auto& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::chdir(folder.c_str()) != 0 || !std::freopen("run.log", "w", stdout) || !std::freopen("run.log", "a", stderr)) ::_exit(125);
    ::execv(argv[0], argv.data());
    ::_exit(126);
  }
  int status = 0;
  rusage used{};
  ::wait4(child, &status, 0, &used);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, int64_t(used.ru_maxrss) * 1024};
}

TEST_F(Program, StaysWithinItsPlanAtThreeBudgets) {
  make_model();
  make_data();
  const std::string run = "model_name_or_path=model dataset=rows.jsonl quantization_bit=4 cutoff_len=64 threads=1 device=cpu";
  int64_t before = INT64_MAX;
  for (const char* vram : {"300MiB", "500KiB", "350KiB"}) {
    SCOPED_TRACE(vram);
    const std::string budget = std::string(" ram=512MiB vram=") + vram;
    const Answer planned = thimble("plan --json " + run + budget);
    ASSERT_EQ(planned.code, 0) << planned.text;
    const Json plan = parse_json(planned.text.substr(planned.text.find('{')), "plan");
    const int64_t device = plan["total"]["device_bytes"], ram = plan["total"]["ram_bytes"];
    EXPECT_LE(device, before);
    before = device;
    const Measured m = measured(folder, "train " + run + budget + fmt::format(" max_steps=6 eval_strategy=steps eval_steps=3 val_size=1 save_steps=2 output_dir=out-{}", vram));
    ASSERT_EQ(m.code, 0) << read("run.log");
    EXPECT_LE(m.peak, device + ram + (int64_t{60} << 20) + int64_t(fs::file_size(folder / "model/model.safetensors")));
  }
}

}  // namespace
}  // namespace thimble::cli
