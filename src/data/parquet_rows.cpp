// Records are put together as in Dremel (Melnik et al., 2010): a definition level says how much of a path is there, a repetition level which
// list goes on.
#include "data/parquet_rows.h"

#include <cmath>
#include <cstring>

#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr int64_t largest_footer = int64_t{64} << 20;
constexpr int64_t most_columns = 1024;
constexpr int64_t optional = 1, repeated = 2;                                     // FieldRepetitionType; 0: required
constexpr int64_t utf8 = 0, map = 1, list = 3, enumeration = 4, json = 19;        // ConvertedType

Thrift read_footer(const fs::path& path) {
  const std::string where = path.string();
  const auto fail = [&](std::string expected, std::string found, std::string fix = "") {
    throw Error(Fault::bad_input, {.what = "a parquet file cannot be read", .where = where, .expected = std::move(expected), .found = std::move(found), .fix = std::move(fix)});
  };
  std::ifstream file(path, std::ios::binary);
  const auto size = int64_t(fs::file_size(path));
  char tail[8]{}, head[4]{};
  if (size < 12) fail("at least 12 bytes", std::to_string(size), "copy or download the file again");
  if (!file.read(head, 4) || !file.seekg(size - 8) || !file.read(tail, 8)) fail("a file that can be read", "a read error");
  if (std::memcmp(tail + 4, "PARE", 4) == 0) fail("a file that is not encrypted", "an encrypted one");
  if (std::memcmp(head, "PAR1", 4) != 0 || std::memcmp(tail + 4, "PAR1", 4) != 0) fail("PAR1 at both of its ends", "other bytes", "copy or download the file again");
  uint32_t length = 0;
  std::memcpy(&length, tail, 4);
  if (length > size - 12 || length > largest_footer) fail(fmt::format("a footer of at most {} bytes", std::min(size - 12, largest_footer)), std::to_string(length));
  std::string text(length, '\0');
  if (!file.seekg(size - 8 - int64_t(length)) || !file.read(text.data(), length)) fail("a footer", "a read error");
  return read_thrift(text, where, nullptr, std::max(size, int64_t{16} << 20));
}

}  // namespace

ParquetRows::ParquetRows(const fs::path& path) : RowReader(path, ", row "), footer_(read_footer(path)) {
  const Thrift* schema = footer_.find(2);
  size_t at = 0;
  if (!schema || schema->list.empty()) fail(0, "a parquet file has no schema", "a list of columns", "none");
  root_ = read_schema(schema->list, at, 0, 0, 0);
  if (at != schema->list.size() || root_.children.empty()) fail(0, "the schema of a parquet file is damaged", "one tree of columns", "another number of them");
}

// The elements stand in depth-first order, each with the number of its children.
ParquetRows::Node ParquetRows::read_schema(const std::vector<Thrift>& elements, size_t& at, int definition, int repetition, int depth) {
  if (at >= elements.size() || depth > 16) fail(0, "the schema of a parquet file is damaged", "at most 16 levels, each with its columns", depth > 16 ? "more" : "fewer columns");
  const Thrift& e = elements[at++];
  Node n;
  if (const Thrift* name = e.find(4)) n.name = name->bytes;
  if (first_invalid_utf8(n.name) != n.name.npos) fail(0, "the schema of a parquet file is damaged", "names in UTF-8", "other bytes");
  const int64_t kind = depth ? e.number_or(3, 0) : 0, annotation = e.number_or(6, -1), children = e.number_or(5, 0);
  n.is_optional = kind == optional;
  n.repeats = kind == repeated;
  n.definition = definition + (n.is_optional || n.repeats);
  n.repetition = repetition + n.repeats;
  n.first_column = int(columns_.size());
  const Thrift* logical = e.find(10);  // a union: the field that is there says which
  n.is_list = annotation == list || annotation == map || (logical && (logical->find(3) || logical->find(2)));
  n.is_text = annotation == utf8 || annotation == enumeration || annotation == json || (logical && (logical->find(1) || logical->find(4) || logical->find(12)));
  if (children < 0 || children > int64_t(elements.size() - at)) fail(0, "the schema of a parquet file is damaged", "a number of columns that are there", std::to_string(children));
  for (int64_t i = 0; i < children; ++i) n.children.push_back(read_schema(elements, at, n.definition, n.repetition, depth + 1));
  if (children == 0) {
    const int64_t type = e.number_or(1, -1), length = e.number_or(2, 0);
    if (type < 0 || type > int64_t(Physical::fixed_bytes) || length < 0 || length > (1 << 20) || int64_t(columns_.size()) == most_columns)
      fail(0, "the schema of a parquet file is damaged", fmt::format("at most {} columns of known types", most_columns), fmt::format("type {} of length {}", type, length));
    columns_.emplace_back(path_, ParquetLeaf{n.name, Physical(type), int(length), n.repetition, n.definition});
  }
  n.columns = int(columns_.size()) - n.first_column;
  n.is_list = n.is_list && n.children.size() == 1 && n.children[0].repeats;
  return n;
}

