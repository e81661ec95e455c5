// The order of merges is that of the reference tokenizers: least rank first, then leftmost.
#include "data/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <utility>

#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr std::string_view blank = "▁";

[[noreturn]] void refuse(const std::string& where, std::string what, std::string expected, std::string found, std::string fix = "") {
  throw Error(Fault::bad_input,
              {.what = std::move(what), .where = where, .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
}

uint64_t pair_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

void check_model(const Json& model, const std::string& where) {
  for (const auto* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const auto affix = value_or<std::string>(model, key, "", where); !affix.empty())
      fail_field(where, key, "null or an empty string", &model[key]);
  if (value_or(model, "dropout", 0.0, where) != 0) fail_field(where, "dropout", "null or 0", &model["dropout"]);
}

}  // namespace

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(2 * count + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

size_t MergeTable::slot_of(uint64_t pair) const {
  size_t at = size_t((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> shift_);
  while (slots_[at].pair != pair && slots_[at].joined >= 0) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void MergeTable::set(int32_t left, int32_t right, uint32_t rank, int32_t joined) {
  slots_[slot_of(pair_of(left, right))] = {pair_of(left, right), rank, joined};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Merge& m = slots_[slot_of(pair_of(left, right))];
  return m.joined >= 0 ? &m : nullptr;
}

Bpe::Bpe(TokenizerFile& file, const std::vector<int32_t>& special) : where_(file.where) {
  const Json& model = file.rest["model"];
  check_model(model, where_);
  // A token of n bytes is put together in at most n - 1 ways; checked before the merges' table is made.
  if (file.merges.size() / 2 > file.words.bytes())
    refuse(where_, "there are more merges than ways to put tokens together", fmt::format("at most {}", file.words.bytes()), std::to_string(file.merges.size() / 2));
  const int64_t limit = 2 * int64_t(file.ids.size()) + (1 << 16);  // gaps are left for added tokens; wide ones are a damaged file
  vocabulary_ = Vocabulary(std::move(file.words), std::exchange(file.ids, {}), where_, limit);
  if (vocabulary_.size() == 0) refuse(where_, "the tokenizer has no vocabulary", "tokens in model.vocab", "none");
  byte_fallback_ = value_or(model, "byte_fallback", false, where_);
  fuse_unknown_ = value_or(model, "fuse_unk", false, where_);
  whole_words_ = value_or(model, "ignore_merges", false, where_);
  if (const auto unk = value_or<std::string>(model, "unk_token", "", where_); !unk.empty()) {
    unknown_ = vocabulary_.find(unk);
    if (!unknown_) refuse(where_, "the unknown token is not in the vocabulary", "model.unk_token in model.vocab", unk);
  }
  special_.resize(size_t(vocabulary_.size()));
  for (const int32_t id : special)
    if (id < vocabulary_.size()) special_[size_t(id)] = true;
  for (size_t c = 0; c < letters_.size(); ++c) letters_[c] = vocabulary_.find(to_utf8(char32_t(c))).value_or(-1);
  if (byte_fallback_) bytes_ = byte_tokens(vocabulary_, where_);
  read_merges(file);
}

void Bpe::read_merges(TokenizerFile& file) {
  const Strings merges = std::move(file.merges);
  merges_ = MergeTable(merges.size() / 2);
  words_begin_at_blanks_ = !whole_words_ && vocabulary_.find(blank);
  std::string both;
  int32_t last = -1;
  for (size_t rank = 0; rank < merges.size() / 2; ++rank) {
    const std::string_view left = merges[2 * rank], right = merges[2 * rank + 1];
    const auto shown = [&] { return fmt::format("merge {}: \"{}\" and \"{}\"", rank, left.substr(0, 40), right.substr(0, 40)); };
    both.assign(left).append(right);
    const auto a = vocabulary_.find(left), b = vocabulary_.find(right);
    const bool is_next = vocabulary_.token(last + 1) == both;  // most vocabularies are in the order of the merges that made them
    const auto joined = is_next ? std::optional(last + 1) : vocabulary_.find(both);
    if (left.empty() || right.empty()) refuse(where_, "a merge joins an empty token", "two tokens", shown());
    if (!a || !b || !joined)
      refuse(where_, "a merge speaks of a token that is not in the vocabulary", "both tokens and the two joined in model.vocab", shown());
    last = *joined;
    if (!left.ends_with(blank) && right.starts_with(blank)) words_begin_at_blanks_ = false;
    if (!is_special(*joined)) merges_.set(*a, *b, uint32_t(rank), *joined);
  }
}

size_t Bpe::word_length(std::string_view piece) const {
  if (!words_begin_at_blanks_) return piece.size();
  size_t at = 0;
  while (piece.substr(at).starts_with(blank)) at += blank.size();
  return std::min(piece.find(blank, at), piece.size());
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids, Scratch& s) const {
  if (whole_words_)
    if (const auto id = vocabulary_.find(piece); id && !is_special(*id)) return ids.push_back(*id);
  start(piece, s);
  merge(s);
  for (int32_t i = s.symbols.empty() ? -1 : 0; i >= 0; i = s.symbols[size_t(i)].next) ids.push_back(s.symbols[size_t(i)].id);
}

void Bpe::start(std::string_view piece, Scratch& s) const {
  if (piece.size() > size_t(std::numeric_limits<int32_t>::max()))
    refuse(where_, "a piece of text is too long", "less than 2 GiB", fmt::format("{} bytes", piece.size()));
  s.symbols.clear();
  bool after_unknown = false;
  const auto add = [&](int32_t id) {
    const auto at = int32_t(s.symbols.size());
    s.symbols.push_back({id, at - 1, at + 1});
  };
  for (size_t at = 0; at < piece.size();) {
    const CodePoint c = code_point_at(piece, at);
    const std::string_view letter = piece.substr(at, size_t(c.bytes));
    const int32_t id = c.value < letters_.size() ? letters_[c.value] : vocabulary_.find(letter).value_or(-1);
    const bool known = id >= 0 || byte_fallback_;
    if (id >= 0) {
      add(id);
    } else if (byte_fallback_) {
      for (const char b : letter) add(bytes_[static_cast<unsigned char>(b)]);
    } else if (!unknown_) {
      refuse(where_, "a character has no token, and the tokenizer has no token for unknown ones",
             "text made of the characters of its vocabulary", fmt::format("\"{}\" (U+{:04X})", letter, uint32_t(c.value)));
    } else if (!after_unknown || !fuse_unknown_) {
      add(*unknown_);
    }
    after_unknown = !known;
    at += size_t(c.bytes);
  }
  if (!s.symbols.empty()) s.symbols.back().next = -1;
}

// The heap holds rank << 32 | position of the left symbol. An entry is stale when its pair has changed since; then its rank no
// longer fits, for the pair at a position only ever grows.
void Bpe::merge(Scratch& s) const {
  auto& symbols = s.symbols;
  auto& heap = s.heap;
  heap.clear();
  const auto merge_at = [&](int32_t at) -> const MergeTable::Merge* {
    const int32_t next = symbols[size_t(at)].next;
    return symbols[size_t(at)].id < 0 || next < 0 ? nullptr : merges_.find(symbols[size_t(at)].id, symbols[size_t(next)].id);
  };
  for (int32_t i = 0; i + 1 < int32_t(symbols.size()); ++i)
    if (const auto* m = merge_at(i)) heap.push_back(uint64_t{m->rank} << 32 | uint32_t(i));
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t at) {
    const auto* m = at < 0 ? nullptr : merge_at(at);
    if (!m) return;
    heap.push_back(uint64_t{m->rank} << 32 | uint32_t(at));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    ++s.pops;
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto at = int32_t(heap.back() & 0xffffffffu);
    const auto rank = uint32_t(heap.back() >> 32);
    heap.pop_back();
    const auto* m = merge_at(at);
    if (!m || m->rank != rank) continue;
    auto& left = symbols[size_t(at)];
    auto& right = symbols[size_t(left.next)];
    left.id = m->joined;
    left.next = right.next;
    right.id = -1;  // gone
    if (left.next >= 0) symbols[size_t(left.next)].previous = at;
    push(left.previous);
    push(at);
  }
}

}  // namespace thimble::data
