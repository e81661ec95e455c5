// See clip.cpp.
#include "device/kernel.cuh"

namespace thimble::optim {
namespace {

struct ClipScale {
  float* scale;
  const float *squares, *loss, *unscale;
  float most;
  __device__ void operator()(int64_t) const {
    const float u = *unscale, norm = sqrtf(*squares) * u;
    const bool good = isfinite(norm) && isfinite(*loss);
    *scale = !good ? NAN : most > 0 && norm > most ? most / (norm + 1e-6f) * u : u;
  }
};

}  // namespace

void clip_scale_cuda(CudaContext& cuda, Tensor scale, Tensor squares, Tensor loss, Tensor unscale, float most) {
  for_each(cuda, 1, ClipScale{at<float>(scale), at<const float>(squares), at<const float>(loss), at<const float>(unscale), most});
}

}  // namespace thimble::optim
