// A few operations, on the device so that the host need not wait for the norm.
#include "optim/clip.h"

#include <cmath>

namespace thimble::optim {

void clip_scale_cuda(CudaContext&, Tensor scale, Tensor squares, float most);  // clip.cu

void clip_scale(Stream& s, Tensor scale, Tensor squares, float most) {
  check(scale.dtype == DType::f32 && scale.count() == 1 && squares.dtype == DType::f32 && squares.count() == 1, "clip_scale: scale and squares are (1) f32");
  launch(
      s, {.name = "clip", .flops = 4, .bytes = 8},
      [&] {
        const float norm = std::sqrt(*squares.get<float>());
        *scale.get<float>() = most > 0 && norm > most ? most / (norm + 1e-6f) : norm * 0 + 1;
      },
      [&](auto& cuda) { clip_scale_cuda(cuda, scale, squares, most); });
}

}  // namespace thimble::optim
