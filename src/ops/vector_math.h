// Sixteen floats at a time, through the compiler's vector types: one AVX-512 register, or two of AVX2; loads convert from any float type.
// Loops written with these vectorise at any -O level and give the same bits whatever the thread count.
#pragma once
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/dtype.h"
#include "base/shuffle.h"
#include "base/threads.h"

namespace thimble::ops {

constexpr int64_t lanes = 16;
using Floats = float __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));

using Whole = std::integral_constant<int64_t, lanes>;  // as the count of a load or store: all lanes; an int64_t: the first few

inline Floats splat(float x) { return Floats{} + x; }
inline Ints as_ints(Floats x) { return std::bit_cast<Ints>(x); }
inline Floats as_floats(Ints x) { return std::bit_cast<Floats>(x); }
inline Floats max(Floats a, Floats b) { return a > b ? a : b; }

template <class T>
Floats load(const T* p) {
  if constexpr (std::is_same_v<T, float>) {
    Floats x;
    std::memcpy(&x, p, sizeof x);
    return x;
  } else if constexpr (std::is_same_v<T, bf16>) {
    using Bits = uint16_t __attribute__((vector_size(32)));
    Bits b;
    std::memcpy(&b, p, sizeof b);
    return as_floats(__builtin_convertvector(b, Ints) << 16);
  } else if constexpr (std::is_same_v<T, int32_t>) {
    Ints x;
    std::memcpy(&x, p, sizeof x);
    return __builtin_convertvector(x, Floats);
  } else {
    float x[lanes];
    for (int64_t i = 0; i < lanes; ++i) x[i] = float(p[i]);
    return load(x);
  }
}

template <class T>
void store(T* p, Floats x) {
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(p, &x, sizeof x);
  } else if constexpr (std::is_same_v<T, bf16>) {
    using Bits = uint16_t __attribute__((vector_size(32)));
    using Unsigned = uint32_t __attribute__((vector_size(64)));
    const auto u = std::bit_cast<Unsigned>(x);
    const Unsigned rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
    const Bits b = __builtin_convertvector(x == x ? rounded : nan, Bits);
    std::memcpy(static_cast<void*>(p), &b, sizeof b);
  } else {
    float y[lanes];
    store(y, x);
    for (int64_t i = 0; i < lanes; ++i) p[i] = T(y[i]);
  }
}

// The first n lanes; the others read as `rest`, and are not written.
template <class T> Floats load(const T* p, Whole) { return load(p); }
template <class T> void store(T* p, Floats x, Whole) { store(p, x); }
template <class T>
Floats load(const T* p, int64_t n, float rest = 0) {
  float x[lanes];
  for (int64_t i = 0; i < lanes; ++i) x[i] = i < n ? float(p[i]) : rest;
  return load(x);
}
template <class T>
void store(T* p, Floats x, int64_t n) {
  T y[lanes];
  store(y, x);
  for (int64_t i = 0; i < n; ++i) p[i] = y[i];
}

// f(i, count) over [0, n) by vectors; count is Whole but for a last partial vector. f is a generic lambda.
template <class F>
void each_vector(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(i, Whole{});
  if (i < n) f(i, n - i);
}

// The same over threads, which meet only at whole vectors, at least `grain` of them each.
template <class F>
void each_vector_parallel(int64_t n, int64_t grain, F&& f) {
  parallel_for((n + lanes - 1) / lanes, grain, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * lanes;
    each_vector(std::min(end * lanes, n) - first, [&](int64_t i, auto count) { f(first + i, count); });
  });
}

// Across the lanes, as a fixed tree.
inline float sum(Floats x) {
  float a[lanes];
  store(a, x);
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}
inline float largest(Floats x) {
  float a[lanes];
  store(a, x);
  float most = a[0];
  for (int64_t i = 1; i < lanes; ++i) most = a[i] > most ? a[i] : most;
  return most;
}

inline Ints ascending() { return Ints{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// The lanes of a in pairs `step` apart, summed, where (lane & step) is 0; those of b where it is not.
template <int step>
Floats fold(Floats a, Floats b) {
  const Ints lane = ascending(), from = (lane & step) * (int(lanes) / step);
  return shuffle(a, b, (lane & ~step) + from) + shuffle(a, b, (lane | step) + from);
}

// Sixteen sums at once: lane i of the result is the sum over the lanes of vector_of(i). A tree of folds, so that all stays in registers.
template <int step = 1, class F>
[[gnu::always_inline]] inline Floats sum_each(F&& vector_of, int i = 0) {
  if constexpr (step == lanes) return vector_of(i);
  else return fold<step>(sum_each<2 * step>(vector_of, i), sum_each<2 * step>(vector_of, i + step));
}

// e^x within 2 ulp; 0 below the smallest normal float, infinity above the largest, NaN stays NaN. x = n ln2 + r, |r| <= ln2 / 2,
// and a polynomial for e^r (coefficients of Cephes' expf).
inline Floats exp(Floats x) {
  const Ints under = x < -87.33654f, over = x > 88.72283f;
  x = under ? splat(-87.33654f) : x;
  x = over ? splat(88.72283f) : x;
  const Floats shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  const Floats n = shifted - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const Ints whole = as_ints(shifted) - 0x4B400000, low = whole >> 1;  // 2^n in two factors: n = 128 has none of its own
  p = p * as_floats((low + 127) << 23) * as_floats((whole - low + 127) << 23);
  p = under ? Floats{} : p;
  return over ? splat(__builtin_inff()) : p;
}

inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

// Within 2 ulp, small arguments too: there a polynomial (coefficients of Cephes' tanhf), since 1 - 2 / (e^2x + 1) cancels.
inline Floats tanh(Floats x) {
  const Floats z = x * x;
  Floats p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  return z < 0.390625f ? p * z * x + x : 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
}

}  // namespace thimble::ops
