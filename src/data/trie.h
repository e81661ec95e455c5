// Words by their beginnings: all words that a text begins with, in one walk over it.
// Never changed once made; the children of a node lie together, so a step is a search among a few neighbours.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace thimble::data {

class Trie {
 public:
  using Word = std::pair<std::string_view, int32_t>;  // and its value, at least 0
  Trie() = default;
  explicit Trie(std::vector<Word> words);  // none empty; of words that stand twice the last one counts

  bool empty() const { return nodes_.empty(); }
  // found(value, length) for each word that `text` begins with, the shortest first.
  template <class F>
  void prefixes(std::string_view text, F&& found) const {
    size_t node = 0;
    for (size_t i = 0; i < text.size() && node < nodes_.size(); ++i) {
      const auto begin = nodes_.begin() + nodes_[node].first, end = begin + nodes_[node].count;
      const auto label = static_cast<unsigned char>(text[i]);
      const auto child = std::lower_bound(begin, end, label, [](const Node& n, unsigned char c) { return n.label < c; });
      if (child == end || child->label != label) return;
      node = size_t(child - nodes_.begin());
      if (child->value >= 0) found(child->value, i + 1);
    }
  }

 private:
  struct Node {
    uint32_t first = 0;  // its children: nodes_[first], ..., by label
    uint16_t count = 0;
    uint8_t label = 0;
    int32_t value = -1;
  };
  std::vector<Node> nodes_;  // the root first
};

}  // namespace thimble::data
