// The product of an NF4 matrix with a few tokens, straight from its codes: this is decoding one token, and it runs at the speed at which
// codes arrive from memory (eight weights are a load, a shift and a shuffle).
#include "quant/nf4_codec.h"

namespace thimble::quant {

void nf4_multiply_few_cuda(CudaContext&, Tensor x, std::span<const FewProduct>);  // nf4_multiply.cu

namespace {

// Rows that begin with a block: the number of columns is a multiple of 64.
template <int R>
struct Nf4Rows {
  static constexpr int64_t batch = 64;  // scales decoded at once
  const Nf4Bytes& w;
  int64_t block[R];       // each row's first
  const uint8_t* here[R];
  Nf4Table table[R];
  alignas(64) float scales[R][batch];

  Nf4Rows(const Nf4Bytes& bytes, int64_t first) : w(bytes) {
    for (int r = 0; r < R; ++r) block[r] = (first + r) * w.columns / nf4_block;
  }
  void enter(int64_t k) {
    const int64_t b = k / nf4_block, blocks = w.columns / nf4_block;
    if (b % batch == 0)
      for (int r = 0; r < R; ++r) w.scales(scales[r], block[r] + b, std::min(batch, blocks - b));
    for (int r = 0; r < R; ++r) {
      here[r] = w.codes + (block[r] + b) * (nf4_block / 2);
      table[r] = Nf4Table(scales[r][b % batch]);
    }
  }
  F8 at(int r, int j) const { return table[r].lookup(here[r] + 4 * j); }
  float one(int, int64_t) const { return 0; }  // there are no columns after the last block
};
static_assert(weight_block == nf4_block);

// Rows that begin anywhere within a block, or within a byte: decoded to a small buffer, then multiplied.
template <class Y>
void multiply_unaligned(Y* y, const Y* c, const float* x, int64_t tokens, int64_t rows, const Nf4Bytes& w) {
  constexpr int64_t most_tokens = 8;
  check(tokens <= most_tokens, "a product of few tokens has few tokens");
  parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float sums[most_tokens] = {};
      for (int64_t k = 0; k < w.columns;) {
        const int64_t i = row * w.columns + k;
        const int64_t n = std::min(w.columns - k, nf4_block - i % nf4_block);
        float scale = 0, decoded[nf4_block];
        w.scales(&scale, i / nf4_block, 1);
        for (int64_t j = 0; j < n; ++j) decoded[j] = nf4_values[size_t(w.code(i + j))] * scale;
        for (int64_t t = 0; t < tokens; ++t) {
          const float* v = x + t * w.columns + k;
          float sum = 0;
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < n; ++j) sum += decoded[j] * v[j];
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
  const Tensor x32 = f32_scratch_for(s, x);
  launch(s, work, [&] {
    as_f32(x32, x);
    for (const auto& [y, w, c] : products)
      visit_float(y.dtype, [&](auto out) {
        using Y = decltype(out);
        const Nf4Bytes bytes(*w);
        const auto multiply = [&](auto way) { way(y.get<Y>(), c ? c.get<Y>() : nullptr, x32.get<float>(), x.shape[0], w->shape[0]); };
        if (bytes.columns % nf4_block == 0) multiply([&](auto... a) { multiply_all<Nf4Rows>(a..., bytes.columns, bytes); });
        else multiply([&](auto... a) { multiply_unaligned(a..., bytes); });
      });
  }, [&](auto& cuda) { nf4_multiply_few_cuda(cuda, x, products); });
}

}  // namespace thimble::quant
