// Shapes are checked here for every device; on the cpu oneDNN multiplies: its sgemm for f32 (measured steady over all transpositions,
// where its matmul primitive falls to a third for untransposed b), its bf16 matmul where the processor has the units.
#include "ops/matmul.h"

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

#include "ops/elementwise.h"

namespace thimble::ops {

void matmul_cuda(CudaContext&, const MatmulArgs&, Tensor workspace);  // matmul.cu

namespace {

struct Sizes { int64_t m, n, k; };

Sizes checked(const MatmulArgs& args) {
  const auto& [y, a, ta, b, tb, scale, c, used, name] = args;
  check(y.shape.rank() == 2 && a.shape.rank() == 2 && b.shape.rank() == 2, "matmul takes matrices");
  const Sizes s{y.shape[0], y.shape[1], a.shape[ta == Trans::yes ? 0 : 1]};
  check(a.shape[ta == Trans::yes ? 1 : 0] == s.m && b.shape[tb == Trans::yes ? 1 : 0] == s.k && b.shape[tb == Trans::yes ? 0 : 1] == s.n,
        "matmul's shapes agree");
  check(!c || (c.shape == y.shape && c.dtype == y.dtype), "what is added to a product is like it");
  check(!used || (used.dtype == DType::i32 && used.count() == 1), "matmul: one i32 says how much of K is used");
  return s;
}

// The libraries of the cpu add to what lies in y.
void begin_with_c(const MatmulArgs& g) {
  if (g.c && g.c.data != g.y.data) std::memcpy(g.y.data, g.c.data, size_t(g.y.bytes()));
}

void multiply_f32(const MatmulArgs& g, const Sizes& s) {
  const auto lead = [](const Tensor& t) { return t.shape[1]; };
  const auto status = dnnl_sgemm(g.ta == Trans::yes ? 'T' : 'N', g.tb == Trans::yes ? 'T' : 'N', s.m, s.n, s.k, g.scale, g.a.get<float>(), lead(g.a),
                                 g.b.get<float>(), lead(g.b), g.c ? 1.0f : 0.0f, g.y.get<float>(), lead(g.y));
  check(status == dnnl_success, "oneDNN multiplies");
}

void multiply_i8(const MatmulArgs& g, const Sizes& s) {
  const auto lead = [](const Tensor& t) { return t.shape[1]; };
  const int32_t no_offset = 0;
  const auto status = dnnl_gemm_s8s8s32(g.ta == Trans::yes ? 'T' : 'N', g.tb == Trans::yes ? 'T' : 'N', 'F', s.m, s.n, s.k, 1.0f, g.a.get<int8_t>(), lead(g.a), 0,
                                        g.b.get<int8_t>(), lead(g.b), 0, 0.0f, g.y.get<int32_t>(), lead(g.y), &no_offset);
  check(status == dnnl_success, "oneDNN multiplies");
}

// Nothing to sum: libraries disagree on such sizes, and refuse the strides of some.
void multiply_nothing(const MatmulArgs& g) {
  if (!g.c) std::memset(g.y.data, 0, size_t(g.y.bytes()));
}

// bf16 operands, f32 or bf16 result, f32 sums.
void multiply_bf16(const MatmulArgs& g, const Sizes& s) {
  using namespace dnnl;
  using Type = memory::data_type;
  static const engine cpu(engine::kind::cpu, 0);  // stateless; oneDNN keeps a cache of primitives by shape behind it
  const auto describe = [](const Tensor& t, Trans trans, int64_t rows, int64_t columns) {
    const memory::dims strides = trans == Trans::yes ? memory::dims{1, t.shape[1]} : memory::dims{t.shape[1], 1};
    return memory::desc({rows, columns}, t.dtype == DType::bf16 ? Type::bf16 : Type::f32, strides);
  };
  const auto a = describe(g.a, g.ta, s.m, s.k), b = describe(g.b, g.tb, s.k, s.n), y = describe(g.y, Trans::no, s.m, s.n);
  primitive_attr attributes;
  if (g.scale != 1) attributes.set_output_scales(0, {g.scale});
  if (g.c) {
    post_ops sum;
    sum.append_sum(1);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul product(dnnl::matmul::primitive_desc(dnnl::matmul::desc(a, b, y), attributes, cpu));
  dnnl::stream stream(cpu);
  product.execute(stream, {{DNNL_ARG_SRC, memory(a, cpu, g.a.data)}, {DNNL_ARG_WEIGHTS, memory(b, cpu, g.b.data)}, {DNNL_ARG_DST, memory(y, cpu, g.y.data)}});
  stream.wait();
}

}  // namespace

void matmul(Stream& s, const MatmulArgs& given) {
  const Sizes sizes = checked(given);
  const Scope scope(s.arena);
  MatmulArgs args = given;
  const auto bring_to = [&](Tensor& t, DType type) {
    if (t.dtype == type) return;
    const Tensor converted = s.scratch("matmul operand", type, t.shape);
    convert(s, converted, t);
    t = converted;
  };
  const bool cuda = s.device.kind() == DeviceKind::cuda;
  const bool whole = args.a.dtype == DType::i8;
  check(!whole || (s.device.spec().sums_int8 && args.b.dtype == DType::i8 && args.y.dtype == DType::i32 && !args.c && args.scale == 1), "matmul: i8 by i8 to i32, where the device has it");
  const bool native = cuda || whole || (args.a.dtype == DType::bf16 && s.device.spec().compute == DType::bf16);
  const DType type = native ? args.a.dtype : DType::f32;
  bring_to(args.a, type);
  bring_to(args.b, type);
  if (type == DType::f32 && args.y.dtype != DType::f32) {  // a 16-bit result of f32 sums: through scratch
    args.y = s.scratch("matmul result", DType::f32, given.y.shape);
    if (given.c) convert(s, args.y, given.c), args.c = args.y;
  }
  const Tensor workspace = cuda ? s.scratch("matmul workspace", DType::u8, {s.device.spec().matmul_workspace}) : Tensor{};
  const Work work{.name = given.name, .flops = 2.0 * double(sizes.m) * double(sizes.n) * double(sizes.k),
                  .bytes = double(args.y.bytes() * (args.c ? 2 : 1) + args.a.bytes() + args.b.bytes()), .matrix = true};
  const auto on_cpu = [&] {
    begin_with_c(args);
    const Sizes now{sizes.m, sizes.n, args.used ? *args.used.get<int32_t>() : sizes.k};
    if (now.m == 0 || now.n == 0 || now.k == 0) multiply_nothing(args);
    else if (type == DType::f32) multiply_f32(args, now);
    else if (whole) multiply_i8(args, now);
    else multiply_bf16(args, now);
  };
  launch(s, work, on_cpu, [&](auto& cuda) { matmul_cuda(cuda, args, workspace); });
  if (args.y.data != given.y.data) convert(s, given.y, args.y);
}

}  // namespace thimble::ops
