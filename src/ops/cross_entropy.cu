// Cross entropy on cuda: a block to a token, two passes over its logits; token losses are added in the order of the tokens.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int threads = 512;

// The largest logit and the sum of exponentials relative to it, of what was seen so far.
struct Softmax {
  float most = -INFINITY, sum = 0;
  __device__ void see(float x) {
    if (x > most) {
      sum = sum * expf(most - x) + 1;
      most = x;
    } else if (x > -INFINITY) {
      sum += expf(x - most);
    }
  }
};

// N values of an access. d null: no gradient; it may be the logits' own place.
template <int N, class X, class D>
__global__ void rows(const X* logits, D* d, float* losses, const int32_t* targets, const float* scale, int64_t vocab, float inverse_cap) {
  const X* row = logits + blockIdx.x * vocab;
  D* to = d ? d + blockIdx.x * vocab : nullptr;
  const int32_t target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) losses[2 * blockIdx.x] = losses[2 * blockIdx.x + 1] = 0;
    if (to)
      for (int64_t i = threadIdx.x; i < vocab; i += threads) to[i] = D(0.0f);
    return;
  }
  Softmax mine;
  float earlier = -INFINITY;  // the largest before the target: of equal maxima the first is the arg max
  for (int64_t i = int64_t{threadIdx.x} * N; i < vocab; i += threads * N) {
    const auto a = load_pack<N>(row + i);
    for (int k = 0; k < N; ++k) {
      mine.see(float(a.at[k]));
      if (i + k < target) earlier = fmaxf(earlier, float(a.at[k]));
    }
  }
  const float hit = float(row[target]);
  const float most = block_reduce<threads>(mine.most, Max{});
  const double part = mine.sum > 0 ? double(mine.sum) * double(expf(mine.most - most)) : 0.0;
  const double log_sum = double(most) + log(block_reduce<threads>(part, Add{}));
  earlier = block_reduce<threads>(earlier, Max{});
  if (threadIdx.x == 0) {
    losses[2 * blockIdx.x] = float(log_sum - double(hit));
    losses[2 * blockIdx.x + 1] = hit == most && earlier < most ? 1.0f : 0.0f;
  }
  if (!to) return;
  const float s = *scale, shift = float(log_sum);
  for (int64_t i = int64_t{threadIdx.x} * N; i < vocab; i += threads * N) {
    const auto a = load_pack<N>(row + i);
    Pack<D, N> g;
    for (int k = 0; k < N; ++k) {
      const float x = float(a.at[k]), slope = inverse_cap > 0 ? 1.0f - x * inverse_cap * (x * inverse_cap) : 1.0f;
      g.at[k] = D((i + k == target ? float(double(s) * expm1(double(x) - log_sum)) : s * expf(x - shift)) * slope);
    }
    store_pack<N>(to + i, g);
  }
}

__global__ void add_losses(float* loss, int32_t* correct, const float* losses, const float* scale, int64_t tokens) {
  double total = 0;
  int hits = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += threads) total += double(losses[2 * t]), hits += losses[2 * t + 1] > 0;
  total = block_reduce<threads>(total, Add{});
  hits = block_reduce<threads>(hits, Add{});
  if (threadIdx.x > 0) return;
  *loss += float(total * double(*scale));
  if (correct) *correct += hits;
}

}  // namespace

// losses (T, 2) f32: scratch, the loss of each token and whether it was right.
void cross_entropy_cuda(CudaContext& cuda, Tensor loss, Tensor correct, Tensor losses, Tensor logits, Tensor targets, Tensor scale, Tensor d, float inverse_cap) {
  const int64_t tokens = logits.shape[0], vocab = logits.shape[1];
  if (tokens == 0) return;
  visit_cuda(logits.dtype, [&]<class X>(X) {
    visit_cuda(d ? d.dtype : logits.dtype, [&]<class D>(D) {
      const auto run = [&]<int n>(std::integral_constant<int, n>) {
        rows<n><<<unsigned(tokens), threads, 0, cuda.stream>>>(at<const X>(logits), at<D>(d), at<float>(losses), at<const int32_t>(targets), at<const float>(scale), vocab,
                                                               inverse_cap);
      };
      using Wider = std::conditional_t<sizeof(X) >= sizeof(D), X, D>;
      with_width<Wider>(vocab, {logits, d ? d : logits}, run);
    });
  });
  add_losses<<<1, threads, 0, cuda.stream>>>(at<float>(loss), at<int32_t>(correct), at<const float>(losses), at<const float>(scale), tokens);
  check_cuda(cudaGetLastError(), "cross_entropy");
}

}  // namespace thimble::ops
