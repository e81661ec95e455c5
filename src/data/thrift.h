// Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md), as far as parquet files speak it: one struct,
// read into a small tree, within limits of depth and size.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::data {

struct Thrift {
  int64_t number = 0;                           // of integers and booleans
  std::string bytes;                            // of strings
  std::vector<Thrift> list;
  struct Field;
  std::vector<Field> fields;                    // of structs

  const Thrift* find(int id) const;             // nothing where the field is absent
  int64_t number_or(int id, int64_t otherwise) const;
};
struct Thrift::Field {
  int id;
  Thrift value;
};

// `used`: the bytes that the struct takes of `text`. Throws Error (bad_input) naming `where` on anything else, and where its tree would take more
// than `tree_bytes`: a byte of text can be a value of a hundred.
Thrift read_thrift(std::string_view text, const std::string& where, size_t* used = nullptr, int64_t tree_bytes = int64_t{16} << 20);

}  // namespace thimble::data
