// Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md), as far as parquet files speak it: one struct,
// read into a small tree, within limits of depth and size.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace thimble::data {

struct Thrift {
  int64_t number = 0;                           // of integers and booleans
  std::string bytes;                            // of strings
  std::vector<Thrift> list;
  std::vector<std::pair<int, Thrift>> fields;   // of structs, by id

  const Thrift* find(int id) const;             // nothing where the field is absent
  int64_t number_or(int id, int64_t otherwise) const;
};

// `used`: the bytes that the struct takes of `text`. Throws Error (bad_input) naming `where` on anything else.
Thrift read_thrift(std::string_view text, const std::string& where, size_t* used = nullptr);

}  // namespace thimble::data
