// The array reader only finds where elements end (strings, brackets); each element is then parsed by itself, within the limits.
#include "data/rows.h"

#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr size_t buffer_bytes = 1 << 20;
constexpr int end_of_file = -1;

bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

RowReader::RowReader(const fs::path& path) : path_(path), buffer_(buffer_bytes) {
  const std::string kind = path.extension().string();
  if (kind != ".txt" && kind != ".jsonl" && kind != ".json" && kind != ".ndjson")
    throw Error(Fault::bad_input, {.what = "the kind of a data file is not known",
                                   .where = path.string(),
                                   .expected = ".jsonl, .json or .txt",
                                   .found = kind.empty() ? "no extension" : kind,
                                   .fix = "convert the file to JSON lines"});
  if (!fs::is_regular_file(path))
    throw Error(Fault::bad_input, {.what = "cannot read a data file",
                                   .where = path.string(),
                                   .expected = "a plain file",
                                   .found = fs::exists(path) ? "a folder, device or pipe" : "no such file"});
  file_.open(path, std::ios::binary);
  if (!file_) throw Error(Fault::bad_input, {.what = "cannot open a data file", .where = path.string(), .fix = "check its permissions"});
  plain_ = kind == ".txt";
  refuse_marks();
  if (kind == ".json" && skip_blanks() == '[') {
    get();
    array_ = true;
  }
}

void RowReader::fail(int64_t line, std::string what, std::string expected, std::string found, std::string fix) const {
  throw Error(
      Fault::bad_input,
      {.what = std::move(what), .where = at_line(line), .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
}

int RowReader::peek() {
  if (at_ == have_) {
    file_.read(buffer_.data(), std::streamsize(buffer_.size()));
    have_ = size_t(file_.gcount());
    at_ = 0;
    if (file_.bad()) fail(line_, "cannot read a data file", "its bytes", "a read error");
    if (have_ == 0) return end_of_file;
  }
  return static_cast<unsigned char>(buffer_[at_]);
}

int RowReader::get() {
  const int c = peek();
  if (c != end_of_file) ++at_;
  if (c == '\n') ++line_;
  return c;
}

void RowReader::refuse_marks() {
  peek();
  const std::string_view head(buffer_.data(), have_);
  if (head.starts_with("\xff\xfe") || head.starts_with("\xfe\xff"))
    fail(1, "a data file is UTF-16", "UTF-8", "a UTF-16 byte order mark", "iconv -f UTF-16 -t UTF-8 FILE > NEW");
  if (head.starts_with("\xef\xbb\xbf"))
    fail(1, "a data file starts with a byte order mark", "UTF-8 without one", "EF BB BF", "sed -i '1s/^\\xEF\\xBB\\xBF//' FILE");
}

void RowReader::check_clean(const Row& row) const {
  const auto line_of = [&](size_t at) { return row.line + std::count(row.text.begin(), row.text.begin() + ptrdiff_t(at), '\n'); };
  if (const size_t nul = row.text.find('\0'); nul != row.text.npos)
    fail(line_of(nul), "a data file has a NUL byte", "UTF-8 text", "byte 0x00",
         "if the file is UTF-16: iconv -f UTF-16LE -t UTF-8 FILE > NEW");
  if (const size_t bad = first_invalid_utf8(row.text); bad != row.text.npos)
    fail(line_of(bad), "a data file is not valid UTF-8", "UTF-8",
         fmt::format("byte 0x{:02X}, the {}th of its row", static_cast<unsigned char>(row.text[bad]), bad + 1),
         "iconv -f ENCODING -t UTF-8 FILE > NEW");
}

bool RowReader::next(Row& row) {
  const bool found = array_ ? next_element(row) : next_line(row);
  if (found) check_clean(row);
  return found;
}

bool RowReader::next_line(Row& row) {
  while (peek() != end_of_file) {
    row.line = line_;
    row.text.clear();
    for (int c = get(); c != end_of_file && c != '\n'; c = get()) {
      if (row.text.size() >= longest_row) fail(row.line, "a row is too long", "at most 64 MiB", "more");
      row.text += char(c);
    }
    if (row.text.ends_with('\r')) row.text.pop_back();
    if (!std::all_of(row.text.begin(), row.text.end(), [](char c) { return is_blank(c); })) return true;
  }
  return false;
}

int RowReader::skip_blanks() {
  while (is_blank(peek())) get();
  return peek();
}

bool RowReader::next_element(Row& row) {
  if (ended_) return false;
  int c = skip_blanks();
  if (c == ']' && first_) {
    get();
    ended_ = true;
  } else {
    row.line = line_;
    read_element(row);
    if (row.text.empty())
      fail(line_, "an array of rows lacks a row", "a row after each comma",
           c == end_of_file ? "the end of the file" : fmt::format("'{}'", char(c)));
    first_ = false;
    c = get();
    if (c == end_of_file) fail(line_, "a JSON file is cut short", "',' or ']' after a row", "the end of the file");
    ended_ = c == ']';
    if (!ended_) return true;
  }
  if (skip_blanks() != end_of_file)
    fail(line_, "something follows the array of rows", "the end of the file", fmt::format("'{}'", char(peek())));
  return !row.text.empty() && !first_;
}

// Up to the comma or bracket that ends the element, which is left in place.
void RowReader::read_element(Row& row) {
  row.text.clear();
  int64_t depth = 0;
  bool in_string = false, escaped = false;
  for (int c = peek(); c != end_of_file; c = peek()) {
    if (!in_string && depth == 0 && (c == ',' || c == ']')) break;
    if (row.text.size() >= longest_row) fail(row.line, "a row is too long", "at most 64 MiB", "more");
    row.text += char(get());
    if (in_string) {
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (c == '"') {
      in_string = true;
    } else {
      depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    }
  }
  while (!row.text.empty() && is_blank(row.text.back())) row.text.pop_back();
}

}  // namespace thimble::data
