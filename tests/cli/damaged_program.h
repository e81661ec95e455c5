// The program on what is damaged: measured, ended where it would not end, and its one error looked at.
#pragma once
#include <sys/resource.h>
#include <unistd.h>

#include "cli/program.h"

namespace thimble::cli {

struct Ended {
  int code = -1;  // -1: by a signal
  int64_t peak = 0;  // of its resident set, bytes
  std::string text;
};

class DamagedProgram : public Program {
 protected:
  void SetUp() override { make_model(), make_data(); }

  // As Program::thimble, and measured: ended by a signal after a minute, or after 30 s of processor time.
  Ended run(const std::string& arguments) const {
    const std::string command = fmt::format("cd '{}' && exec '{}' {} > stdout.txt 2>&1 < /dev/null", folder.string(), THIMBLE_BINARY, arguments);
    const pid_t child = ::fork();
    if (child == 0) {
      const rlimit processor{30, 30};
      ::setrlimit(RLIMIT_CPU, &processor);
      ::alarm(60);
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    int status = 0;
    rusage used{};
    ::wait4(child, &status, 0, &used);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, int64_t(used.ru_maxrss) * 1024, read("stdout.txt")};
  }
  // One error of this class, with these words.
  void expect_refused(const Ended& e, std::string_view of, int code, const std::vector<std::string_view>& words) const {
    EXPECT_EQ(e.code, code) << of << "\n" << e.text;
    const size_t first = e.text.find("error: ");
    EXPECT_TRUE(first != e.text.npos && e.text.find("\nerror: ", first + 1) == e.text.npos) << of << "\n" << e.text;
    EXPECT_LT(e.text.size(), 4000u) << of;
    for (const auto w : words) EXPECT_NE(e.text.find(w), e.text.npos) << of << ": '" << w << "' in\n" << e.text;
  }
  void fresh(const char* name = "bad") const {
    fs::remove_all(folder / name);
    fs::copy(folder / "model", folder / name, fs::copy_options::recursive);
  }
};

}  // namespace thimble::cli
