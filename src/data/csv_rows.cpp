// One record at a time, by the grammar of RFC 4180; what is ambiguous is refused with its line.
#include "data/csv_rows.h"

#include <algorithm>

#include "base/json.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr size_t most_columns = 1024;

}  // namespace

CsvRows::CsvRows(const fs::path& path, char separator) : RowReader(path), bytes_(path), separator_(separator) {
  int64_t line = 1;
  if (!read_record(header_, line)) return;
  for (const std::string& name : header_)
    if (first_invalid_utf8(name) != name.npos) fail(line, "a data file is not valid UTF-8", "UTF-8", "other bytes in its header", "iconv -f ENCODING -t UTF-8 FILE > NEW");
  std::vector<std::string> sorted = header_;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
    fail(line, "two columns of a table have one name", "a header line with different names", fmt::format("'{}' twice", twice->substr(0, 80)));
}

bool CsvRows::next(Row& row) {
  if (!read_record(cells_, row.line)) return false;
  if (cells_.size() != header_.size())
    fail(row.line, "a row of a table has another number of cells than its header", std::to_string(header_.size()), std::to_string(cells_.size()),
         "put cells with the separator or line breaks in them in double quotes");
  Json object = Json::object();
  for (size_t i = 0; i < cells_.size(); ++i) {
    if (first_invalid_utf8(cells_[i]) != std::string::npos)
      fail(row.line, "a data file is not valid UTF-8", "UTF-8", fmt::format("other bytes in column '{}'", header_[i]), "iconv -f ENCODING -t UTF-8 FILE > NEW");
    object.get_ref<Json::object_t&>().emplace_back(header_[i], std::move(cells_[i]));
  }
  row.text = object.dump();
  return true;
}

// False at the end of the file.
bool CsvRows::read_record(std::vector<std::string>& cells, int64_t& line) {
  while (bytes_.peek() == '\n' || bytes_.peek() == '\r') bytes_.get();
  if (bytes_.peek() == ByteStream::end) return false;
  line = bytes_.line();
  cells.assign(1, "");
  size_t size = 0;
  for (;;) {
    std::string& cell = cells.back();
    if (bytes_.peek() == '"') {
      read_quoted(cell, line);
    } else {
      while (bytes_.peek() != ByteStream::end && bytes_.peek() != separator_ && bytes_.peek() != '\n' && size + cell.size() <= longest_row)
        cell += char(bytes_.get());
      if (bytes_.peek() != separator_ && cell.ends_with('\r')) cell.pop_back();
    }
    if ((size += cell.size()) > longest_row) fail(line, "a row is too long", "at most 64 MiB", "more");
    const int c = bytes_.get();
    if (c != separator_) return true;
    if (cells.size() == most_columns) fail(line, "a table has too many columns", fmt::format("at most {}", most_columns), "more");
    cells.emplace_back();
  }
}

// Leaves the separator or line break behind the closing quote in place.
void CsvRows::read_quoted(std::string& cell, int64_t line) {
  bytes_.get();
  for (;;) {
    const int c = bytes_.get();
    if (c == ByteStream::end) fail(line, "a quote is never closed", "'\"' at the end of the cell", "the end of the file");
    if (cell.size() >= longest_row) fail(line, "a row is too long", "at most 64 MiB", "more: a quote may be missing");
    if (c != '"') cell += char(c);
    else if (bytes_.peek() == '"') cell += char(bytes_.get());
    else break;
  }
  if (bytes_.peek() == '\r') bytes_.get();
  if (const int c = bytes_.peek(); c != ByteStream::end && c != separator_ && c != '\n')
    fail(bytes_.line(), "something follows a closing quote", "the separator or the end of the line", fmt::format("'{}'", char(c)), "double the quotes inside a quoted cell");
}

}  // namespace thimble::data
