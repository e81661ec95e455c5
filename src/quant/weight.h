// A matrix as it is stored: dense numbers, or codes and scales of a packed format. One row in one table says all about a format.
// Formats know how to pack, unpack and multiply with a few tokens; ops/linear.h decides which of these a product uses.
#pragma once
#include <array>
#include <functional>
#include <span>
#include <string_view>

#include "device/stream.h"

namespace thimble::quant {

enum class FormatId : uint8_t { dense, nf4, nf4_dq, int8 };

// A place for the dense numbers of a packed matrix, (N, K) in the type of the activations. The first product that wants them fills it.
struct Unpacked {
  Tensor dense;
  bool filled = false;
};

// The parts of a matrix (N, K) = (out, in): dense: {values}; nf4: {codes, absmax}; nf4_dq: {codes, absmax, nested absmax, offset};
// int8: {codes, absmax}.
struct Weight {
  FormatId format = FormatId::dense;
  Shape shape;                    // (N, K), whatever the parts look like
  std::array<Tensor, 4> parts{};
  Unpacked* unpacked = nullptr;   // where one unpacking serves many products
  bool on_processor = false;      // lies in pinned memory, and few tokens are multiplied by the processor there
  const Tensor& dense() const { return parts[0]; }
};

// One of the products of a few tokens with matrices that read the same x (T, K): y (T, N) = x . w^T + c, overwritten, f32 sums.
struct FewProduct {
  Tensor y;
  const Weight* w;
  Tensor c{};  // (T, N) of y's type: y itself, or apart from it; null: nothing is added
};
constexpr int most_few_products = 3;
constexpr int64_t most_few_tokens = 16;  // beyond it, unpacking once and a real matrix product cost less than decoding again and again

struct Part {
  std::string_view suffix;  // of the file's tensor name: "" for dense, ".absmax" ...
  DType dtype;
  Shape shape;
};

// The dense numbers (N, K) of a matrix that is to be packed: f32, bf16 or f16, all there, or brought `rows` at a time, so that they need not be.
struct Numbers {
  Numbers(Tensor whole) : all(whole) {}
  Numbers(int64_t rows_at_once, std::function<Tensor(int64_t first, int64_t n)> bring_rows) : rows(rows_at_once), bring(std::move(bring_rows)) {}
  Tensor all{};
  int64_t rows = 0;                                        // a multiple of 64
  std::function<Tensor(int64_t first, int64_t n)> bring{};  // rows [first, first + n); what was brought before is gone then
};

struct Format {
  FormatId id;
  std::string_view name;                                              // as in options and files: "dense", "nf4", "nf4_dq", "int8"
  void (*parts)(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count);
  void (*pack)(Stream&, const Weight& out, const Numbers&);           // out.parts overwritten, with the same bytes whatever is brought at once
  void (*unpack)(Stream&, Tensor dense, const Weight&);              // dense (N, K) f32, bf16 or f16, overwritten
  // Up to most_few_products products of x (T, K), T <= most_few_tokens, straight from the packed bytes, as one op. All have this format, the y one type.
  // The sum of one (token, row) has one order, whatever T, N and the thread count are; on cuda another one for T = 1.
  void (*multiply_few)(Stream&, Tensor x, std::span<const FewProduct>);
  bool same_unpacked;  // is the product of many tokens that of the unpacked matrix, so that it may lie unpacked?
  // Elements [first, first + n) of a matrix that lies in host memory, as unpack has them before it rounds: for readers of files.
  void (*decode)(float* out, const Weight&, int64_t first, int64_t n);
};

std::span<const Format> formats();
const Format& format(FormatId);
const Format& format(std::string_view name);   // throws Error (usage) naming the nearest

// The parts of one matrix, in order; `dense` is the dtype that a dense weight is stored in.
std::array<Part, 4> parts_of(FormatId, const Shape& matrix, DType dense, int& count);
int64_t bytes_of(FormatId, const Shape& matrix, DType dense);  // sum of aligned parts: what a slab gives the matrix

// Throws unless the weight's parts have the types and sizes that its format's row says.
void check_parts(const Weight&, std::source_location at = std::source_location::current());
// f(first row, numbers (n, K)) for each piece of `numbers`, whose shape it checks.
void for_each_strip(const Weight&, const Numbers& numbers, const std::function<void(int64_t first, Tensor rows)>& f);
// Shapes and formats agree and T is few; returns the work of the products.
Work few_tokens_work(const char* name, const Tensor& x, std::span<const FewProduct>);
int64_t bytes_of(const Weight&);  // of all parts, without padding: what a product reads

}  // namespace thimble::quant
