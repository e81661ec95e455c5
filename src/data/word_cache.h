// The ids of words that were met before. Text repeats its words, so most pieces cost a look-up and no merging.
// One slot a hash and no chains: a newcomer takes the place, so memory is fixed (1 MiB) and a text can only make it slower, never wrong.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace thimble::data {

class WordCache {
 public:
  WordCache() : slots_(size_t{1} << slot_bits) {}

  // Appends the ids of `word` where they are known.
  bool find(std::string_view word, std::vector<int32_t>& ids) const {
    if (word.size() > longest_word) return false;
    const Key key = key_of(word);
    const Slot& slot = slots_[slot_of(key)];
    if (slot.key != key) return false;
    ids.insert(ids.end(), slot.ids.begin(), slot.ids.begin() + slot.count);
    return true;
  }
  void keep(std::string_view word, std::span<const int32_t> ids) {
    if (word.empty() || word.size() > longest_word || ids.size() > most_ids) return;
    const Key key = key_of(word);
    Slot& slot = slots_[slot_of(key)];
    slot.key = key;
    slot.count = int32_t(ids.size());
    std::copy(ids.begin(), ids.end(), slot.ids.begin());
  }

 private:
  static constexpr int slot_bits = 14;
  static constexpr size_t longest_word = 31, most_ids = 7;
  using Key = std::array<uint64_t, 4>;  // the word, zeros, and in the last byte its length; all zero in a free slot
  struct Slot {
    Key key{};
    std::array<int32_t, most_ids> ids{};
    int32_t count = 0;
  };

  static Key key_of(std::string_view word) {
    std::array<char, sizeof(Key)> bytes{};
    std::memcpy(bytes.data(), word.data(), word.size());
    bytes.back() = char(word.size());
    Key key;
    std::memcpy(key.data(), bytes.data(), sizeof key);
    return key;
  }
  static size_t slot_of(const Key& key) {
    uint64_t h = 0;
    for (const uint64_t part : key) h = (h ^ part ^ h >> 32) * 0x9E3779B97F4A7C15u;
    return size_t(h >> (64 - slot_bits));
  }

  std::vector<Slot> slots_;
};

}  // namespace thimble::data
