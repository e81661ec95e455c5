// The passes of an INT8 product on cuda; column maxima meet by atomic maxima, whose order does not matter.
#include "device/kernel.cuh"
#include "ops/llm_int8.h"
#include "ops/llm_int8_parts.h"
#include "quant/int8.h"

namespace thimble::ops {
namespace {

constexpr int threads = 256, pick_threads = 1024, rows_at_once = 64;

__device__ __forceinline__ float through_f16(float x) { return __half2float(__float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f))); }

// A thread to a column, a block to 64 rows of 256 columns. Magnitudes are not negative, so their bits sort as they do.
template <class T>
__global__ void column_maxima(int* most, const T* x, int64_t rows, int64_t columns) {
  const int64_t k = int64_t{blockIdx.x} * threads + threadIdx.x, first = int64_t{blockIdx.y} * rows_at_once;
  if (k >= columns) return;
  float largest = 0;
  for (int64_t row = first; row < min(first + rows_at_once, rows); ++row) largest = fmaxf(largest, fabsf(through_f16(float(x[row * columns + k]))));
  atomicMax(most + k, __float_as_int(largest));
}

// One block: raises the threshold until the columns are few, then writes them in order.
__global__ void pick_columns(int* picked, int* found, float* threshold, const float* most, int cap, int64_t columns) {
  __shared__ int before[pick_threads];
  const int64_t each = (columns + pick_threads - 1) / pick_threads, begin = threadIdx.x * each, end = min(begin + each, columns);
  float limit = outlier_threshold;
  int mine = 0, all = 0;
  for (;; limit *= 2) {
    mine = 0;
    for (int64_t k = begin; k < end; ++k) mine += most[k] >= limit;
    if ((all = block_reduce<pick_threads>(mine, Add{})) <= cap) break;
  }
  before[threadIdx.x] = mine;
  for (int i = int(threadIdx.x); i < cap; i += pick_threads) picked[i] = -1;
  __syncthreads();
  if (threadIdx.x == 0) {
    *threshold = limit;
    *found = all;
    int sum = 0;
    for (int i = 0; i < pick_threads; ++i) {
      const int n = before[i];
      before[i] = sum;
      sum += n;
    }
  }
  __syncthreads();
  int to = before[threadIdx.x];
  for (int64_t k = begin; k < end; ++k)
    if (most[k] >= limit) picked[to++] = int(k);
}

// A block to a row.
template <class T>
__global__ void round_row(T* codes, float* scales, T* outliers, const T* x, const int* picked, const float* threshold, int cap, int64_t columns) {
  const int64_t row = blockIdx.x;
  x += row * columns;
  codes += row * columns;
  const float limit = *threshold;
  float most = 0;
  for (int64_t k = threadIdx.x; k < columns; k += threads) {
    const float v = fabsf(through_f16(float(x[k])));
    if (v < limit) most = fmaxf(most, v);
  }
  most = block_reduce<threads>(most, Max{});
  if (threadIdx.x == 0) scales[row] = most;
  const float scale = most > 0 ? __fdiv_rn(quant::int8_top, most) : 0.0f;
  for (int64_t k = threadIdx.x; k < columns; k += threads) codes[k] = T(rintf(__fmul_rn(through_f16(float(x[k])), scale)));
  __syncthreads();  // a column's code was written by another thread
  for (int j = int(threadIdx.x); j < cap; j += threads) {
    const int k = picked[j];
    outliers[row * cap + j] = k < 0 ? T(0.0f) : x[k];
    if (k >= 0) codes[k] = T(0.0f);
  }
}

template <class T, int N>
struct Widen {
  T* to;
  const int8_t* from;
  __device__ void operator()(int64_t i) const {
    const auto codes = load_pack<N>(from + i * N);
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) out.at[k] = T(float(codes.at[k]));
    store_pack<N>(to + i * N, out);
  }
};

template <class T>
struct Gather {
  T* to;
  const int8_t* codes;
  const float* absmax;
  const int* picked;
  int64_t cap, columns;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / cap;
    const int k = picked[i % cap];
    to[i] = T(k < 0 ? 0.0f : float(codes[row * columns + k]) * (absmax[row] * quant::int8_step));
  }
};

template <class Y>
struct Scale {
  Y* y;
  const float *sums, *rows, *absmax;
  const Y* c;
  int64_t n;
  __device__ void operator()(int64_t i) const {
    const float sum = __fmul_rn(sums[i], __fmul_rn(rows[i / n] * (quant::int8_step * quant::int8_step), absmax[i % n]));
    y[i] = Y(c ? sum + float(c[i]) : sum);
  }
};

}  // namespace

void find_outliers_cuda(CudaContext& cuda, const Int8Product& p) {
  const int64_t rows = p.x.shape[0], columns = p.x.shape[1];
  if (p.x.count() == 0) return;
  check_cuda(cudaMemsetAsync(p.column_most.data, 0, size_t(p.column_most.bytes()), cuda.stream), "cudaMemsetAsync");
  visit_cuda(p.x.dtype, [&]<class T>(T) {
    const dim3 blocks(unsigned(blocks_of(columns, threads)), unsigned(blocks_of(rows, rows_at_once)));
    column_maxima<<<blocks, threads, 0, cuda.stream>>>(at<int>(p.column_most), at<const T>(p.x), rows, columns);
  });
  pick_columns<<<1, pick_threads, 0, cuda.stream>>>(at<int>(p.columns), at<int>(p.found), at<float>(p.threshold), at<const float>(p.column_most),
                                                      int(p.columns.count()), columns);
  check_cuda(cudaGetLastError(), "int8 outliers");
}

void round_rows_cuda(CudaContext& cuda, const Int8Product& p) {
  if (p.x.count() == 0) return;
  visit_cuda(p.x.dtype, [&]<class T>(T) {
    round_row<<<unsigned(p.x.shape[0]), threads, 0, cuda.stream>>>(at<T>(p.codes), at<float>(p.row_scales), at<T>(p.x_outliers), at<const T>(p.x), at<const int>(p.columns),
                                                                  at<const float>(p.threshold), int(p.columns.count()), p.x.shape[1]);
  });
  check_cuda(cudaGetLastError(), "int8 activations");
}

void widen_codes_cuda(CudaContext& cuda, const Int8Product& p) {
  visit_cuda(p.x.dtype, [&]<class T>(T) {
    const int64_t n = p.w_codes.count();
    const auto* codes = at<const int8_t>(p.w.parts[0]);
    if (n % 4 == 0) for_each(cuda, n / 4, Widen<T, 4>{at<T>(p.w_codes), codes});
    else for_each(cuda, n, Widen<T, 1>{at<T>(p.w_codes), codes});
    for_each(cuda, p.w_outliers.count(), Gather<T>{at<T>(p.w_outliers), codes, at<const float>(p.w.parts[1]), at<const int>(p.columns), p.columns.count(), p.x.shape[1]});
  });
}

void scale_sums_cuda(CudaContext& cuda, Tensor y, Tensor sums, Tensor row_scales, Tensor absmax, Tensor c) {
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    for_each(cuda, y.count(), Scale<Y>{at<Y>(y), at<const float>(sums), at<const float>(row_scales), at<const float>(absmax), c ? at<const Y>(c) : nullptr, y.shape[1]});
  });
}

}  // namespace thimble::ops
