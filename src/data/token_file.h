// Tokenised examples on disk, written once and then mapped: a run of any size of data takes no memory for it but what it reads.
// The file, in the machine's byte order: 8 bytes of name; tokens of 4 bytes (id, and the learned bit); zeros up to 8; the end of each example
// within the tokens, 8 bytes each; a report in JSON; and last 8 bytes each: numbers of tokens, examples and bytes of the report, the XXH64 of
// tokens and ends, the XXH64 of all before, and the name again. It appears whole or not at all.
#pragma once
#include <optional>

#include "base/json.h"
#include "data/examples.h"

namespace thimble::data {

class TokenWriter {
 public:
  explicit TokenWriter(const fs::path&);
  // learned, by token: whether this token is to be predicted by the one before it.
  void add(std::span<const int32_t> ids, std::span<const uint8_t> learned);
  int64_t examples() const { return int64_t(ends_.size()); }
  int64_t tokens() const { return tokens_; }
  void commit(const Json& report);

 private:
  void write(const void* data, int64_t bytes);
  void flush();

  AtomicFile file_;
  Xxh64 all_;
  std::vector<uint32_t> waiting_;
  std::vector<int64_t> ends_;
  Xxh64 content_;
  int64_t tokens_ = 0;
};

struct TokenFile {
  std::shared_ptr<const TokenPool> pool;
  Json report;
};
// Nothing where there is no such file, or one that is damaged or holds an id that is not below `vocab`: `why` then says so. Reads all of it.
std::optional<TokenFile> open_tokens(const fs::path&, int64_t vocab, std::string* why = nullptr);

}  // namespace thimble::data
