// docs/bad-inputs.md names a test for each case: each of them is there.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace thimble {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

template <class F>
void for_each_match(const std::string& text, const std::regex& what, F&& f) {
  for (auto i = std::sregex_iterator(text.begin(), text.end(), what); i != std::sregex_iterator(); ++i) f(*i);
}

TEST(BadInputsPage, NamesTestsThatAreThere) {
  const fs::path source = THIMBLE_SOURCE_DIR;
  std::set<std::string> tests;
  const std::regex declared(R"(\nTEST(?:_F|_P)?\((\w+), (\w+)\))"), named(R"(`(\w+\.\w+)`)"), row(R"(\n\| (\d+) \|[^\n]*)");
  for (const auto& entry : fs::recursive_directory_iterator(source / "tests"))
    if (entry.path().extension() == ".cpp") for_each_match(read(entry.path()), declared, [&](const auto& m) { tests.insert(m.str(1) + "." + m.str(2)); });
  ASSERT_GT(tests.size(), 100u);
  std::set<int> cases;
  for_each_match(read(source / "docs/bad-inputs.md"), row, [&](const auto& r) {
    cases.insert(std::stoi(r.str(1)));
    int found = 0;
    for_each_match(r.str(0), named, [&](const auto& m) {
      if (m.str(1).find(".json") != std::string::npos) return;
      EXPECT_TRUE(tests.contains(m.str(1))) << "no test is called " << m.str(1);
      ++found;
    });
    EXPECT_GT(found, 0) << r.str(0);
  });
  std::set<int> all;
  for (int i = 1; i <= 79; ++i)
    if (i < 47 || i > 56) all.insert(i);
  EXPECT_EQ(cases, all);
}

}  // namespace
}  // namespace thimble
