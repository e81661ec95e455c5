// A text file read in pieces, with the count of lines that readers name in their errors.
#pragma once
#include <fstream>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace thimble::data {

class ByteStream {
 public:
  static constexpr int end = -1;
  // Passes over a UTF-8 byte order mark; throws Error (bad_input) on UTF-16 and on a file that cannot be read.
  explicit ByteStream(const fs::path&);
  int peek() { return at_ < have_ || refill() ? static_cast<unsigned char>(buffer_[at_]) : end; }
  int get() {
    const int c = peek();
    if (c != end) ++at_;
    line_ += c == '\n';
    return c;
  }
  std::string_view ahead() { return peek() == end ? std::string_view() : std::string_view(buffer_.data() + at_, have_ - at_); }  // some of what comes
  void skip(size_t n, int64_t lines) { at_ += n, line_ += lines; }  // of ahead()
  int64_t line() const { return line_; }  // of the next byte, from 1

 private:
  bool refill();
  fs::path path_;
  std::ifstream file_;
  std::vector<char> buffer_;
  size_t at_ = 0, have_ = 0;
  int64_t line_ = 1;
};

}  // namespace thimble::data
