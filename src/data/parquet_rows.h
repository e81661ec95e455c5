// Rows of a parquet file: the footer's schema says how columns of numbers and text are put together to objects and lists.
#pragma once
#include "base/json.h"
#include "data/parquet_column.h"
#include "data/rows.h"

namespace thimble::data {

class ParquetRows final : public RowReader {
 public:
  explicit ParquetRows(const fs::path&);
  bool next(Row&) override;

 private:
  struct Node {
    std::string name;
    bool is_list = false;                // annotated: its one child repeats, and is a wrapper around the element
    bool is_text = false;                // of a leaf
    bool is_optional = false, repeats = false;
    int definition = 0, repetition = 0;  // levels at which it is there
    int first_column = 0, columns = 1;   // below it
    std::vector<Node> children;          // none: a leaf
  };
  Node read_schema(const std::vector<Thrift>& elements, size_t& at, int definition, int repetition, int depth);
  void open_group();
  void skip_entry(const Node&);
  Json read(const Node&);        // as often as it stands: null, or a list where it repeats
  Json read_one(const Node&);
  Json read_leaf(const Node&);

  Thrift footer_;
  Node root_;
  std::vector<ParquetColumn> columns_;
  int64_t group_ = 0, group_rows_ = 0, row_ = 0;
};

}  // namespace thimble::data
