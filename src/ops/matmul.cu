// Matrix products on cuda through cuBLASLt: row-major operands are column-major ones with a and b exchanged.
#include <bit>

#include "device/cuda.cuh"
#include "ops/matmul.h"

namespace thimble::ops {
namespace {

cudaDataType type_of(const Tensor& t) {
  switch (t.dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: throw Error("matmul takes floating-point numbers");
  }
}

struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  // The tensor as cuBLASLt sees it: its rows are columns.
  explicit Layout(const Tensor& t) {
    check_cublas(cublasLtMatrixLayoutCreate(&handle, type_of(t), uint64_t(t.shape[1]), uint64_t(t.shape[0]), t.shape[1]), "cublasLtMatrixLayoutCreate");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
};

struct Description {
  cublasLtMatmulDesc_t handle = nullptr;
  Description(Trans a, Trans b) {
    check_cublas(cublasLtMatmulDescCreate(&handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t first = b == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N, second = a == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_cublas(cublasLtMatmulDescSetAttribute(handle, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof(first)), "set transposition");
    check_cublas(cublasLtMatmulDescSetAttribute(handle, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof(second)), "set transposition");
  }
  ~Description() { cublasLtMatmulDescDestroy(handle); }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
};

// Of which power of two up to 16 the address is a multiple.
uint32_t alignment_of(const Tensor& t) {
  uint32_t bytes = 16;
  while (reinterpret_cast<uintptr_t>(t.data) % bytes) bytes /= 2;
  return bytes;
}

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  explicit Preference(uint64_t workspace) {
    check_cublas(cublasLtMatmulPreferenceCreate(&handle), "cublasLtMatmulPreferenceCreate");
    check_cublas(cublasLtMatmulPreferenceSetAttribute(handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)), "set workspace");
  }
  void align(const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& y) {
    const std::pair<cublasLtMatmulPreferenceAttributes_t, const Tensor*> all[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b},
                                                                                 {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c}, {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y}};
    for (const auto& [attribute, t] : all) {
      const uint32_t bytes = alignment_of(*t);
      check_cublas(cublasLtMatmulPreferenceSetAttribute(handle, attribute, &bytes, sizeof(bytes)), "set alignment");
    }
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
};

constexpr int most_choices = 8;

// Which of n ways is fastest here: the second run of each is timed.
template <class F>
int fastest(CudaContext& cuda, int n, F&& run) {
  cudaEvent_t begin, end;
  check_cuda(cudaEventCreate(&begin), "cudaEventCreate");
  check_cuda(cudaEventCreate(&end), "cudaEventCreate");
  int best = 0;
  float least = INFINITY;
  for (int i = 0; i < n; ++i) {
    if (run(i) != CUBLAS_STATUS_SUCCESS) continue;
    check_cuda(cudaEventRecord(begin, cuda.stream), "cudaEventRecord");
    run(i);
    check_cuda(cudaEventRecord(end, cuda.stream), "cudaEventRecord");
    check_cuda(cudaEventSynchronize(end), "cudaEventSynchronize");
    float took = 0;
    check_cuda(cudaEventElapsedTime(&took, begin, end), "cudaEventElapsedTime");
    if (took < least) least = took, best = i;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return best;
}

}  // namespace

void matmul_cuda(CudaContext& cuda, const MatmulArgs& g, Tensor workspace) {
  if (g.y.count() == 0) return;
  if (g.a.count() == 0) {  // a product over nothing is zero
    if (!g.c) check_cuda(cudaMemsetAsync(g.y.data, 0, size_t(g.y.bytes()), cuda.stream), "cudaMemsetAsync");
    else if (g.c.data != g.y.data) check_cuda(cudaMemcpyAsync(g.y.data, g.c.data, size_t(g.y.bytes()), cudaMemcpyDeviceToDevice, cuda.stream), "cudaMemcpyAsync");
    return;
  }
  const Layout a(g.b), b(g.a), y(g.y);
  const Description product(g.ta, g.tb);
  const float beta = g.c ? 1.0f : 0.0f;
  const Tensor& c = g.c ? g.c : g.y;  // of y's layout
  const auto run = [&](const cublasLtMatmulAlgo_t& algorithm, float scale) {
    return cublasLtMatmul(cuda.cublas, product.handle, &scale, g.b.data, a.handle, g.a.data, b.handle, &beta, c.data, y.handle, g.y.data, y.handle, &algorithm,
                          workspace.data, size_t(workspace.bytes()), cuda.stream);
  };
  // What an algorithm depends on; operands that are not aligned to 16 bytes have fewer to choose from.
  const std::vector<int64_t> key{g.y.shape[0], g.y.shape[1], g.a.shape[0], g.a.shape[1], int64_t(g.ta), int64_t(g.tb), int64_t(bool(g.c)), int64_t(g.y.dtype),
                                 int64_t(g.a.dtype), alignment_of(g.y), alignment_of(g.a), alignment_of(g.b), alignment_of(c), int64_t(c.data == g.y.data)};
  auto known = cuda.algorithms.find(key);
  if (known == cuda.algorithms.end() && cuda.remembered.contains(key)) {
    const auto algorithm = std::bit_cast<cublasLtMatmulAlgo_t>(cuda.remembered.at(key));
    cublasLtMatmulHeuristicResult_t checked{};
    if (cublasLtMatmulAlgoCheck(cuda.cublas, product.handle, a.handle, b.handle, y.handle, y.handle, &algorithm, &checked) == CUBLAS_STATUS_SUCCESS &&
        checked.workspaceSize <= size_t(workspace.bytes()))
      known = cuda.algorithms.emplace(key, algorithm).first;
  }
  if (known == cuda.algorithms.end()) {
    Preference preference(uint64_t(workspace.bytes()));
    preference.align(g.b, g.a, c, g.y);
    cublasLtMatmulHeuristicResult_t choices[most_choices]{};
    int found = 0;
    check_cublas(cublasLtMatmulAlgoGetHeuristic(cuda.cublas, product.handle, a.handle, b.handle, y.handle, y.handle, preference.handle, most_choices, choices, &found),
                 "cublasLtMatmulAlgoGetHeuristic");
    check(found > 0, "cuBLASLt has an algorithm within the workspace");
    int best = 0;
    // What a product adds while it is timed vanishes beside any number that is not 0.
    const float trial_scale = g.c ? 1e-30f : g.scale;
    if (found > 1 && !cuda.deterministic) best = fastest(cuda, found, [&](int i) { return run(choices[i].algo, trial_scale); });
    known = cuda.algorithms.emplace(key, choices[best].algo).first;
  }
  check_cublas(run(known->second, g.scale), "cublasLtMatmul");
}

}  // namespace thimble::ops
