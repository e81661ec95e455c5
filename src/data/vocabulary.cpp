// Ids come from a file, so they are checked before they size anything.
#include "data/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/error.h"

namespace thimble::data {
namespace {

constexpr int id_bits = 24;  // of a slot; the seven above them are the hash's, so that hardly another word is compared
constexpr int32_t id_mask = (1 << id_bits) - 1;

size_t hash_of(std::string_view token) { return std::hash<std::string_view>{}(token); }
int32_t tag_of(size_t hash) { return int32_t(hash >> 57); }

}  // namespace

Vocabulary::Vocabulary(Strings words, const std::vector<int64_t>& ids, std::string_view where, int64_t limit) : words_(std::move(words)) {
  check(words_.size() == ids.size(), "each word has an id");
  const auto refuse = [&](size_t i, std::string what, std::string expected) {
    return Error(Fault::bad_input, {.what = std::move(what),
                                    .where = std::string(where),
                                    .expected = std::move(expected),
                                    .found = fmt::format("\"{}\" with id {}", words_[i].substr(0, 80), ids[i])});
  };
  int64_t most = -1;
  limit = std::min<int64_t>(limit, id_mask);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= limit) throw refuse(i, "an id of the vocabulary is out of range", fmt::format("0 to {}", limit - 1));
    most = std::max(most, ids[i]);
  }
  by_id_.assign(size_t(most + 1), -1);
  slots_.assign(std::bit_ceil(ids.size() + ids.size() / 2 + 1), -1);
  for (size_t i = 0; i < ids.size(); ++i) {
    int32_t& place = by_id_[size_t(ids[i])];
    if (place >= 0)
      throw refuse(i, "two tokens have one id", fmt::format("an id other than that of \"{}\"", words_[size_t(place)].substr(0, 80)));
    const size_t hash = hash_of(words_[i]);
    int32_t& slot = slots_[slot_of(words_[i], hash)];
    if (slot >= 0) throw refuse(i, "a token stands twice in the vocabulary", "each token once");
    place = int32_t(i);
    slot = tag_of(hash) << id_bits | int32_t(ids[i]);
  }
}

size_t Vocabulary::slot_of(std::string_view token, size_t hash) const {
  const auto is_here = [&](int32_t slot) { return slot >> id_bits == tag_of(hash) && words_[size_t(by_id_[size_t(slot & id_mask)])] == token; };
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at] >= 0 && !is_here(slots_[at])) at = (at + 1) & (slots_.size() - 1);
  return at;
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  if (slots_.empty()) return std::nullopt;
  const int32_t slot = slots_[slot_of(token, hash_of(token))];
  return slot < 0 ? std::nullopt : std::optional(slot & id_mask);
}

std::optional<std::string_view> Vocabulary::token(int64_t id) const {
  if (id < 0 || id >= size() || by_id_[size_t(id)] < 0) return std::nullopt;
  return words_[size_t(by_id_[size_t(id)])];
}

std::array<int32_t, 256> byte_tokens(const Vocabulary& vocabulary, std::string_view where) {
  std::array<int32_t, 256> ids{};
  for (size_t b = 0; b < ids.size(); ++b) {
    const std::string token = fmt::format("<0x{:02X}>", b);
    const auto id = vocabulary.find(token);
    if (!id)
      throw Error(Fault::bad_input, {.what = "byte_fallback is true, but a byte has no token",
                                     .where = std::string(where),
                                     .expected = token + " in the vocabulary",
                                     .found = "no such token"});
    ids[b] = *id;
  }
  return ids;
}

}  // namespace thimble::data
