// Rows of a data file, one at a time, each with the line it begins on: lines of text or JSON, or the elements of a JSON array.
// Memory is one row, however long the file; what is not clean UTF-8 is an Error that names the line.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "base/file.h"

namespace thimble::data {

struct Row {
  std::string text;
  int64_t line = 0;  // from 1
};

constexpr size_t longest_row = 64 << 20;

class RowReader {
 public:
  // .txt and .jsonl: lines, blank ones skipped. .json: an array, or lines where the file does not start with '['.
  explicit RowReader(const fs::path&);
  bool next(Row&);  // false at the end
  bool is_plain_text() const { return plain_; }
  std::string at_line(int64_t line) const { return path_.string() + ":" + std::to_string(line); }

 private:
  int get();  // the next byte, -1 at the end; counts lines
  int peek();
  void refuse_marks();
  void check_clean(const Row&) const;
  bool next_line(Row&);
  bool next_element(Row&);
  void read_element(Row&);
  int skip_blanks();  // the next byte that is none, not yet taken
  [[noreturn]] void fail(int64_t line, std::string what, std::string expected, std::string found, std::string fix = "") const;

  fs::path path_;
  std::ifstream file_;
  std::vector<char> buffer_;
  size_t at_ = 0, have_ = 0;
  int64_t line_ = 1;
  bool plain_ = false, array_ = false, ended_ = false, first_ = true;
};

}  // namespace thimble::data
