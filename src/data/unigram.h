// Unigram: of all ways to write a piece as tokens the one whose log-probabilities sum to the most (Kudo 2018).
// Viterbi over the bytes of the piece, with the rules of the reference tokenizers for characters that no token covers.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_file.h"
#include "data/trie.h"
#include "data/vocabulary.h"

namespace thimble::data {

class Unigram {
 public:
  // Scratch of one thread, reused from piece to piece: by byte, the best way to write what lies before it.
  struct Scratch {
    struct Step {
      double score;
      int32_t id;
      uint32_t length;  // of the last token; 0 where no token ends here
    };
    std::vector<Step> best;
    std::vector<int32_t> ids;
  };

  // `special`: ids that text never yields.
  Unigram(TokenizerFile& file, const std::vector<int32_t>& special);
  void encode(std::string_view piece, std::vector<int32_t>& ids, Scratch&) const;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  size_t word_length(std::string_view piece) const { return piece.size(); }  // a better path may run across any place

 private:
  void walk(std::string_view piece, Scratch&) const;
  void add_unknown(std::string_view text, std::vector<int32_t>& reversed) const;

  std::string where_;
  Vocabulary vocabulary_;
  std::vector<double> scores_;  // by id
  std::vector<bool> special_;
  Trie trie_;
  std::optional<int32_t> unknown_;
  std::array<int32_t, 256> bytes_;  // <0x00> ... <0xFF>; all -1 where bytes do not stand in for the unknown
  double unknown_score_ = 0;
};

}  // namespace thimble::data
