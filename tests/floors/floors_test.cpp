// The floors of the house, checked by reading: which room may include which stands in CMakeLists.txt, where it is the link line too.
// The rules are plain functions over a path and a text, so that each is also shown a file that breaks it.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <ostream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace thimble {

namespace {

namespace fs = std::filesystem;

using Rooms = std::map<std::string, std::set<std::string>>;  // a room and those that it may include, itself among them

constexpr int line_limit = 600;
const char* const vendor_headers = "(cuda|cudnn|cublas|nccl|nvtx|nvrtc|cub/|cutlass|cute/|thrust|nvml|cooperative_groups|mma\\.h)";

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::stringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

Rooms read_rooms(const std::string& cmake) {
  Rooms rooms;
  std::string commands;
  for (const std::string& line : lines_of(cmake)) commands += line.substr(0, line.find('#')) + "\n";
  const std::regex room("thimble_room\\(\\s*(\\w+)\\s*([^)]*)\\)");
  for (std::sregex_iterator it(commands.begin(), commands.end(), room), end; it != end; ++it) {
    std::stringstream words((*it)[2].str());
    std::set<std::string>& uses = rooms[(*it)[1].str()] = {(*it)[1].str()};
    bool in_uses = false;
    for (std::string word; words >> word;) {
      if (word == "USES" || word == "LIBS") in_uses = word == "USES";
      else if (in_uses) uses.insert(word);
    }
  }
  std::set<std::string>& cli = rooms["cli"] = {"cli"};
  for (const auto& [name, uses] : rooms) cli.insert(name);
  return rooms;
}

std::string room_of(const std::string& path) { return path.substr(0, path.find('/')); }  // of "ops/linear.h"

bool may_know_the_vendor(const std::string& path) {
  return room_of(path) == "device" || path.ends_with(".cu") || path.ends_with(".cuh") || path == "ops/attention_cudnn.cpp" || path == "comm/nccl.cpp";
}

// A line without its comments and the contents of its strings, which may name anything.
std::string code_of(const std::string& line) {
  std::string code;
  bool in_string = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (in_string && line[i] == '\\') { ++i; continue; }
    if (line[i] == '"') in_string = !in_string;
    else if (!in_string && line.compare(i, 2, "//") == 0) break;
    else if (!in_string) code += line[i];
  }
  return code;
}

// What `path` (below src/) does that it must not, one sentence each.
std::vector<std::string> violations(const Rooms& rooms, const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  const auto say = [&](size_t line, const std::string& what) { found.push_back("src/" + path + ":" + std::to_string(line) + ": " + what); };
  const std::string room = room_of(path);
  const auto allowed = rooms.find(room);
  if (allowed == rooms.end()) {
    say(0, "the room '" + room + "' has no thimble_room line in CMakeLists.txt");
    return found;
  }
  const std::regex include("^\\s*#\\s*include\\s*([<\"])([^>\"]+)[>\"]"), vendor(vendor_headers, std::regex::icase), environment("\\bgetenv\\b|\\benviron\\b");
  const std::vector<std::string> lines = lines_of(text);
  for (size_t i = 0; i < lines.size(); ++i) {
    std::smatch m;
    if (std::regex_search(lines[i], m, include)) {
      const std::string header = m[2], other = room_of(header);
      if (m[1] == "\"") {
        if (header.find('/') == std::string::npos || header.find("..") != std::string::npos) say(i + 1, "'" + header + "' is not written as \"room/file\"");
        else if (!rooms.contains(other)) say(i + 1, "'" + header + "' is in no room");
        else if (!allowed->second.contains(other)) say(i + 1, room + " may not include " + other + " (" + header + ")");
      } else if (header.find('/') != std::string::npos && rooms.contains(other)) {
        say(i + 1, "'" + header + "' is ours and stands in quotes");
      } else if (!may_know_the_vendor(path) && std::regex_search(header, vendor, std::regex_constants::match_continuous)) {
        say(i + 1, "<" + header + "> belongs in device/, a .cu file, ops/attention_cudnn.cpp or comm/nccl.cpp");
      }
    }
    if (room != "cli" && std::regex_search(code_of(lines[i]), environment)) say(i + 1, "the environment is read in cli only");
  }
  if (lines.size() > size_t(line_limit)) say(lines.size(), "more than " + std::to_string(line_limit) + " lines");
  if (!text.starts_with("// ")) say(1, "the first line does not say what the file is");
  if (path.ends_with(".h") && room != "device" && text.find("THIMBLE_CUDA") != std::string::npos) say(0, "a header above device depends on how the build is configured");
  return found;
}

