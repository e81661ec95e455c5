// The first of the largest, rows in parallel.
#include "ops/argmax.h"

#include <cmath>

#include "base/threads.h"

namespace thimble::ops {

void argmax_cuda(CudaContext&, Tensor ids, Tensor logits);  // argmax.cu

int32_t likeliest(std::span<const float> logits) {
  size_t best = 0;
  bool finite = true;
  for (size_t v = 0; v < logits.size(); ++v) {
    finite = finite && std::isfinite(logits[v]);
    if (logits[v] > logits[best]) best = v;
  }
  return finite ? int32_t(best) : -1;
}

void argmax(Stream& s, Tensor ids, Tensor logits) {
  check(logits.shape.rank() == 2 && logits.dtype == DType::f32 && logits.shape[1] > 0, "argmax: logits are (T, V) f32");
  check(ids.dtype == DType::i32 && ids.shape == Shape{logits.shape[0]}, "argmax: ids are (T) i32");
  const Work work{.name = "argmax", .bytes = double(logits.bytes() + ids.bytes())};
  launch(
      s, work,
      [&] {
        const int64_t vocab = logits.shape[1];
        parallel_for(logits.shape[0], 1, [&](int64_t begin, int64_t end) {
          for (int64_t t = begin; t < end; ++t) ids.get<int32_t>()[t] = likeliest({logits.get<float>() + t * vocab, size_t(vocab)});
        });
      },
      [&](auto& cuda) { argmax_cuda(cuda, ids, logits); });
}

}  // namespace thimble::ops
