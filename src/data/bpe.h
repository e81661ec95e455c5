// Byte-pair encoding of one piece of text: start from characters, join the neighbours whose merge stands earliest in the list.
// A heap over a linked list, so that ten megabytes of one letter cost n log n and not n squared.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "data/tokenizer_file.h"
#include "data/vocabulary.h"

namespace thimble::data {

// (left, right) -> {rank, joined}: open addressing in one flat block.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = 0;
    int32_t joined = -1;
  };
  MergeTable() = default;
  explicit MergeTable(size_t count);
  void set(int32_t left, int32_t right, uint32_t rank, int32_t joined);
  const Merge* find(int32_t left, int32_t right) const;

 private:
  size_t slot_of(uint64_t pair) const;
  std::vector<Merge> slots_;
  int shift_ = 64;
};

class Bpe {
 public:
  // Scratch of one thread, reused from piece to piece.
  struct Scratch {
    struct Symbol {
      int32_t id, previous, next;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
    int64_t pops = 0;  // of the heap, since the scratch was made: what encoding cost, each pop a logarithm
  };

  // `special`: ids that text never yields, whatever merges the file has; special tokens are cut out before.
  Bpe(TokenizerFile& file, const std::vector<int32_t>& special);
  void encode(std::string_view piece, std::vector<int32_t>& ids, Scratch&) const;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // How much of `piece` may be encoded alone. Where no merge joins a letter with a "▁" behind it, a new word begins at each.
  size_t word_length(std::string_view piece) const;

 private:
  void read_merges(TokenizerFile&);
  void start(std::string_view piece, Scratch&) const;
  void merge(Scratch&) const;
  bool is_special(int32_t id) const { return special_[size_t(id)]; }

  std::string where_;
  Vocabulary vocabulary_;
  MergeTable merges_;
  std::vector<bool> special_;
  std::array<int32_t, 0x300> letters_;  // ids of the commonest characters, -1 where there is none
  std::array<int32_t, 256> bytes_;      // <0x00> ... <0xFF>
  std::optional<int32_t> unknown_;
  bool words_begin_at_blanks_ = false;
  bool byte_fallback_ = false, fuse_unknown_ = false, whole_words_ = false;
};

}  // namespace thimble::data
