// Packing and unpacking NF4. Codes are chosen as bitsandbytes' CUDA kernel does (kQuantizeBlockwise in its csrc): x times the reciprocal of
// absmax, strict thresholds, an all-zero block giving 0 * inf = NaN and so code 0.
#include "quant/nf4.h"

#include "quant/nf4_codec.h"

namespace thimble::quant {

void nf4_quantize_cuda(CudaContext&, Tensor codes, Tensor absmax, Tensor dense);  // nf4.cu
void nf4_offset_cuda(CudaContext&, Tensor offset, Tensor absmax);
void nf4_nest_cuda(CudaContext&, Tensor codes, Tensor nested_absmax, Tensor absmax, Tensor offset);
void nf4_unpack_cuda(CudaContext&, Tensor dense, const Weight&);

namespace {

constexpr int64_t grain = 256;  // blocks a thread takes at least

// The thresholds as a search tree in breadth-first order from index 1: node i has children 2 i and 2 i + 1.
constexpr std::array<float, 16> threshold_tree = [] {
  std::array<float, 16> tree{};
  for (int level = 0; level < 4; ++level)
    for (int i = 0; i < 1 << level; ++i) tree[size_t((1 << level) + i)] = nf4_thresholds[size_t((2 * i + 1) * (8 >> level) - 1)];
  return tree;
}();

// Codes of up to 64 numbers, one a byte, and behind them those of zeros (an odd matrix ends in one, as in the reference); returns absmax.
template <class T>
float block_codes(uint8_t (&codes)[nf4_block], const T* x, int64_t n) {
  typedef uint8_t B8 __attribute__((vector_size(8)));
  alignas(64) float v[nf4_block] = {};
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) v[i] = float(x[i]);
  const float absmax = largest_magnitude(v, nf4_block);
  const float r = 1.0f / absmax;
  const F8 low = load_as<F8>(threshold_tree.data()), high = load_as<F8>(threshold_tree.data() + 8);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const F8 u = load_as<F8>(v + 8 * j) * r;
    I8 node = I8{} + 1;
#pragma GCC unroll 4
    for (int level = 0; level < 4; ++level)  // true is -1; NaN is never greater
      node = node + node - (u > shuffle(low, high, node));
    const B8 bytes = __builtin_convertvector(node - 16, B8);
    std::memcpy(codes + 8 * j, &bytes, sizeof bytes);
  }
  return absmax;
}

template <class T>
void quantize(uint8_t* out, float* absmax, const T* x, int64_t count) {
  parallel_for(nf4_blocks(count), grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * nf4_block, n = std::min(nf4_block, count - first);
      uint8_t codes[nf4_block];
      absmax[b] = block_codes(codes, x + first, n);
      uint8_t packed[nf4_block / 2];
#pragma omp simd
      for (int i = 0; i < nf4_block / 2; ++i) packed[i] = uint8_t(codes[2 * i] << 4 | codes[2 * i + 1]);
      std::memcpy(out + first / 2, packed, size_t(n + 1) / 2);
    }
  });
}

void write8(float* to, F8 v) { std::memcpy(to, &v, sizeof v); }
void write8(bf16* to, F8 v) {  // v was rounded to bf16 before
  const H8 h = __builtin_convertvector((U8)v >> 16, H8);
  std::memcpy(static_cast<void*>(to), &h, sizeof h);
}
void write8(f16* to, F8 v) {
  for (int i = 0; i < 8; ++i) to[i] = f16(v[i]);
}

template <class T>
void unpack_block(T* to, const uint8_t* codes, float scale) {
  Nf4Table table(scale);
  if constexpr (std::is_same_v<T, bf16>) {  // 16 roundings instead of 64
    for (int i = 0; i < 8; ++i) table.low[i] = bf16(table.low[i]), table.high[i] = bf16(table.high[i]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) write8(to + 8 * j, table.lookup(codes + 4 * j));
}

template <class T>
void unpack_all(T* to, const Nf4Bytes& w) {
  constexpr int64_t batch = 64;
  parallel_for(nf4_blocks(w.count), grain, [&](int64_t begin, int64_t end) {
    alignas(64) float scales[batch];
    for (int64_t b = begin; b < end; b += batch) {
      const int64_t n = std::min(batch, end - b);
      w.scales(scales, b, n);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t first = (b + i) * nf4_block;
        if (first + nf4_block <= w.count) {
          unpack_block(to + first, w.codes + first / 2, scales[i]);
        } else {
          for (int64_t k = first; k < w.count; ++k) to[k] = T(nf4_values[size_t(w.code(k))] * scales[i]);
        }
      }
    }
  });
}

