// Lines of text or JSON, or the elements of one JSON array.
#pragma once
#include "data/byte_stream.h"
#include "data/rows.h"

namespace thimble::data {

class TextRows final : public RowReader {
 public:
  enum class Kind { plain, json_lines, json };  // json: an array, or lines where the file does not begin with '['
  TextRows(const fs::path&, Kind);
  bool next(Row&) override;  // blank lines are skipped
  bool is_plain_text() const override { return kind_ == Kind::plain; }

 private:
  void check_clean(const Row&) const;
  bool next_line(Row&);
  bool next_element(Row&);
  void read_element(Row&);
  int skip_blanks();  // the next byte that is none, not yet taken

  Kind kind_;
  ByteStream bytes_;
  bool array_ = false, ended_ = false, first_ = true;
};

}  // namespace thimble::data
