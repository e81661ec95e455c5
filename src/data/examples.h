// What a model is trained on: token sequences with the token to be predicted at each place. Examples are picks out of pools, which hold their
// tokens once, four bytes each, in memory or in a mapped file: mixing, choosing and splitting copy no token.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace thimble::data {

constexpr uint32_t learned_bit = uint32_t{1} << 31;  // of a token that the one before it is to predict

struct Example {
  std::span<const uint32_t> tokens;
  int64_t size() const { return int64_t(tokens.size()); }
  int32_t id(int64_t t) const { return int32_t(tokens[size_t(t)] & ~learned_bit); }
  // The id that follows, or -1 where nothing is learned; the last is always -1.
  int32_t target(int64_t t) const { return t + 1 < size() && tokens[size_t(t + 1)] & learned_bit ? id(t + 1) : -1; }
  std::vector<int32_t> ids() const;
  std::vector<int32_t> targets() const;
};

// Examples one after another. Kept by token_file.h's files, or in memory.
class TokenPool {
 public:
  TokenPool(std::vector<uint32_t> tokens, std::vector<int64_t> ends);  // ends: of each example within the tokens
  // The spans lie in the file.
  TokenPool(MappedFile file, std::span<const uint32_t> tokens, std::span<const int64_t> ends, uint64_t hash)
      : file_(std::move(file)), tokens_(tokens), ends_(ends), hash_(hash) {}
  TokenPool(const TokenPool&) = delete;
  TokenPool& operator=(const TokenPool&) = delete;

  int64_t size() const { return int64_t(ends_.size()); }
  int64_t tokens() const { return int64_t(tokens_.size()); }
  Example operator[](int64_t i) const {
    const int64_t begin = i ? ends_[size_t(i - 1)] : 0;
    return {tokens_.subspan(size_t(begin), size_t(ends_[size_t(i)] - begin))};
  }
  uint64_t hash() const { return hash_; }  // XXH64 of tokens and ends

 private:
  std::vector<uint32_t> own_tokens_;
  std::vector<int64_t> own_ends_;
  std::optional<MappedFile> file_;
  std::span<const uint32_t> tokens_;
  std::span<const int64_t> ends_;
  uint64_t hash_;
};

class Examples {
 public:
  Examples() = default;
  explicit Examples(std::shared_ptr<const TokenPool> all);  // each example of one pool, in order

  int64_t size() const { return int64_t(picks_.size()); }
  int64_t tokens() const;
  Example operator[](int64_t i) const {
    const Pick p = picks_[size_t(i)];
    return (*pools_[p.pool])[p.example];
  }
  int64_t length(int64_t i) const { return (*this)[i].size(); }
  void add(const Examples& from, int64_t i);           // one of another's
  void add(const Examples& from) { for (int64_t i = 0; i < from.size(); ++i) add(from, i); }
  uint64_t hash() const;                               // of what is in the pools, and which of it in what order

 private:
  struct Pick {
    uint32_t pool, example;
  };
  std::vector<std::shared_ptr<const TokenPool>> pools_;
  std::vector<Pick> picks_;
};

}  // namespace thimble::data
