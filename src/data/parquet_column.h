// One column of a parquet file, value by value, as the format's specification says (github.com/apache/parquet-format): pages of versions 1 and
// 2; plain and dictionary encodings; no compression, snappy, gzip or zstd. What else there is, is refused by name.
#pragma once
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "data/thrift.h"

namespace thimble::data {

// Runs of equal or bit-packed small numbers, read one by one.
class RunReader {
 public:
  RunReader() = default;
  RunReader(std::string_view bytes, int width) : bytes_(bytes), width_(width) {}
  bool next(uint32_t& value);  // false where the bytes end

 private:
  std::string_view bytes_;
  int width_ = 0;
  uint64_t repeats_ = 0, packed_ = 0;  // that remain of the run
  uint32_t value_ = 0;
  uint64_t bits_ = 0;  // of the packed run, read ahead
  int have_ = 0;
};

enum class Physical { boolean, int32, int64, int96, float32, float64, bytes, fixed_bytes };

struct ParquetValue {
  int64_t integer = 0;
  double real = 0;
  std::string_view bytes;  // lives until the next page
};

// What the schema says of a column.
struct ParquetLeaf {
  std::string name;
  Physical type = Physical::bytes;
  int fixed_bytes = 0, most_repetition = 0, most_definition = 0;
};

class ParquetColumn {
 public:
  ParquetColumn(const fs::path& file, ParquetLeaf leaf);
  void open(const Thrift& chunk);                   // a ColumnChunk of the next row group
  int repetition() { return fetch(), repetition_; }  // of the entry that comes; 0 behind the last
  int definition() { return fetch(), definition_; }
  bool at_end() { return !fetch(); }
  const ParquetValue& take();  // and pass to the next entry; where definition() is the most, its value
  const ParquetLeaf& leaf() const { return leaf_; }

 private:
  [[noreturn]] void fail(std::string what, std::string expected, std::string found) const;
  bool fetch();  // an entry, from the next page where this one is done; false at the end of the chunk
  bool next_page();
  void read_dictionary(int64_t count);
  void begin_page(const Thrift& header, int kind, std::string_view body);
  std::string_view levels(std::string_view& body, int64_t length);
  ParquetValue read_plain();
  ParquetValue read_value();

  fs::path path_;
  std::ifstream file_;
  ParquetLeaf leaf_;
  int64_t file_bytes_ = 0, at_ = 0, end_ = 0;  // where the next page begins, and where the chunk ends
  int codec_ = 0;
  int64_t chunk_values_ = 0, page_values_ = 0;  // that remain
  std::string packed_, page_, dictionary_page_;
  std::vector<ParquetValue> dictionary_;
  RunReader repetitions_, definitions_, indexes_;
  bool by_index_ = false, by_runs_ = false, has_entry_ = false;
  std::string_view plain_;
  int bool_bit_ = 0;
  int repetition_ = 0, definition_ = 0;
  ParquetValue value_;
};

}  // namespace thimble::data
