// Rotary embedding on the cpu: the turns of one token are computed once, in float as the reference does, and shared by its heads.
#include "ops/rope.h"

#include <cmath>
#include <span>

#include "base/threads.h"
#include "ops/rms_norm.h"
#include "ops/vector_math.h"

namespace thimble::ops {

// rope.cu
void rope_cuda(CudaContext&, std::span<const Tensor> xs, Tensor positions, Tensor inv_freq, float factor, float direction);
void norm_and_rope_cuda(CudaContext&, std::span<const Tensor> xs, const HeadNorms&, Tensor positions, Tensor inv_freq, float factor);

namespace {

constexpr int64_t pair_block = 128;  // channel pairs whose turns lie on the stack together

template <class X>
void turn_token(X* x, int64_t heads, int64_t dim, int64_t half, float position, const float* inv_freq, float factor, float direction) {
  float cosine[pair_block], sine[pair_block];
  for (int64_t begin = 0; begin < half; begin += pair_block) {
    const int64_t pairs = std::min(pair_block, half - begin);
    for (int64_t i = 0; i < pairs; ++i) {
      const float angle = position * inv_freq[begin + i];
      cosine[i] = std::cos(angle) * factor;
      sine[i] = std::sin(angle) * factor * direction;
    }
    for (int64_t h = 0; h < heads; ++h) {
      X* low = x + h * dim + begin;
      X* high = low + half;
      each_vector(pairs, [&](int64_t i, auto n) {
        const Floats a = load(low + i, n), b = load(high + i, n), c = load(cosine + i, n), d = load(sine + i, n);
        store(low + i, a * c - b * d, n);
        store(high + i, b * c + a * d, n);
      });
    }
  }
}

using Tensors = std::initializer_list<Tensor>;

Work checked_work(const char* name, Tensors xs, Tensor positions, Tensor inv_freq) {
  check(xs.size() == 1 || xs.size() == 2, "rope: one tensor or two");
  const Tensor& first = *xs.begin();
  Work work{.name = name, .bytes = double(positions.bytes() + inv_freq.bytes())};
  for (const Tensor& x : xs) {
    check(x.shape.rank() == 3 && x.shape[2] % 2 == 0, "rope: x is (T, H, D), D even");
    check(positions.dtype == DType::i32 && positions.shape == Shape{x.shape[0]}, "rope: positions is (T) i32");
    check(x.dtype == first.dtype && x.shape[2] == first.shape[2], "rope: what turns together is of one type and head dim");
    work.flops += 3.0 * double(x.count());
    work.bytes += double(2 * x.bytes());
  }
  check(inv_freq.dtype == DType::f32 && inv_freq.shape.rank() == 1 && 2 * inv_freq.shape[0] <= first.shape[2], "rope: inv_freq is (P) f32, 2P at most D");
  return work;
}

void turn(Stream& s, const char* name, Tensors xs, Tensor positions, Tensor inv_freq, float factor, float direction) {
  const Work work = checked_work(name, xs, positions, inv_freq);
  launch(
      s, work,
      [&] {
        for (const Tensor& x : xs) {
          const int64_t tokens = x.shape[0], heads = x.shape[1], dim = x.shape[2], half = inv_freq.shape[0];
          visit_float(x.dtype, [&]<class X>(X) {
            parallel_for(tokens, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, heads * dim)), [&](int64_t begin, int64_t end) {
              for (int64_t t = begin; t < end; ++t) {
                const auto position = float(positions.get<int32_t>()[t]);
                turn_token(x.get<X>() + t * heads * dim, heads, dim, half, position, inv_freq.get<float>(), factor, direction);
              }
            });
          });
        }
      },
      [&](auto& cuda) { rope_cuda(cuda, std::span(xs.begin(), xs.size()), positions, inv_freq, factor, direction); });
}

}  // namespace

void rope(Stream& s, Tensors xs, Tensor positions, Tensor inv_freq, float attention_factor) { turn(s, "rope", xs, positions, inv_freq, attention_factor, 1); }

void rope_backward(Stream& s, Tensors dxs, Tensor positions, Tensor inv_freq, float attention_factor) {
  turn(s, "rope_backward", dxs, positions, inv_freq, attention_factor, -1);
}

void norm_and_rope(Stream& s, Tensors xs, const HeadNorms& norms, Tensor positions, Tensor inv_freq, float attention_factor) {
  Work work = checked_work("norm and rope", xs, positions, inv_freq);
  const auto& [q_weight, k_weight] = norms.weight;
  const Tensor& first = *xs.begin();
  if (s.device.kind() != DeviceKind::cuda || first.shape[2] > most_normed_channels || (xs.size() > 1 && q_weight.dtype != k_weight.dtype)) {
    for (size_t i = 0; i < xs.size(); ++i) {
      const Scope scope(s.arena);
      const Tensor& x = xs.begin()[i];
      const Tensor heads = x.view({x.shape[0] * x.shape[1], x.shape[2]});
      rms_norm(s, heads, s.scratch("rstd", DType::f32, {heads.shape[0]}), heads, norms.weight[i], norms.eps, norms.offset);
    }
    return rope(s, xs, positions, inv_freq, attention_factor);
  }
  for (size_t i = 0; i < xs.size(); ++i) {
    check(norms.weight[i].shape == Shape{first.shape[2]}, "norm_and_rope: a weight is (D)");
    work.flops += 4.0 * double(xs.begin()[i].count());
    work.bytes += double(norms.weight[i].bytes());
  }
  launch(s, work, [] {}, [&](auto& cuda) { norm_and_rope_cuda(cuda, std::span(xs.begin(), xs.size()), norms, positions, inv_freq, attention_factor); });
}

}  // namespace thimble::ops
