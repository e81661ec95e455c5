// Gated activation on the cpu: one pass, every operand read once. Outputs may be inputs: each vector is read before it is written.
#include "ops/swiglu.h"

#include "ops/vector_math.h"

namespace thimble::ops {

void swiglu_cuda(CudaContext&, Tensor y, Tensor gate, Tensor up);  // swiglu.cu
void swiglu_backward_cuda(CudaContext&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up);

namespace {

constexpr int64_t grain = 1024;  // vectors

bool alike(Tensor a, Tensor b) { return a.shape == b.shape && a.dtype == b.dtype; }

}  // namespace

void swiglu(Stream& s, Tensor y, Tensor gate, Tensor up) {
  check(alike(y, gate) && alike(y, up), "swiglu: y, gate and up are of one shape and type");
  const Work work{.name = "swiglu", .flops = 6.0 * double(y.count()), .bytes = double(3 * y.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(y.dtype, [&]<class X>(X) {
          X* out = y.get<X>();
          const X *g = gate.get<X>(), *u = up.get<X>();
          each_vector_parallel(y.count(), grain, [&](int64_t i, auto n) {
            const Floats a = load(g + i, n);
            store(out + i, a * sigmoid(a) * load(u + i, n), n);
          });
        });
      },
      [&](auto& cuda) { swiglu_cuda(cuda, y, gate, up); });
}

void swiglu_backward(Stream& s, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
  check(alike(dgate, dy) && alike(dup, dy) && alike(gate, dy) && alike(up, dy), "swiglu_backward: all tensors are of one shape and type");
  const Work work{.name = "swiglu_backward", .flops = 12.0 * double(dy.count()), .bytes = double(5 * dy.bytes())};
  launch(
      s, work,
      [&] {
        visit_float(dy.dtype, [&]<class X>(X) {
          X *dg = dgate.get<X>(), *du = dup.get<X>();
          const X *d = dy.get<X>(), *g = gate.get<X>(), *u = up.get<X>();
          each_vector_parallel(dy.count(), grain, [&](int64_t i, auto n) {
            const Floats a = load(g + i, n), b = load(u + i, n), c = load(d + i, n), p = sigmoid(a);
            store(dg + i, c * b * p * (1.0f + a * (1.0f - p)), n);
            store(du + i, c * a * p, n);
          });
        });
      },
      [&](auto& cuda) { swiglu_backward_cuda(cuda, dgate, dup, dy, gate, up); });
}

}  // namespace thimble::ops
