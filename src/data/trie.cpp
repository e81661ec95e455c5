// Level by level over the sorted words: a node is a range of words that agree so far, and each run of one next byte is a child.
#include "data/trie.h"

namespace thimble::data {

Trie::Trie(std::vector<Word> words) {
  if (words.empty()) return;
  std::stable_sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.first < b.first; });
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> level{{0, words.size()}}, next;
  nodes_.emplace_back();
  for (size_t depth = 0, node = 0; !level.empty(); ++depth, level = std::move(next), next.clear()) {
    for (const auto [begin, end] : level) {
      size_t at = begin;
      for (; at < end && words[at].first.size() == depth; ++at) nodes_[node].value = words[at].second;
      nodes_[node].first = uint32_t(nodes_.size());
      while (at < end) {
        const auto label = static_cast<unsigned char>(words[at].first[depth]);
        size_t stop = at;
        while (stop < end && static_cast<unsigned char>(words[stop].first[depth]) == label) ++stop;
        nodes_.push_back({.label = label});
        ++nodes_[node].count;
        next.push_back({at, stop});
        at = stop;
      }
      ++node;
    }
  }
}

}  // namespace thimble::data
