// Both orders are those in which transformers' converters write their merges.
#include "data/implied_merges.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "data/vocabulary.h"

namespace thimble::data {
namespace {

constexpr size_t longest_token = 1024;  // each beginning of a token is looked up
constexpr size_t most_merges = 1 << 23;

}  // namespace

void add_implied_merges(TokenizerFile& file, FirstHalves first) {
  const Vocabulary vocabulary(file.words, file.ids, file.where, int64_t(2 * file.ids.size() + (1 << 16)));
  std::vector<size_t> order(file.ids.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return file.ids[a] < file.ids[b]; });
  std::vector<std::tuple<int32_t, int32_t, size_t>> halves;
  for (const size_t i : order) {
    const std::string_view word = file.words[i];
    if (word.size() > longest_token || file.merges.size() > 2 * most_merges)
      throw Error(Fault::bad_input,
                  {.what = "a vocabulary is out of bounds",
                   .where = file.where,
                   .expected = fmt::format("tokens of at most {} bytes, put together in {} ways", longest_token, most_merges),
                   .found = fmt::format("\"{}...\" of {} bytes", word.substr(0, 80), word.size())});
    halves.clear();
    for (size_t at = 1; at < word.size(); ++at) {
      if ((word[at] & 0xc0) == 0x80) continue;
      const auto left = vocabulary.find(word.substr(0, at));
      const auto right = left ? vocabulary.find(word.substr(at)) : std::nullopt;
      if (right) halves.emplace_back(*left, *right, at);
    }
    if (first == FirstHalves::lowest) std::sort(halves.begin(), halves.end());
    for (const auto& [left, right, at] : halves) {
      file.merges.add(word.substr(0, at));
      file.merges.add(word.substr(at));
    }
  }
}

}  // namespace thimble::data
