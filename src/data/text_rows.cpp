// The array reader only finds where elements end (strings, brackets); each element is then parsed by itself, within the limits.
#include "data/text_rows.h"

#include <algorithm>

#include "data/utf8.h"

namespace thimble::data {
namespace {

bool is_blank(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

TextRows::TextRows(const fs::path& path, Kind kind) : RowReader(path), kind_(kind), bytes_(path) {
  if (kind == Kind::json && skip_blanks() == '[') {
    bytes_.get();
    array_ = true;
  }
}

void TextRows::check_clean(const Row& row) const {
  const auto line_of = [&](size_t at) { return row.line + std::count(row.text.begin(), row.text.begin() + ptrdiff_t(at), '\n'); };
  if (const size_t nul = row.text.find('\0'); nul != row.text.npos)
    fail(line_of(nul), "a data file has a NUL byte", "UTF-8 text", "byte 0x00", "if the file is UTF-16: iconv -f UTF-16LE -t UTF-8 FILE > NEW");
  if (const size_t bad = first_invalid_utf8(row.text); bad != row.text.npos)
    fail(line_of(bad), "a data file is not valid UTF-8", "UTF-8",
         fmt::format("byte 0x{:02X}, the {}th of its row", static_cast<unsigned char>(row.text[bad]), bad + 1), "iconv -f ENCODING -t UTF-8 FILE > NEW");
}

bool TextRows::next(Row& row) {
  const bool found = array_ ? next_element(row) : next_line(row);
  if (found) check_clean(row);
  return found;
}

bool TextRows::next_line(Row& row) {
  while (bytes_.peek() != ByteStream::end) {
    row.line = bytes_.line();
    row.text.clear();
    for (bool ended = false; !ended && bytes_.peek() != ByteStream::end;) {
      const std::string_view ahead = bytes_.ahead();
      const size_t newline = ahead.find('\n'), n = std::min(newline, ahead.size());
      ended = newline != ahead.npos;
      if (row.text.size() + n > longest_row) fail(row.line, "a row is too long", "at most 64 MiB", "more");
      row.text.append(ahead.substr(0, n));
      bytes_.skip(n + ended, ended);
    }
    if (row.text.ends_with('\r')) row.text.pop_back();
    if (!std::all_of(row.text.begin(), row.text.end(), is_blank)) return true;
  }
  return false;
}

int TextRows::skip_blanks() {
  while (is_blank(bytes_.peek())) bytes_.get();
  return bytes_.peek();
}

bool TextRows::next_element(Row& row) {
  if (ended_) return false;
  int c = skip_blanks();
  if (c == ']' && first_) {
    bytes_.get();
    ended_ = true;
  } else {
    row.line = bytes_.line();
    read_element(row);
    if (row.text.empty())
      fail(bytes_.line(), "an array of rows lacks a row", "a row after each comma",
           c == ByteStream::end ? "the end of the file" : fmt::format("'{}'", char(c)));
    first_ = false;
    c = bytes_.get();
    if (c == ByteStream::end) fail(bytes_.line(), "a JSON file is cut short", "',' or ']' after a row", "the end of the file");
    ended_ = c == ']';
    if (!ended_) return true;
  }
  if (skip_blanks() != ByteStream::end)
    fail(bytes_.line(), "something follows the array of rows", "the end of the file", fmt::format("'{}'", char(bytes_.peek())));
  return !row.text.empty() && !first_;
}

// Up to the comma or bracket that ends the element, which is left in place.
void TextRows::read_element(Row& row) {
  row.text.clear();
  int64_t depth = 0;
  bool in_string = false, escaped = false;
  for (int c = bytes_.peek(); c != ByteStream::end; c = bytes_.peek()) {
    if (!in_string && depth == 0 && (c == ',' || c == ']')) break;
    if (row.text.size() >= longest_row) fail(row.line, "a row is too long", "at most 64 MiB", "more");
    row.text += char(bytes_.get());
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