void ParquetRows::open_group() {
  const Thrift* groups = footer_.find(4);
  while (group_rows_ == 0 && groups && group_ < int64_t(groups->list.size())) {
    const Thrift& group = groups->list[size_t(group_++)];
    const Thrift* chunks = group.find(1);
    group_rows_ = group.number_or(3, -1);
    if (group_rows_ < 0 || !chunks || chunks->list.size() != columns_.size())
      fail(row_ + 1, "a row group of a parquet file is damaged", fmt::format("{} columns, and a number of rows", columns_.size()),
           fmt::format("{} columns, {} rows", chunks ? chunks->list.size() : 0, group_rows_));
    for (size_t i = 0; i < columns_.size(); ++i) columns_[i].open(chunks->list[i]);
  }
}

bool ParquetRows::next(Row& row) {
  open_group();
  if (group_rows_ == 0) return false;
  --group_rows_;
  row.line = ++row_;
  const Json object = read_one(root_);
  for (ParquetColumn& c : columns_)
    if (c.repetition() != 0) fail(row_, "the columns of a parquet file do not agree", "lists that end with their row", fmt::format("more in '{}'", c.leaf().name));
  row.text = object.dump();
  if (row.text.size() > longest_row) fail(row_, "a row is too long", "at most 64 MiB", "more");
  return true;
}

void ParquetRows::skip_entry(const Node& n) {
  for (int i = n.first_column; i < n.first_column + n.columns; ++i) columns_[size_t(i)].take();
}

Json ParquetRows::read(const Node& n) {
  ParquetColumn& first = columns_[size_t(n.first_column)];
  const bool there = first.definition() >= n.definition;
  if (!n.repeats) {
    if (there) return read_one(n);
    skip_entry(n);
    return nullptr;
  }
  Json all = Json::array();
  if (!there) {
    skip_entry(n);
    return all;
  }
  for (size_t bytes = 0; bytes <= longest_row; bytes += 8) {  // an element of a list takes eight bytes at least
    all.push_back(read_one(n));
    if (first.repetition() != n.repetition) return all;
  }
  fail(row_, "a row is too long", "at most 64 MiB", "a longer list");
}

Json ParquetRows::read_one(const Node& n) {
  if (n.children.empty()) return read_leaf(n);
  if (n.is_list) {
    const Node& inner = n.children[0];
    Json wrapped = read(inner);
    // Three levels by the specification; older writers left the wrapper out, or named it "array".
    if (inner.children.size() != 1 || inner.name == "array" || inner.name == n.name + "_tuple") return wrapped;
    Json all = Json::array();
    for (Json& element : wrapped) all.push_back(std::move(element.front()));
    return all;
  }
  Json object = Json::object();
  for (const Node& child : n.children) object.get_ref<Json::object_t&>().emplace_back(child.name, read(child));
  return object;
}

Json ParquetRows::read_leaf(const Node& n) {
  ParquetColumn& column = columns_[size_t(n.first_column)];
  if (column.definition() != n.definition) fail(row_, "the columns of a parquet file do not agree", "a value", fmt::format("none in '{}'", n.name));
  const ParquetValue& v = column.take();
  switch (column.leaf().type) {
    case Physical::boolean: return v.integer != 0;
    case Physical::int32: case Physical::int64: return v.integer;
    case Physical::float32: case Physical::float64: return std::isfinite(v.real) ? Json(v.real) : Json(nullptr);
    case Physical::int96: case Physical::fixed_bytes: return nullptr;  // times and hashes: nothing that text is made of
    case Physical::bytes: break;
  }
  if (first_invalid_utf8(v.bytes) == v.bytes.npos) return std::string(v.bytes);
  if (n.is_text) fail(row_, "a data file is not valid UTF-8", "UTF-8", fmt::format("other bytes in column '{}'", n.name));
  return nullptr;
}

}  // namespace thimble::data
