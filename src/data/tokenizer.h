// Text to token ids and back, as a model folder's tokenizer.json says: BPE, byte-level or with byte fallback, or Unigram.
// Checked id by id against the reference tokenizers; threads may share one: each call takes scratch of its own.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/decoder.h"
#include "data/normalizer.h"
#include "data/post_processor.h"
#include "data/pre_tokenizer.h"
#include "data/unigram.h"
#include "data/word_cache.h"

namespace thimble::data {

class Tokenizer {
 public:
  // Reads tokenizer.json, or without it a SentencePiece tokenizer.model or a tiktoken file; and, where they are there,
  // tokenizer_config.json for bos, eos and the add_bos_token of old files, and config.json for bos and eos where the former names none.
  static std::unique_ptr<Tokenizer> open(const fs::path& folder);
  // `config`: the object of tokenizer_config.json, or null.
  Tokenizer(TokenizerFile file, const Json& config);

  // add_special: <s> and the like, as the model expects a text to begin and end. parse_special: "<|im_end|>" in the text becomes
  // that token; with false, text can become no special token whatever it says. Throws Error (bad_input) on invalid UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true, bool parse_special = true) const;
  // A text of several authors, as it is tokenised whole: a special token stands only where `may_be_special` says so of its bytes; none are added.
  // ids_before receives, for each offset of `cuts` (ascending), the tokens that end there or before.
  std::vector<int32_t> encode_parts(std::string_view text, const SpecialRule& may_be_special, std::span<const size_t> cuts, std::vector<size_t>& ids_before) const;
  std::vector<Section> special_tokens(std::string_view text) const;  // those that a text would have, in order
  // Ids that are no token give no text. The result is valid UTF-8; bytes that are no text become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  int64_t vocab_size() const { return size_; }  // the largest id plus one
  // The model has rows for the ids below `rows` alone. Throws Error (bad_input) where a token of the vocabulary lies beyond; an added one may (Gemma's
  // text models have one for images), and it is encode() that throws when a text holds it. open() says so of config.json's vocab_size.
  void limit_to(int64_t rows);
  int64_t id_limit() const { return std::min(size_, rows_); }  // encode() gives ids below
  std::optional<int32_t> bos() const { return bos_; }
  std::optional<int32_t> eos() const { return eos_; }
  std::optional<int32_t> token_id(std::string_view token) const;
  std::optional<std::string_view> token(int32_t id) const;  // as the file spells it; nothing where there is no such id
  bool is_special(int32_t id) const { return id >= 0 && size_t(id) < special_.size() && special_[size_t(id)]; }
  const std::vector<int32_t>& before() const { return post_processor_.before; }  // what add_special puts in front
  const std::vector<int32_t>& after() const { return post_processor_.after; }    // and behind

 private:
  struct Scratch {
    Pieces pieces;
    PreTokenizer::Scratch cut;
    Bpe::Scratch bpe;
    Unigram::Scratch unigram;
    WordCache words;
  };
  // As many as calls ran at one time, with the words that they have met.
  struct ScratchPool {
    std::mutex mutex;
    std::vector<std::unique_ptr<Scratch>> free;
    std::unique_ptr<Scratch> take();
    void give(std::unique_ptr<Scratch>);
  };
  void read_config(const Json& config);
  void check_ids() const;
  void check_rows(std::span<const int32_t> ids) const;
  const Vocabulary& vocabulary() const {
    return std::visit([](const auto& model) -> const Vocabulary& { return model.vocabulary(); }, model_);
  }
  void encode_text(std::string_view text, bool at_start, bool parse_special, std::vector<int32_t>& ids, Scratch&) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids, Scratch&) const;
  std::optional<int32_t> named_token(const Json& config, const char* key) const;

  std::string where_;
  std::vector<AddedToken> added_;
  std::variant<Bpe, Unigram> model_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  PostProcessor post_processor_;
  Decoder decoder_;
  TokenFinder raw_, normalized_;
  Vocabulary added_vocabulary_;
  std::vector<bool> special_;
  int64_t size_ = 0, rows_ = INT64_MAX;
  std::optional<int32_t> bos_, eos_;
  mutable ScratchPool pool_;
};

}  // namespace thimble::data
