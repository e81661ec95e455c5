// Ids come from a file, so they are checked before they size anything.
#include "data/vocabulary.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"

namespace thimble::data {

Vocabulary::Vocabulary(std::vector<std::pair<std::string, int64_t>> entries, std::string_view where, int64_t limit) {
  const auto refuse = [&](const std::pair<std::string, int64_t>& e, std::string what, std::string expected) {
    return Error(Fault::bad_input, {.what = std::move(what),
                                    .where = std::string(where),
                                    .expected = std::move(expected),
                                    .found = fmt::format("\"{}\" with id {}", e.first.substr(0, 80), e.second)});
  };
  int64_t most = -1;
  for (const auto& e : entries) {
    if (e.second < 0 || e.second >= limit) throw refuse(e, "an id of the vocabulary is out of range", fmt::format("0 to {}", limit - 1));
    most = std::max(most, e.second);
  }
  tokens_.resize(size_t(most + 1));
  present_.resize(size_t(most + 1));
  ids_.reserve(entries.size());
  for (auto& e : entries) {
    const auto id = size_t(e.second);
    if (present_[id]) throw refuse(e, "two tokens have one id", fmt::format("an id other than that of \"{}\"", tokens_[id].substr(0, 80)));
    present_[id] = true;
    tokens_[id] = std::move(e.first);
    if (!ids_.emplace(tokens_[id], int32_t(id)).second)
      throw refuse({tokens_[id], e.second}, "a token stands twice in the vocabulary", "each token once");
  }
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto it = ids_.find(token);
  return it == ids_.end() ? std::nullopt : std::optional(it->second);
}

const std::string* Vocabulary::token(int64_t id) const {
  return id >= 0 && id < size() && present_[size_t(id)] ? &tokens_[size_t(id)] : nullptr;
}

}  // namespace thimble::data
