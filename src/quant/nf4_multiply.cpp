// The product of an NF4 matrix with a few tokens, straight from its codes: this is decoding one token, and it runs at the speed at which
// codes arrive from memory (eight weights are a load, a shift and a shuffle).
#include "quant/nf4_codec.h"
#include "quant/nf4_few.h"

namespace thimble::quant {

void nf4_multiply_few_cuda(CudaContext&, Tensor x, std::span<const FewProduct>, Tensor partial);  // nf4_multiply.cu

namespace {

// Scales that are codes themselves, decoded: those of blocks [first, end), a strip of rows at once; of longer rows than `most` a stretch of each.
struct Scales {
  static constexpr int64_t most = 256, most_rows = 8;  // blocks of a row; rows side by side
  alignas(64) float decoded[most * most_rows];
  int64_t first = 0, end = 0;
};

// Rows that begin with a block: the number of columns is a multiple of 64. The lanes hold the words of two blocks, and the weights of
// step j are the j-th of each word: a shift brings their codes to where a lookup reads them. x lies in that order (arrange).
// Vector: Floats, and words are sixteen of eight codes; or Pairs, and they are 32 of four.
// Scales come in at the end of a group: of its sixteen sums 0-7 are of the first block, 8-15 of the second.
template <int R, class Vector>
struct Nf4Rows {
  using Scratch = Scales;
  using Words = std::conditional_t<std::is_same_v<Vector, Floats>, Ints, Vector>;
  static constexpr int64_t group = 2 * nf4_block, stretch = Scales::most * nf4_block;
  static constexpr int rows_of(int tokens) { return rows_beside(tokens, 8); }
  static constexpr bool scales_groups = true, pads_last = true;

  const Nf4Bytes& w;
  int64_t blocks, first_block, row_bytes, ahead;  // blocks of a row; of the first row
  int64_t scales_row = 0, scales_from = 0;        // between the scales of two rows; the block of the first ones
  Scales& nested;
  const Vector book;
  const float *scales = nullptr, *here = nullptr;  // of the first row; and those of the group that was entered
  Words words[R];

