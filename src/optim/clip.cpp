// A few operations, on the device so that the host need not wait for the norm.
#include "optim/clip.h"

#include <cmath>

namespace thimble::optim {

void clip_scale_cuda(CudaContext&, Tensor scale, Tensor squares, Tensor loss, Tensor unscale, float most);  // clip.cu

void clip_scale(Stream& s, Tensor scale, Tensor squares, Tensor loss, Tensor unscale, float most) {
  for (const Tensor& t : {scale, squares, loss, unscale}) check(t.dtype == DType::f32 && t.count() == 1, "clip_scale takes (1) f32");
  launch(
      s, {.name = "clip", .flops = 6, .bytes = 16},
      [&] {
        const float u = *unscale.get<float>(), norm = std::sqrt(*squares.get<float>()) * u;
        const bool good = std::isfinite(norm) && std::isfinite(*loss.get<float>());
        *scale.get<float>() = !good ? NAN : most > 0 && norm > most ? most / (norm + 1e-6f) * u : u;
      },
      [&](auto& cuda) { clip_scale_cuda(cuda, scale, squares, loss, unscale, most); });
}

}  // namespace thimble::optim
