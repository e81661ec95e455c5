// Of several strings the one that begins first ends the text. What is held back is never longer than the longest of them.
#include "serve/stop_strings.h"

#include <algorithm>
#include <utility>

namespace thimble::serve {

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return "";
  held_ += text;
  size_t end = held_.npos;
  for (const std::string& s : strings_) end = std::min(end, held_.find(s));
  if (end != held_.npos) {
    stopped_ = true;
    held_.resize(end);
    return std::exchange(held_, "");
  }
  size_t sure = held_.size();
  for (const std::string& s : strings_) {
    for (size_t n = std::min(s.size() - 1, held_.size()); n > 0; --n) {
      if (!std::string_view(held_).ends_with(std::string_view(s).substr(0, n))) continue;
      sure = std::min(sure, held_.size() - n);
      break;
    }
  }
  std::string out = held_.substr(0, sure);
  held_.erase(0, sure);
  return out;
}

std::string StopStrings::finish() { return std::exchange(held_, ""); }

}  // namespace thimble::serve