#ifdef __AVX512F__
// Sixteen entries of a table of 256: from each of its eight parts, then one of these by the upper bits. A gather, which the compiler makes of the plain
// loop, takes longer.
[[gnu::always_inline]] inline Floats map_lookup(const float* map, const uint8_t* codes) {
  const auto from = (Ints)_mm512_maskz_cvtepu8_epi32(0xffff, load_as<__m128i>(codes));
  Floats part[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) part[i] = (Floats)_mm512_permutex2var_ps((__m512)load16(map + 32 * i), (__m512i)from, (__m512)load16(map + 32 * i + 16));
#pragma GCC unroll 3
  for (int half = 4, bit = 128; half > 0; half /= 2, bit /= 2) {
    const Ints upper = (from & bit) != 0;
#pragma GCC unroll 4
    for (int i = 0; i < half; ++i) part[i] = upper ? part[i + half] : part[i];
  }
  return part[0];
}
#endif

}  // namespace

// The reference rounds the product before it adds the offset, so no fused multiply-add may stand here (written in double, the compiler
// still makes one).
[[gnu::noinline, gnu::optimize("fp-contract=off")]] void Nf4Bytes::scales(float* out, int64_t first, int64_t n) const {
#ifdef __clang__
#pragma clang fp contract(off)
#endif
  if (absmax) {
    std::memcpy(out, absmax + first, size_t(n) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < n;) {  // a nested scale at a time
    const int64_t group = (first + i) / nested_block, end = std::min(n, (group + 1) * nested_block - first);
    const float scale = nested_absmax[group];
#ifdef __AVX512F__
    if (end - i >= lanes)
      for (; i < end; i += lanes) {
        i = std::min(i, end - lanes);  // the last sixteen, some of them again
        const Floats v = map_lookup(map, nested_codes + first + i) * scale + offset;
        std::memcpy(out + i, &v, sizeof v);
      }
#endif
#pragma omp simd
    for (int64_t k = i; k < end; ++k) out[k] = map[nested_codes[first + k]] * scale + offset;
    i = end;
  }
}

void nf4_parts(const Shape& matrix, DType, std::array<Part, 4>& out, int& count) {
  const int64_t n = matrix.count();
  out[0] = {"", DType::u8, {(n + 1) / 2}};
  out[1] = {".absmax", DType::f32, {nf4_blocks(n)}};
  count = 2;
}

void nf4_dq_parts(const Shape& matrix, DType, std::array<Part, 4>& out, int& count) {
  const int64_t n = matrix.count();
  out[0] = {"", DType::u8, {(n + 1) / 2}};
  out[1] = {".absmax", DType::u8, {nf4_blocks(n)}};
  out[2] = {".nested_absmax", DType::f32, {nested_blocks(n)}};
  out[3] = {".offset", DType::f32, {1}};
  count = 4;
}

void nf4_quantize(Stream& s, Tensor codes, Tensor absmax, Tensor dense) {
  const int64_t n = dense.count();
  check(codes.dtype == DType::u8 && codes.count() == (n + 1) / 2, "nf4: two codes a byte");
  check(absmax.dtype == DType::f32 && absmax.count() == nf4_blocks(n), "nf4: an f32 scale a block");
  launch(s, {.name = "nf4 quantize", .bytes = double(dense.bytes() + codes.bytes() + absmax.bytes())}, [&] {
    visit_float(dense.dtype, [&](auto t) { quantize(codes.get<uint8_t>(), absmax.get<float>(), dense.get<decltype(t)>(), n); });
  }, [&](auto& cuda) { nf4_quantize_cuda(cuda, codes, absmax, dense); });
}

void nf4_offset(Stream& s, Tensor offset, Tensor absmax) {
  check(offset.dtype == DType::f32 && offset.count() == 1 && absmax.dtype == DType::f32, "nf4 offset: the mean of f32 scales");
  launch(s, {.name = "nf4 offset", .bytes = double(absmax.bytes() + offset.bytes())}, [&] {
    const float* x = absmax.get<float>();
    const int64_t n = absmax.count();
    double sums[8] = {};  // one thread: a sixty-fourth of the weights, and the order stays what it is
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
#pragma omp simd
      for (int j = 0; j < 8; ++j) sums[j] += double(x[i + j]);
    }
    for (; i < n; ++i) sums[i % 8] += double(x[i]);
    double sum = 0;
    for (const double part : sums) sum += part;
    *offset.get<float>() = n ? float(sum / double(n)) : 0.0f;
  }, [&](auto& cuda) { nf4_offset_cuda(cuda, offset, absmax); });
}

