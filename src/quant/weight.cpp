// The table of formats: to add one, write its trio and add its row.
#include "quant/weight.h"

#include <fmt/core.h>

#include <algorithm>
#include <vector>

#include "quant/dense.h"
#include "quant/int8.h"
#include "quant/nf4.h"

namespace thimble::quant {
namespace {

constexpr Format table[] = {
    {FormatId::dense, "dense", dense_parts, dense_pack, dense_unpack, dense_multiply_few, true, dense_decode},
    {FormatId::nf4, "nf4", nf4_parts, nf4_pack, nf4_unpack, nf4_multiply_few, true, nf4_decode},
    {FormatId::nf4_dq, "nf4_dq", nf4_dq_parts, nf4_dq_pack, nf4_unpack, nf4_multiply_few, true, nf4_decode},
    {FormatId::int8, "int8", int8_parts, int8_pack, int8_unpack, int8_multiply_few, false, int8_decode},
};

}  // namespace

std::span<const Format> formats() { return table; }

const Format& format(FormatId id) {
  for (const Format& f : table)
    if (f.id == id) return f;
  throw Error(fmt::format("format {} has no row in the table", int(id)));
}

const Format& format(std::string_view name) {
  std::vector<std::string_view> names;
  std::string all;
  for (const Format& f : table) {
    if (f.name == name) return f;
    names.push_back(f.name);
    all += fmt::format("{}{}", all.empty() ? "" : ", ", f.name);
  }
  const std::string close = nearest(name, names);
  throw Error(Fault::usage, {.what = "no such weight format",
                             .expected = "one of " + all,
                             .found = fmt::format("'{}'", name),
                             .fix = close.empty() ? "" : fmt::format("did you mean '{}'?", close)});
}

std::array<Part, 4> parts_of(FormatId id, const Shape& matrix, DType dense, int& count) {
  check(matrix.rank() == 2 || (id == FormatId::dense && matrix.rank() == 1),
        "a packed matrix has two dimensions, a dense weight one or two");
  std::array<Part, 4> parts{};
  format(id).parts(matrix, dense, parts, count);
  return parts;
}

int64_t bytes_of(FormatId id, const Shape& matrix, DType dense) {
  int count = 0;
  const auto parts = parts_of(id, matrix, dense, count);
  int64_t sum = 0;
  for (size_t i = 0; i < size_t(count); ++i) sum += aligned(parts[i].shape.count() * size_of(parts[i].dtype));
  return sum;
}

void check_parts(const Weight& w, std::source_location at) {
  int count = 0;
  const auto parts = parts_of(w.format, w.shape, w.parts[0].dtype, count);
  for (size_t i = 0; i < size_t(count); ++i) {
    const Part& p = parts[i];
    const Tensor& t = w.parts[i];
    if (t && t.dtype == p.dtype && t.count() == p.shape.count()) continue;
    throw Error(Fault::internal, {.what = fmt::format("a part of a {} matrix does not fit it", format(w.format).name),
                                  .where = fmt::format("{}:{}, '{}' of {}", at.file_name(), at.line(), p.suffix, to_string(w.shape)),
                                  .expected = fmt::format("{} {}", name_of(p.dtype), to_string(p.shape)),
                                  .found = t ? to_string(t) : "nothing"});
  }
}

void for_each_strip(const Weight& w, const Numbers& numbers, const std::function<void(int64_t, Tensor)>& f) {
  const auto give = [&](int64_t first, int64_t n, const Tensor& rows) {
    check(rows.count() == n * w.shape.row(), "packing takes as many numbers as the matrix has");
    f(first, rows);
  };
  const int64_t all = w.shape[0];
  if (numbers.all) return give(0, all, numbers.all);
  check(numbers.rows > 0 && numbers.rows % 64 == 0, "strips of a matrix begin with a block, wherever its rows do");
  for (int64_t first = 0; first < all; first += numbers.rows) {
    const int64_t n = std::min(numbers.rows, all - first);
    give(first, n, numbers.bring(first, n));
  }
}

int64_t bytes_of(const Weight& w) {
  int64_t sum = 0;
  for (const Tensor& t : w.parts)
    if (t) sum += t.bytes();
  return sum;
}

}  // namespace thimble::quant
