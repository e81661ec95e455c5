// Cross entropy on the cpu: tokens in parallel; their losses are added in double, in the order of the tokens.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "ops/vector_math.h"

namespace thimble::ops {

// cross_entropy.cu
void cross_entropy_cuda(CudaContext&, Tensor loss, Tensor correct, Tensor losses, Tensor logits, Tensor targets, Tensor scale, Tensor d,
                        float inverse_cap);

namespace {

constexpr int64_t tokens_at_once = 512;  // whose losses wait on the stack to be added in order
constexpr int64_t sum_block = 2048;      // exponentials summed in float lanes before they join the double

struct TokenLoss { double loss = 0; bool correct = false; };

template <class X>
float row_maximum(const X* x, int64_t vocab) {
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  Floats most = splat(lowest);
  int64_t i = 0;
  for (; i + lanes <= vocab; i += lanes) most = max(load(x + i), most);
  if (i < vocab) most = max(load(x + i, vocab - i, lowest), most);
  return largest(most);
}

template <class X>
double sum_of_exponentials(const X* x, int64_t vocab, float shift) {
  double total = 0;
  for (int64_t block = 0; block < vocab; block += sum_block) {
    const int64_t end = std::min(vocab, block + sum_block);
    Floats part{};
    int64_t i = block;
    for (; i + lanes <= end; i += lanes) part += exp(load(x + i) - shift);
    if (i < end) part += exp(load(x + i, end - i, -std::numeric_limits<float>::infinity()) - shift);
    total += double(sum(part));
  }
  return total;
}

// d may be x's own place.
template <class X, class D>
TokenLoss token(const X* x, D* d, int64_t vocab, int32_t target, float scale, float inverse_cap) {
  if (target < 0) {
    if (d) std::fill_n(d, vocab, D(0.0f));
    return {};
  }
  const float most = row_maximum(x, vocab), hit = float(x[target]);
  const double log_sum = double(most) + std::log(sum_of_exponentials(x, vocab, most));
  // of equal maxima the first is the arg max
  const bool correct = hit == most && std::none_of(x, x + target, [&](X a) { return float(a) == most; });
  if (d) {
    const float shift = float(log_sum);
    const auto slope = [&](auto capped) { return 1.0f - capped * inverse_cap * (capped * inverse_cap); };  // a masked logit has none: 0 times infinity
    each_vector(vocab, [&](int64_t i, auto n) {
      const Floats a = load(x + i, n);
      const Floats g = scale * exp(a - shift);
      store(d + i, inverse_cap > 0 ? g * slope(a) : g, n);
    });
    d[target] = D(float(double(scale) * std::expm1(double(hit) - log_sum)) * (inverse_cap > 0 ? slope(hit) : 1.0f));  // p - 1 without cancellation
  }
  return {log_sum - double(hit), correct};
}

}  // namespace

void cross_entropy(Stream& s, Tensor loss, Tensor correct, Tensor logits, Tensor targets, Tensor scale, Tensor d, float cap) {
  check(logits.shape.rank() == 2 && (logits.dtype == DType::f32 || logits.dtype == DType::bf16),
        "cross_entropy: logits is (T, V), f32 or bf16");
  check(!d || d.shape == logits.shape, "cross_entropy: the gradient is like the logits");
  check(!d || d.data != logits.data || d.dtype == logits.dtype, "cross_entropy: a gradient in the logits' place has their type");
  check(targets.dtype == DType::i32 && targets.shape == Shape{logits.shape[0]}, "cross_entropy: targets is (T) i32");
  check(loss.dtype == DType::f32 && loss.count() == 1, "cross_entropy: loss is (1) f32");
  check(scale.dtype == DType::f32 && scale.count() == 1, "cross_entropy: scale is (1) f32");
  check(!correct || (correct.dtype == DType::i32 && correct.count() == 1), "cross_entropy: correct is (1) i32, or null");
  const int64_t tokens = logits.shape[0], vocab = logits.shape[1];
  const float inverse_cap = cap > 0 ? 1 / cap : 0;
  const Scope scope(s.arena);
  const Tensor losses = s.device.kind() == DeviceKind::cuda ? s.scratch("losses of tokens", DType::f32, {tokens, 2}) : Tensor{};
  const Work work{.name = d ? "cross_entropy" : "cross_entropy_loss", .flops = (d ? 8.0 : 4.0) * double(logits.count()),
                  .bytes = double(logits.bytes() + d.bytes() + targets.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(logits.dtype, [&]<class X>(X) {
          visit_float(d ? d.dtype : logits.dtype, [&]<class D>(D) {
            double total = 0;
            int32_t hits = 0;
            TokenLoss part[tokens_at_once];
            for (int64_t first = 0; first < tokens; first += tokens_at_once) {
              const int64_t n = std::min(tokens_at_once, tokens - first);
              parallel_for(n, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, vocab)), [&](int64_t begin, int64_t end) {
                for (int64_t t = begin; t < end; ++t) {
                  const int64_t row = first + t;
                  part[t] = token(logits.get<X>() + row * vocab, d ? d.get<D>() + row * vocab : nullptr, vocab, targets.get<int32_t>()[row],
                                  *scale.get<float>(), inverse_cap);
                }
              });
              for (int64_t t = 0; t < n; ++t) total += part[t].loss, hits += part[t].correct;
            }
            *loss.get<float>() += float(total * double(*scale.get<float>()));
            if (correct) *correct.get<int32_t>() += hits;
          });
        });
      },
      [&](auto& cuda) { cross_entropy_cuda(cuda, loss, correct, losses, logits, targets, scale, d, inverse_cap); });
}

}  // namespace thimble::ops