  Nf4Rows(const Nf4Bytes& bytes, int64_t first, Scales& scratch)
      : w(bytes), blocks(bytes.columns / nf4_block), first_block(first * blocks), row_bytes(blocks * (nf4_block / 2)), ahead(fetch_distance(row_bytes, R, 2048)),
        nested(scratch), book(nf4_book<Vector>(bytes.book)) {}
  void begin(int64_t k) {
    if (w.absmax) {
      scales = w.absmax + first_block, scales_row = blocks;
      return;
    }
    constexpr int64_t most = Scales::most;
    if (blocks <= most) {
      if (first_block < nested.first || first_block + R * blocks > nested.end) {
        nested.first = first_block;
        nested.end = first_block + std::min(nf4_blocks(w.count) - first_block, std::min(strip, Scales::most_rows * most / blocks) * blocks);
        w.scales(nested.decoded, nested.first, nested.end - nested.first);
      }
      scales = nested.decoded + (first_block - nested.first), scales_row = blocks;
      return;
    }
    nested.end = 0;
    scales = nested.decoded, scales_row = most, scales_from = k / nf4_block;
    for (int r = 0; r < R; ++r) w.scales(nested.decoded + r * most, first_block + r * blocks + scales_from, std::min(most, blocks - scales_from));
  }
  template <bool last>
  [[gnu::always_inline]] void enter(int64_t k) {
    const int64_t block = k / nf4_block;
    here = scales + (block - scales_from);
    const uint8_t* codes = w.codes + (first_block + block) * (nf4_block / 2);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(codes + r * row_bytes + ahead);
      if constexpr (last) words[r] = (Words)join(load_as<F8>(codes + r * row_bytes), F8{});  // a block alone: beside it x is 0
      else words[r] = load_as<Words>(codes + r * row_bytes);
    }
  }
  [[gnu::always_inline]] Vector at(int r, int j) const { return nf4_lookup(words[r] >> nf4_shift(j), book); }
  template <bool last>
  [[gnu::always_inline]] Floats scaled(int r, Floats sums) const {
    const float* s = here + r * scales_row;
    const float a = s[0], b = s[last ? 0 : 1];
    return sums * Floats{a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
  }
  float scale(int) const { return 1; }
};

template <int R> using RowsOfFloats = Nf4Rows<R, Floats>;
template <int R> using RowsOfPairs = Nf4Rows<R, Pairs>;

constexpr int64_t arranged_row(int64_t columns) { return (columns + 127) / 128 * 128; }

// to (T, arranged_row): in each group of 128 columns, what meets step j of the lanes; columns that are not there are 0.
template <class X>
void arrange(X* to, const X* x, int64_t tokens, int64_t columns) {
  using Bits = std::conditional_t<sizeof(X) == 2, uint16_t, uint32_t>;  // which loops make vectors of
  constexpr int64_t group = 128, words = 64 / sizeof(X), codes = group / words;
  const int64_t row = arranged_row(columns);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t k = 0; k < row; k += group) {
      Bits from[group] = {}, ordered[group];
      std::memcpy(from, x + t * columns + k, sizeof(X) * size_t(std::min(group, columns - k)));
      for (int64_t j = 0; j < codes; ++j) {
#pragma omp simd
        for (int64_t word = 0; word < words; ++word) ordered[j * words + word] = from[word * codes + j];
      }
      std::memcpy(static_cast<void*>(to + t * row + k), ordered, sizeof ordered);
    }
}

// Rows that begin anywhere within a block, or within a byte: decoded to a small buffer, then multiplied.
template <class X, class Y>
void multiply_unaligned(Y* y, const Y* c, const X* x, int64_t tokens, int64_t rows, const Nf4Bytes& w) {
  parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float sums[most_few_tokens] = {};
      for (int64_t k = 0; k < w.columns;) {
        const int64_t i = row * w.columns + k;
        const int64_t n = std::min(w.columns - k, nf4_block - i % nf4_block);
        float scale = 0, decoded[nf4_block];
        w.scales(&scale, i / nf4_block, 1);
        for (int64_t j = 0; j < n; ++j) decoded[j] = w.book[w.code(i + j)] * scale;
        for (int64_t t = 0; t < tokens; ++t) {
          const X* v = x + t * w.columns + k;
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < n; ++j) sum += decoded[j] * float(v[j]);
          sums[t] += sum;
        }
        k += n;
      }
      for (int64_t t = 0; t < tokens; ++t) y[t * rows + row] = Y(sums[t] + (c ? float(c[t * rows + row]) : 0.0f));
    }
  });
}

}  // namespace

void nf4_multiply_few(Stream& s, Tensor x, std::span<const FewProduct> products) {
  const Work work = few_tokens_work("nf4 multiply", x, products);
  const Scope scope(s.arena);
  const bool aligned = x.shape[1] % nf4_block == 0, pairs = has_pairs(x);
  const Tensor tokens = pairs ? x : f32_scratch_for(s, x);
  const Tensor arranged = aligned && s.device.kind() == DeviceKind::cpu ? s.scratch("tokens in the order of codes", tokens.dtype, {x.shape[0], arranged_row(x.shape[1])}) : Tensor{};
  const Shape sums = nf4_few_partial(x, products);
  const Tensor partial = s.device.kind() == DeviceKind::cuda && sums.count() > 0 ? s.scratch("sums of pieces", DType::f32, sums) : Tensor{};
  launch(s, work, [&] {
    const auto multiply = [&]<template <int> class Rows, class X>(const X* from) {
      if (aligned) arrange(arranged.get<X>(), from, x.shape[0], x.shape[1]);
      for (const FewProduct& p : products)
        visit_float(p.y.dtype, [&](auto out) {
          using Y = decltype(out);
          const Nf4Bytes bytes(*p.w, x.dtype);
          const Y* plus = p.c ? p.c.get<Y>() : nullptr;
          if (aligned) multiply_all<Rows>(p.y.get<Y>(), plus, FewTokens<X>{arranged.get<X>(), x.shape[0], arranged.shape[1]}, p.w->shape[0], bytes.columns, bytes);
          else multiply_unaligned(p.y.get<Y>(), plus, from, x.shape[0], p.w->shape[0], bytes);
        });
    };
    if constexpr (multiplies_pairs) {
      if (pairs) return multiply.template operator()<RowsOfPairs>(x.get<bf16>());
    }
    as_f32(tokens, x);
    multiply.template operator()<RowsOfFloats>(tokens.get<float>());
  }, [&](auto& cuda) { nf4_multiply_few_cuda(cuda, x, products, partial); });
}

}  // namespace thimble::quant
