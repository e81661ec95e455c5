// See clip.cpp.
#include "device/kernel.cuh"

namespace thimble::optim {
namespace {

struct ClipScale {
  float* scale;
  const float* squares;
  float most;
  __device__ void operator()(int64_t) const {
    const float norm = sqrtf(*squares);
    *scale = most > 0 && norm > most ? most / (norm + 1e-6f) : norm * 0 + 1;
  }
};

}  // namespace

void clip_scale_cuda(CudaContext& cuda, Tensor scale, Tensor squares, float most) {
  for_each(cuda, 1, ClipScale{at<float>(scale), at<const float>(squares), most});
}

}  // namespace thimble::optim
