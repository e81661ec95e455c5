// Tables with a header line, as RFC 4180 says: quoted cells may hold separators, line breaks and doubled quotes. Each row becomes an object
// of strings.
#pragma once
#include "data/byte_stream.h"
#include "data/rows.h"

namespace thimble::data {

class CsvRows final : public RowReader {
 public:
  CsvRows(const fs::path&, char separator);
  bool next(Row&) override;  // blank lines are skipped

 private:
  bool read_record(std::vector<std::string>& cells, int64_t& line);
  void read_quoted(std::string& cell, int64_t line);

  ByteStream bytes_;
  char separator_;
  std::vector<std::string> header_, cells_;
};

}  // namespace thimble::data
