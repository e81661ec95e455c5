// Many short strings in one block: four bytes and no allocation each, so that a vocabulary takes little more than its text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::data {

class Strings {  // of less than 4 GiB together
 public:
  void add(std::string_view s) {
    text_ += s;
    ends_.push_back(uint32_t(text_.size()));
  }
  size_t size() const { return ends_.size(); }
  size_t bytes() const { return text_.size(); }  // of all
  std::string_view operator[](size_t i) const {
    const size_t begin = i ? ends_[i - 1] : 0;
    return std::string_view(text_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string text_;
  std::vector<uint32_t> ends_;
};

}  // namespace thimble::data
