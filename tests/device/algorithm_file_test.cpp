// What is kept comes back; what is damaged, or another's, is as if it were not there.
#include "device/algorithm_file.h"

#include <gtest/gtest.h>

namespace thimble {
namespace {

class AlgorithmFile : public ::testing::Test {
 protected:
  AlgorithmFile() {
    std::string name = (fs::temp_directory_path() / "thimble-algorithms-XXXXXX").string();
    folder = ::mkdtemp(name.data());
    file = folder / "cache" / "card.json";
  }
  ~AlgorithmFile() override { fs::remove_all(folder); }

  fs::path folder, file;
  const Algorithms some{{{4096, 8192, -1, 0}, {1, 2, 3, 4, 5, 6, 7, UINT64_MAX}}, {{16}, {0, 0, 0, 0, 0, 0, 0, uint64_t{1} << 63}}};
};

TEST_F(AlgorithmFile, WhatIsWrittenIsRead) {
  EXPECT_TRUE(read_algorithms(file, "card, library 1").empty());
  write_algorithms(file, "card, library 1", some);
  EXPECT_EQ(read_algorithms(file, "card, library 1"), some);
  write_algorithms(file, "card, library 1", {});
  EXPECT_TRUE(read_algorithms(file, "card, library 1").empty());
}

TEST_F(AlgorithmFile, APlaceThatCannotBeWrittenCostsAWarning) {
  write_atomically(folder / "file", "");
  write_algorithms(folder / "file" / "card.json", "m", some);
  EXPECT_EQ(read_text(folder / "file"), "");
}

TEST_F(AlgorithmFile, AnotherMakersIsNotRead) {
  write_algorithms(file, "card, library 1", some);
  EXPECT_TRUE(read_algorithms(file, "card, library 2").empty());
}

TEST_F(AlgorithmFile, ADamagedFileIsNotRead) {
  write_algorithms(file, "m", some);
  const std::string good = read_text(file);
  std::vector<std::string> damaged{"", "null", "[]", "{}", R"({"maker": "m"})", R"({"maker": "m", "algorithms": {}})", R"({"maker": "m", "algorithms": [7]})",
                                   R"({"maker": 1, "algorithms": []})", R"({"maker": "m", "algorithms": [{"key": [1]}]})",
                                   R"({"maker": "m", "algorithms": [{"key": [1], "algorithm": [1, 2, 3]}]})",
                                   R"({"maker": "m", "algorithms": [{"key": [1], "algorithm": [1, 2, 3, 4, 5, 6, 7, -8]}]})",
                                   R"({"maker": "m", "algorithms": [{"key": [1.5], "algorithm": [1, 2, 3, 4, 5, 6, 7, 8]}]})",
                                   R"({"maker": "m", "algorithms": [{"key": "1", "algorithm": [1, 2, 3, 4, 5, 6, 7, 8]}]})"};
  for (size_t n = 1; n + 2 < good.size(); n += 7) damaged.push_back(good.substr(0, n));
  for (const auto& text : damaged) {
    write_atomically(file, text);
    EXPECT_TRUE(read_algorithms(file, "m").empty()) << text;
  }
}

}  // namespace
}  // namespace thimble
