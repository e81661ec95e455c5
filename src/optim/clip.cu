// See clip.cpp.
#include "device/kernel.cuh"

namespace thimble::optim {
namespace {

struct ClipScale {
  float* scale;
  const float *squares, *loss;
  float most;
  __device__ void operator()(int64_t) const {
    const float norm = sqrtf(*squares);
    const bool good = isfinite(norm) && isfinite(*loss);
    *scale = !good ? NAN : most > 0 && norm > most ? most / (norm + 1e-6f) : 1.0f;
  }
};

}  // namespace

void clip_scale_cuda(CudaContext& cuda, Tensor scale, Tensor squares, Tensor loss, float most) {
  for_each(cuda, 1, ClipScale{at<float>(scale), at<const float>(squares), at<const float>(loss), most});
}

}  // namespace thimble::optim