void nf4_nest(Stream& s, Tensor codes, Tensor nested_absmax, Tensor absmax, Tensor offset) {
  const int64_t n = absmax.count(), groups = (n + nested_block - 1) / nested_block;
  check(codes.dtype == DType::u8 && codes.count() == n, "nf4 nest: an 8-bit code a scale");
  check(nested_absmax.dtype == DType::f32 && nested_absmax.count() == groups, "nf4 nest: an f32 scale for 256 scales");
  check(absmax.dtype == DType::f32 && offset.dtype == DType::f32 && offset.count() == 1, "nf4 nest: f32 scales and their mean");
  launch(s, {.name = "nf4 nest", .bytes = double(absmax.bytes() + codes.bytes() + nested_absmax.bytes())}, [&] {
    const DynamicMap& map = signed_map();
    const float* x = absmax.get<float>();
    uint8_t* to = codes.get<uint8_t>();
    float* scales = nested_absmax.get<float>();
    const float off = *offset.get<float>();
    parallel_for(groups, 16, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const int64_t first = g * nested_block, m = std::min(nested_block, n - first);
        float v[nested_block];
#pragma omp simd
        for (int64_t i = 0; i < m; ++i) v[i] = x[first + i] - off;
        scales[g] = largest_magnitude(v, m);
        const float r = 1.0f / scales[g];
#pragma omp simd
        for (int64_t i = 0; i < m; ++i) to[first + i] = uint8_t(map.nearest(v[i] * r));
      }
    });
  }, [&](auto& cuda) { nf4_nest_cuda(cuda, codes, nested_absmax, absmax, offset); });
}

namespace {

void quantize_strips(Stream& s, const Weight& out, Tensor absmax, const Numbers& numbers) {
  check_parts(out);
  for_each_strip(out, numbers, [&](int64_t row, Tensor dense) {
    const int64_t first = row * out.shape[1], n = dense.count();
    nf4_quantize(s, out.parts[0].rows(first / 2, (n + 1) / 2), absmax.rows(first / nf4_block, nf4_blocks(n)), dense);
  });
}

}  // namespace

void nf4_pack(Stream& s, const Weight& out, const Numbers& numbers) { quantize_strips(s, out, out.parts[1], numbers); }

void nf4_dq_pack(Stream& s, const Weight& out, const Numbers& numbers) {
  const Scope scope(s.arena);
  const Tensor absmax = s.scratch("nf4 absmax", DType::f32, {nf4_blocks(out.shape.count())});
  quantize_strips(s, out, absmax, numbers);
  nf4_offset(s, out.parts[3], absmax);
  nf4_nest(s, out.parts[1], out.parts[2], absmax, out.parts[3]);
}

void nf4_unpack(Stream& s, Tensor dense, const Weight& w) {
  check_parts(w);
  check(dense.count() == w.shape.count(), "nf4 unpack: as many numbers as the matrix has");
  launch(s, {.name = "nf4 unpack", .bytes = double(bytes_of(w) + dense.bytes())}, [&] {
    const Nf4Bytes bytes(w);
    visit_float(dense.dtype, [&](auto t) { unpack_all(dense.get<decltype(t)>(), bytes); });
  }, [&](auto& cuda) { nf4_unpack_cuda(cuda, dense, w); });
}

void nf4_decode(float* out, const Weight& w, int64_t first, int64_t n) {
  const Nf4Bytes bytes(w);
  for (int64_t i = first; i < first + n;) {  // a block at a time
    float scale = 0;
    bytes.scales(&scale, i / nf4_block, 1);
    const int64_t end = std::min(first + n, (i / nf4_block + 1) * nf4_block);
    for (; i < end; ++i) *out++ = nf4_values[size_t(bytes.code(i))] * scale;
  }
}

}  // namespace thimble::quant
