// Rows of a data file, one at a time: whatever the kind of file, a row comes as the text of one JSON object with the place it stands at.
// Memory is one row (of parquet one page a column), however long the file; damage is an Error that names the place.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace thimble::data {

struct Row {
  std::string text;
  int64_t line = 0;  // the line on which it begins, from 1; of a parquet file the row
};

constexpr size_t longest_row = 64 << 20;

class RowReader {
 public:
  virtual ~RowReader() = default;
  virtual bool next(Row&) = 0;                          // false at the end
  virtual bool is_plain_text() const { return false; }  // a row is a document, not JSON
  std::string at_line(int64_t line) const { return path_.string() + unit_ + std::to_string(line); }

 protected:
  explicit RowReader(fs::path path, const char* unit = ":") : path_(std::move(path)), unit_(unit) {}
  [[noreturn]] void fail(int64_t line, std::string what, std::string expected, std::string found, std::string fix = "") const {
    throw Error(Fault::bad_input, {.what = std::move(what), .where = at_line(line), .expected = std::move(expected), .found = std::move(found),
                                   .fix = std::move(fix)});
  }
  fs::path path_;

 private:
  const char* unit_;
};

// By the file's ending: .jsonl, .ndjson, .json, .txt, .csv, .tsv or .parquet.
std::unique_ptr<RowReader> open_rows(const fs::path&);
bool is_data_file(const fs::path&);

// A file as it stands; of a folder all data files directly in it, sorted by name.
std::vector<fs::path> data_files(const fs::path& file_or_folder);

}  // namespace thimble::data
