// Counts of the text's tokens are made, and cleared by the one that uses them.
#include "ops/penalties.h"

namespace thimble::ops {

void penalize_cuda(CudaContext&, Tensor logits, Tensor text, int64_t prompt, Tensor last, Tensor counts, const Penalties&);  // penalties.cu

void penalize(Stream& s, Tensor logits, Tensor text, int64_t prompt, Tensor last, Tensor counts, const Penalties& by) {
  const int64_t vocab = logits.shape.rank() == 2 ? logits.shape[1] : 0, n = text.count();
  check(logits.dtype == DType::f32 && logits.shape == Shape{1, vocab}, "penalize: logits are (1, V) f32");
  check(text.dtype == DType::i32 && last.dtype == DType::i32 && last.shape == Shape{1} && n > 0 && prompt <= n, "penalize: the text is (n) i32, its last token (1)");
  check(counts.dtype == DType::i32 && counts.shape == Shape{vocab}, "penalize: counts are (V) i32");
  const Work work{.name = "penalties", .bytes = double(2 * text.bytes()) + 12.0 * double(n)};
  launch(
      s, work,
      [&] {
        auto* ids = text.get<int32_t>();
        auto* count = counts.get<int32_t>();
        auto* x = logits.get<float>();
        ids[n - 1] = *last.get<int32_t>();
        for (int64_t i = 0; i < n; ++i)
          if (ids[i] >= 0) count[ids[i]] = i < prompt ? count[ids[i]] | penalized_in_prompt : count[ids[i]] + 1;
        for (int64_t i = 0; i < n; ++i)
          if (ids[i] >= 0 && count[ids[i]] != 0) {
            x[ids[i]] = penalized(x[ids[i]], count[ids[i]] & ~penalized_in_prompt, by);
            count[ids[i]] = 0;
          }
      },
      [&](auto& cuda) { penalize_cuda(cuda, logits, text, prompt, last, counts, by); });
}

}  // namespace thimble::ops
