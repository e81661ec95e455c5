// A few operations, on the device so that the host need not wait for the norm.
#include "optim/clip.h"

#include <cmath>

namespace thimble::optim {

void clip_scale_cuda(CudaContext&, Tensor scale, Tensor squares, Tensor loss, float most);  // clip.cu

void clip_scale(Stream& s, Tensor scale, Tensor squares, Tensor loss, float most) {
  check(scale.dtype == DType::f32 && scale.count() == 1 && squares.dtype == DType::f32 && squares.count() == 1 && loss.dtype == DType::f32 && loss.count() == 1,
        "clip_scale: scale, squares and loss are (1) f32");
  launch(
      s, {.name = "clip", .flops = 4, .bytes = 12},
      [&] {
        const float norm = std::sqrt(*squares.get<float>());
        const bool good = std::isfinite(norm) && std::isfinite(*loss.get<float>());
        *scale.get<float>() = !good ? NAN : most > 0 && norm > most ? most / (norm + 1e-6f) : 1.0f;
      },
      [&](auto& cuda) { clip_scale_cuda(cuda, scale, squares, loss, most); });
}

}  // namespace thimble::optim