bool is_source(const fs::path& path) {
  static const std::set<std::string> kinds{".h", ".cpp", ".cu", ".cuh", ".hpp", ".cc"};
  return kinds.contains(path.extension().string());
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

const fs::path root = THIMBLE_SOURCE_DIR;

Rooms our_rooms() { return read_rooms(read(root / "CMakeLists.txt")); }

std::vector<fs::path> sources_under(const fs::path& folder) {
  std::vector<fs::path> paths;
  if (fs::exists(folder))
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file() && is_source(entry.path())) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

TEST(Floors, ListsAreReadFromCmake) {
  const Rooms rooms = our_rooms();
  ASSERT_GE(rooms.size(), 14u) << "rooms of the design, and cli";
  EXPECT_EQ(rooms.at("base"), (std::set<std::string>{"base"}));
  EXPECT_TRUE(rooms.at("ops").contains("quant"));
  EXPECT_FALSE(rooms.at("ops").contains("nn"));
  EXPECT_FALSE(rooms.at("train").contains("serve"));
  EXPECT_FALSE(rooms.at("serve").contains("train"));
}

TEST(Floors, RoomsStandOnEachOtherWithoutACircle) {
  Rooms left = our_rooms();
  for (const auto& [room, uses] : left)
    for (const std::string& other : uses) ASSERT_TRUE(left.contains(other)) << room << " uses " << other << ", which has no thimble_room line";
  for (bool lifted = true; lifted;) {  // rooms that stand on nothing that is left are lifted off, until none is
    const auto ground = std::find_if(left.begin(), left.end(), [&](const auto& entry) {
      return std::none_of(entry.second.begin(), entry.second.end(), [&](const std::string& other) { return other != entry.first && left.contains(other); });
    });
    lifted = ground != left.end();
    if (lifted) left.erase(ground);
  }
  EXPECT_TRUE(left.empty()) << left.size() << " rooms stand on each other, among them " << left.begin()->first;
}

TEST(Floors, EveryFileKeepsThem) {
  const Rooms rooms = our_rooms();
  const auto paths = sources_under(root / "src");
  ASSERT_GT(paths.size(), 50u);
  for (const fs::path& path : paths) {
    const auto found = violations(rooms, fs::relative(path, root / "src").generic_string(), read(path));
    EXPECT_TRUE(found.empty()) << joined(found);
  }
}

TEST(Floors, TestsAndExamplesAreShortAndSayWhatTheyAre) {
  for (const char* folder : {"tests", "examples", "benchmarks"})
    for (const fs::path& path : sources_under(root / folder)) {
      const std::string text = read(path);
      EXPECT_TRUE(text.starts_with("// ")) << path;
      EXPECT_LE(std::count(text.begin(), text.end(), '\n'), line_limit) << path;
    }
}

struct Planted {
  const char* path;
  const char* text;
  const char* says;  // part of the one violation; empty: the file is in order
};
void PrintTo(const Planted& p, std::ostream* out) { *out << p.path; }  // in the test's name

class Checker : public testing::TestWithParam<Planted> {};

TEST_P(Checker, SeesWhatIsPlanted) {
  const Rooms rooms = read_rooms("thimble_room(base LIBS fmt)\nthimble_room(device USES base)\nthimble_room(ops\n  USES base device LIBS ${DNNL})\nthimble_room(nn USES base device ops)\n");
  const auto found = violations(rooms, GetParam().path, GetParam().text);
  if (*GetParam().says == 0) {
    EXPECT_TRUE(found.empty()) << joined(found);
  } else {
    ASSERT_EQ(found.size(), 1u) << joined(found);
    EXPECT_NE(found[0].find(GetParam().says), std::string::npos) << found[0];
  }
}

const Planted planted[] = {
    {"ops/a.cpp", "// An op.\n#include \"ops/a.h\"\n#include <vector>\n#include \"base/dtype.h\"\n", ""},
    {"cli/main.cpp", "// The program.\n#include \"nn/mlp.h\"\nconst char* e = std::getenv(\"X\");\n", ""},
    {"ops/a.cpp", "// An op that reaches up.\n#include \"nn/mlp.h\"\n", "ops may not include nn"},
    {"base/a.h", "// A word that knows a device.\n  #  include \"device/arena.h\"\n", "base may not include device"},
    {"ops/a.cpp", "// An op.\n#include \"a.h\"\n", "not written as"},
    {"ops/a.cpp", "// An op.\n#include \"ops/../nn/mlp.h\"\n", "not written as"},
    {"ops/a.cpp", "// An op.\n#include \"attic/a.h\"\n", "in no room"},
    {"ops/a.cpp", "// An op.\n#include <nn/mlp.h>\n", "stands in quotes"},
    {"attic/a.h", "// A file in a folder nobody named.\n", "no thimble_room line"},
    {"nn/a.h", "// A header above device.\n#include <cuda_runtime.h>\n", "belongs in device/"},
    {"ops/a.cpp", "// C++ that knows the vendor.\n#include <cublasLt.h>\n", "belongs in device/"},
    {"ops/attention_cudnn.cpp", "// The one that may.\n#include <cudnn_frontend.h>\n", ""},
    {"ops/a.cu", "// Kernels.\n#include <cuda_bf16.h>\n", ""},
    {"device/a.cpp", "// The device.\n#include <cuda_runtime.h>\n", ""},
    {"ops/a.cpp", "// An op.\nauto e = getenv(\"HOME\");\n", "environment"},
    {"ops/a.cpp", "// An op.\nint x;  // unlike getenv, this is fine\nauto s = \"getenv\";\n", ""},
    {"ops/a.cpp", "#include <vector>\n", "what the file is"},
    {"nn/a.h", "// A header that depends on the build.\n#ifdef THIMBLE_CUDA\n", "how the build is configured"},
};

INSTANTIATE_TEST_SUITE_P(Floors, Checker, testing::ValuesIn(planted));

TEST(Floors, CheckerSeesALongFile) {
  const Rooms rooms = read_rooms("thimble_room(base LIBS fmt)");
  std::string text = "// A file.\n";
  for (int i = 1; i < line_limit; ++i) text += "int x;\n";
  EXPECT_TRUE(violations(rooms, "base/a.h", text).empty());
  EXPECT_EQ(violations(rooms, "base/a.h", text + "int x;\n").size(), 1u);
}

}  // namespace thimble
