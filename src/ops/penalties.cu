// One block: the text is short beside a row of logits.
#include "device/kernel.cuh"
#include "ops/penalties.h"

namespace thimble::ops {
namespace {

constexpr int threads = 1024;

__global__ void __launch_bounds__(threads) penalize_one(float* logits, int* text, int n, int prompt, const int* last, int* counts, Penalties by) {
  let_later_begin();
  wait_for_earlier();
  if (threadIdx.x == 0) text[n - 1] = *last;
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += threads)
    if (const int id = text[i]; id >= 0) {
      if (i < prompt) atomicOr(&counts[id], penalized_in_prompt);
      else atomicAdd(&counts[id], 1);
    }
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += threads)
    if (const int id = text[i]; id >= 0)
      if (const int count = atomicExch(&counts[id], 0); count != 0) logits[id] = penalized(logits[id], count & ~penalized_in_prompt, by);  // the first that asks
}

}  // namespace

void penalize_cuda(CudaContext& cuda, Tensor logits, Tensor text, int64_t prompt, Tensor last, Tensor counts, const Penalties& by) {
  launch_early(cuda, "penalties", 1u, threads, 0, penalize_one, at<float>(logits), at<int>(text), int(text.count()), int(prompt), at<const int>(last), at<int>(counts), by);
}

}  // namespace thimble::ops
