// A path never fails: a character that no token covers costs ten more than the least likely token.
#include "data/unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr double unknown_penalty = 10;
constexpr size_t longest_token = 1024;  // bounds the work per byte of text; SentencePiece trains at most 16 characters by default

}  // namespace

Unigram::Unigram(TokenizerFile& file, const std::vector<int32_t>& special) : where_(file.where), scores_(std::move(file.scores)) {
  const Json& model = file.rest["model"];
  for (size_t i = 0; i < file.words.size(); ++i) {
    if (file.words[i].empty() || file.words[i].size() > longest_token || !std::isfinite(scores_[i]))
      throw Error(Fault::bad_input, {.what = "a token of the vocabulary is no Unigram token",
                                     .where = fmt::format("{}, model.vocab[{}]", where_, i),
                                     .expected = fmt::format("1 to {} bytes of text and a finite score", longest_token),
                                     .found = fmt::format("\"{}\" with score {}", file.words[i].substr(0, 80), scores_[i])});
  }
  vocabulary_ = Vocabulary(std::move(file.words), file.ids, where_, int64_t(file.ids.size()));
  if (vocabulary_.size() == 0) fail_field(where_, "model.vocab", "tokens", nullptr);
  if (model.contains("unk_id") && !model["unk_id"].is_null()) {
    const auto id = require<int64_t>(model, "unk_id", where_);
    if (!vocabulary_.token(id)) fail_field(where_, "model.unk_id", fmt::format("an id below {}", vocabulary_.size()), &model["unk_id"]);
    unknown_ = int32_t(id);
  }
  unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - unknown_penalty;
  bytes_.fill(-1);
  if (value_or(model, "byte_fallback", false, where_)) bytes_ = byte_tokens(vocabulary_, where_);
  special_.resize(size_t(vocabulary_.size()));
  for (const int32_t id : special)
    if (id < vocabulary_.size()) special_[size_t(id)] = true;
  std::vector<Trie::Word> words;
  for (int32_t id = 0; id < vocabulary_.size(); ++id)
    if (!special_[size_t(id)]) words.emplace_back(*vocabulary_.token(id), id);
  trie_ = Trie(std::move(words));
}

void Unigram::walk(std::string_view piece, Scratch& s) const {
  s.best.assign(piece.size() + 1, {0, -1, 0});
  for (size_t at = 0; at < piece.size();) {
    const double before = s.best[at].score;
    const auto offer = [&](int32_t id, size_t length, double score) {
      auto& there = s.best[at + length];
      if (there.length == 0 || before + score > there.score) there = {before + score, id, uint32_t(length)};
    };
    const auto character = size_t(code_point_at(piece, at).bytes);
    bool covered = false;
    trie_.prefixes(piece.substr(at), [&](int32_t id, size_t length) {
      offer(id, length, scores_[size_t(id)]);
      covered = covered || length == character;
    });
    if (!covered) offer(-1, character, unknown_score_);
    at += character;
  }
}

// Neighbouring unknown characters are one; where all its bytes have tokens, these stand for it.
void Unigram::add_unknown(std::string_view text, std::vector<int32_t>& reversed) const {
  const auto byte = [&](char c) { return bytes_[static_cast<unsigned char>(c)]; };
  if (const auto id = vocabulary_.find(text); id && !special_[size_t(*id)]) return reversed.push_back(*id);
  if (std::all_of(text.begin(), text.end(), [&](char c) { return byte(c) >= 0; })) {
    for (auto c = text.rbegin(); c != text.rend(); ++c) reversed.push_back(byte(*c));
    return;
  }
  if (!unknown_)
    throw Error(Fault::bad_input, {.what = "a text has characters without a token, and the tokenizer has no token for unknown ones",
                                   .where = where_,
                                   .expected = "text made of the characters of its vocabulary",
                                   .found = fmt::format("\"{}\"", text.substr(0, 80))});
  reversed.push_back(*unknown_);
}

void Unigram::encode(std::string_view piece, std::vector<int32_t>& ids, Scratch& s) const {
  if (piece.size() >= size_t(std::numeric_limits<uint32_t>::max()))
    throw Error(Fault::bad_input, {.what = "a piece of text is too long", .where = where_, .expected = "less than 4 GiB"});
  walk(piece, s);
  s.ids.clear();
  for (size_t end = piece.size(); end > 0;) {
    size_t begin = end - s.best[end].length;
    const int32_t id = s.best[end].id;
    const bool unknown = id < 0 || id == unknown_;
    while (unknown && begin > 0 && (s.best[begin].id < 0 || s.best[begin].id == unknown_)) begin -= s.best[begin].length;
    if (unknown) add_unknown(piece.substr(begin, end - begin), s.ids);
    else s.ids.push_back(id);
    end = begin;
  }
  ids.insert(ids.end(), s.ids.rbegin(), s.ids.rend());
}

}  // namespace thimble::data
