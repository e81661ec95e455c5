// Drives a fuzz target where there is no libFuzzer: each seed as it is, then seeded mutations of the seeds, the same ones on every machine.
// usage: NAME_fuzz FOLDER_OF_SEEDS [ROUNDS]; what an input looked like that ended the program lies in ./fuzz-NAME-last
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/philox.h"
#include "target.h"

namespace {

using thimble::Draws;
namespace fs = std::filesystem;

std::string mutated(std::string input, const std::vector<std::string>& seeds, Draws& draws) {
  const auto place = [&] { return size_t(draws.below(input.size() + 1)); };
  for (uint64_t n = 1 + draws.below(4); n > 0; --n) {
    const size_t at = place(), length = std::min(input.size() - at, size_t(1 + draws.below(draws.below(2) ? 4 : 64)));
    const std::string& other = seeds[draws.below(seeds.size())];
    switch (draws.below(7)) {
      case 0:
        input.erase(at, length);
        break;
      case 1:
        input.insert(at, 1, char(draws.below(256)));
        break;
      case 2:
        if (at < input.size()) input[at] = char(input[at] ^ (1 << draws.below(8)));
        break;
      case 3:
        input.insert(place(), input.substr(at, length));
        break;
      case 4:
        input.resize(at);
        break;
      case 5: {
        const size_t from = size_t(draws.below(other.size() + 1));
        input.insert(at, other.substr(from, size_t(draws.below(64))));
        break;
      }
      default: {
        constexpr std::string_view numbers[] = {
            "0", "-1", "255", "2147483648", "4294967295", "18446744073709551615", "1e999", "\xff\xff\xff\xff"};
        input.replace(at, length, numbers[draws.below(std::size(numbers))]);
      }
    }
  }
  return input;
}

void run(const std::string& input, const std::string& last) {
  std::FILE* f = std::fopen(last.c_str(), "wb");  // before, since the program may not live to write it after
  if (f) std::fwrite(input.data(), 1, input.size(), f), std::fclose(f);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: %s FOLDER_OF_SEEDS [ROUNDS]\n", argv[0]), 2;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 2000;
  const std::string last = "fuzz-" + fs::path(argv[1]).filename().string() + "-last";
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<std::string> seeds;
  for (const fs::path& file : files) seeds.push_back(thimble::read_text(file));
  if (seeds.empty()) return std::fprintf(stderr, "%s holds no seeds\n", argv[1]), 2;
  for (const std::string& seed : seeds) run(seed, last);
  Draws draws{1};
  for (int i = 0; i < rounds; ++i) run(mutated(seeds[draws.below(seeds.size())], seeds, draws), last);
  fs::remove(last);
  std::printf("%zu seeds and %d mutations\n", seeds.size(), rounds);
}
