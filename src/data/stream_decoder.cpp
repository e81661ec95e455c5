// A token may end within a character, and the next may begin there, so text is given up to the last U+FFFD, which may yet heal.
// A character has at most four bytes, so four tokens: what is still broken after twice that stays broken.
#include "data/stream_decoder.h"

#include <utility>

namespace thimble::data {
namespace {

constexpr int longest_wait = 8;
constexpr size_t longest_window = 256;
constexpr std::string_view broken = "\ufffd";

}  // namespace

std::string StreamDecoder::push(int32_t id) {
  if (!tokenizer_.token(id) || (skip_special_ && tokenizer_.is_special(id))) return "";
  window_.push_back(id);
  ++idle_;
  return take(idle_ >= longest_wait || window_.size() >= longest_window);
}

std::string StreamDecoder::finish() {
  std::string rest = take(true);
  window_.clear();
  given_.clear();
  settled_ = 0;
  return rest;
}

std::string StreamDecoder::take(bool all) {
  std::string now = tokenizer_.decode(window_, skip_special_);
  size_t sure = now.size();
  while (!all && std::string_view(now).substr(0, sure).ends_with(broken)) sure -= broken.size();
  std::string fresh;
  if (now.starts_with(given_)) {
    if (sure <= given_.size() && !all) return "";
    if (sure > given_.size()) fresh = now.substr(given_.size(), sure - given_.size());
  } else {  // bytes after the last character broke the run that it stood in: what is out stays as it is
    if (sure < now.size()) return "";
    fresh = tokenizer_.decode(std::span(window_).subspan(settled_), skip_special_);
  }
  idle_ = 0;
  if (sure == now.size()) {  // whole: the tokens since the last whole point become the context
    window_.erase(window_.begin(), window_.begin() + ptrdiff_t(settled_));
    settled_ = window_.size();
    now = tokenizer_.decode(window_, skip_special_);
    sure = now.size();
  }
  given_ = now.substr(0, sure);
  return fresh;
}

}  // namespace thimble::data
