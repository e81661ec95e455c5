// Gated activation on the cpu: one pass, every operand read once. Outputs may be inputs: each vector is read before it is written.
// Both activations are x sigmoid(z(x)): silu with z = x, GELU with z = 2 sqrt(2 / pi) (x + 0.044715 x^3), as (1 + tanh u) / 2 = sigmoid(2u).
#include "ops/swiglu.h"

#include "ops/vector_math.h"

namespace thimble::ops {

void swiglu_cuda(CudaContext&, Tensor y, Tensor gate, Tensor up, Activation);  // swiglu.cu
void swiglu_backward_cuda(CudaContext&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up, Activation);

namespace {

constexpr int64_t grain = 1024;  // vectors

struct Silu {
  static Floats z(Floats x) { return x; }
  static float slope(Floats) { return 1; }
};
struct GeluTanh {
  static constexpr float scale = 1.5957691216f, cubic = 0.044715f;
  static Floats z(Floats x) { return scale * (x + cubic * x * x * x); }
  static Floats slope(Floats x) { return scale * (1.0f + 3 * cubic * x * x); }
};

template <class F>
void visit(Activation a, F&& f) {
  if (a == Activation::silu) f(Silu{});
  else f(GeluTanh{});
}

bool alike(Tensor a, Tensor b) { return a.shape == b.shape && a.dtype == b.dtype; }

}  // namespace

void swiglu(Stream& s, Tensor y, Tensor gate, Tensor up, Activation activation) {
  check(alike(y, gate) && alike(y, up), "swiglu: y, gate and up are of one shape and type");
  const Work work{.name = "swiglu", .flops = 6.0 * double(y.count()), .bytes = double(3 * y.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(y.dtype, [&]<class X>(X) {
          X* out = y.get<X>();
          const X *g = gate.get<X>(), *u = up.get<X>();
          visit(activation, [&]<class A>(A) {
            each_vector_parallel(y.count(), grain, [&](int64_t i, auto n) {
              const Floats a = load(g + i, n);
              store(out + i, a * sigmoid(A::z(a)) * load(u + i, n), n);
            });
          });
        });
      },
      [&](auto& cuda) { swiglu_cuda(cuda, y, gate, up, activation); });
}

void swiglu_backward(Stream& s, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up, Activation activation) {
  check(alike(dgate, dy) && alike(dup, dy) && alike(gate, dy) && alike(up, dy), "swiglu_backward: all tensors are of one shape and type");
  const Work work{.name = "swiglu_backward", .flops = 12.0 * double(dy.count()), .bytes = double(5 * dy.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(dy.dtype, [&]<class X>(X) {
          X *dg = dgate.get<X>(), *du = dup.get<X>();
          const X *d = dy.get<X>(), *g = gate.get<X>(), *u = up.get<X>();
          visit(activation, [&]<class A>(A) {
            each_vector_parallel(dy.count(), grain, [&](int64_t i, auto n) {
              const Floats a = load(g + i, n), b = load(u + i, n), c = load(d + i, n), p = sigmoid(A::z(a));
              store(dg + i, c * b * p * (1.0f + a * (1.0f - p) * A::slope(a)), n);
              store(du + i, c * a * p, n);
            });
          });
        });
      },
      [&](auto& cuda) { swiglu_backward_cuda(cuda, dgate, dup, dy, gate, up, activation); });
}

}  // namespace thimble::ops
