// thimble-encode FOLDER FILE ROUNDS: encodes the lines of FILE as documents of 64 KiB on one thread and prints bytes, ids and the seconds
// of processor time of each round. Read by benchmarks/token_speed.py, which runs the reference tokenizers in between.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "data/tokenizer.h"

int main(int argc, char** argv) {
  using namespace thimble;
  if (argc != 4) return std::fprintf(stderr, "usage: %s FOLDER FILE ROUNDS\n", argv[0]), 2;
  try {
    const auto tokenizer = data::Tokenizer::open(argv[1]);
    const std::string text = read_text(argv[2]);
    for (int round = std::atoi(argv[3]); round > 0; --round) {
      size_t ids = 0;
      const std::clock_t begin = std::clock();
      for (size_t at = 0, end = 0; at < text.size(); at = end) {
        end = std::min(text.find('\n', std::min(at + (64 << 10), text.size())), text.size() - 1) + 1;
        ids += tokenizer->encode(std::string_view(text).substr(at, end - at), false).size();
      }
      const double seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
      std::printf("%zu %zu %.4f\n", text.size(), ids, seconds);
      std::fflush(stdout);
    }
  } catch (const Error& e) {
    return std::fprintf(stderr, "%s\n", e.what()), int(e.fault());
  }
}
