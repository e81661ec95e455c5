// Rows of a table on cuda: an element a thread; the gradient a channel a thread, so that each sum runs in the order of the tokens.
#include "device/kernel.cuh"
#include "quant/int8.h"
#include "quant/nf4.cuh"

namespace thimble::ops {
namespace {

__device__ int64_t row_of(int32_t id) { return max(id, 0); }

template <class Y, class W, int N>
struct Gather {
  Y* y;
  const int32_t* ids;
  const W* table;
  int64_t packs;  // of a row
  __device__ void operator()(int64_t i) const {
    const int64_t token = i / packs, c = i % packs * N;
    const auto row = load_pack<N>(table + row_of(ids[token]) * packs * N + c);
    Pack<Y, N> out;
    for (int k = 0; k < N; ++k) out.at[k] = Y(float(row.at[k]));
    store_pack<N>(y + i * N, out);
  }
};

template <class Y>
struct GatherNf4 {
  Y* y;
  const int32_t* ids;
  quant::Bytes4 table;
  int64_t channels;
  __device__ void operator()(int64_t i) const {
    const int64_t from = row_of(ids[i / channels]) * channels + i % channels;
    y[i] = Y(quant::book[table.code(from)] * table.scale(from / quant::nf4_block));
  }
};

template <class Y>
struct GatherInt8 {
  Y* y;
  const int32_t* ids;
  const int8_t* codes;
  const float* absmax;
  int64_t channels;
  __device__ void operator()(int64_t i) const {
    const int64_t row = row_of(ids[i / channels]);
    y[i] = Y(float(codes[row * channels + i % channels]) * (absmax[row] * quant::int8_step));
  }
};

template <class Y>
struct Scatter {
  float* dtable;
  const Y* dy;
  const int32_t* ids;
  int64_t tokens, channels;
  __device__ void operator()(int64_t c) const {
    for (int64_t t = 0; t < tokens; ++t) dtable[int64_t{ids[t]} * channels + c] += float(dy[t * channels + c]);
  }
};

}  // namespace

void embedding_cuda(CudaContext& cuda, Tensor y, Tensor ids, Tensor table) {
  const int64_t channels = y.shape[1];
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    visit_cuda(table.dtype, [&]<class W>(W) {
      const auto go = [&]<int n>(std::integral_constant<int, n>) {
        for_each(cuda, y.count() / n, Gather<Y, W, n>{at<Y>(y), at<const int32_t>(ids), at<const W>(table), channels / n});
      };
      if (channels % 4 == 0) go(std::integral_constant<int, 4>{});
      else go(std::integral_constant<int, 1>{});
    });
  });
}

void embedding_packed_cuda(CudaContext& cuda, Tensor y, Tensor ids, const quant::Weight& table) {
  const int64_t channels = y.shape[1];
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    if (table.format == quant::FormatId::int8)
      for_each(cuda, y.count(), GatherInt8<Y>{at<Y>(y), at<const int32_t>(ids), at<const int8_t>(table.parts[0]), at<const float>(table.parts[1]), channels});
    else for_each(cuda, y.count(), GatherNf4<Y>{at<Y>(y), at<const int32_t>(ids), quant::Bytes4(table), channels});
  });
}

void embedding_backward_cuda(CudaContext& cuda, Tensor dtable, Tensor dy, Tensor ids) {
  visit_cuda(dy.dtype, [&]<class Y>(Y) {
    for_each(cuda, dy.shape[1], Scatter<Y>{at<float>(dtable), at<const Y>(dy), at<const int32_t>(ids), dy.shape[0], dy.shape[1]});
  });
}

}  // namespace thimble::ops
