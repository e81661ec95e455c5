// Matrix products on cuda through cuBLASLt: row-major operands are column-major ones with a and b exchanged.
#include "device/cuda.cuh"
#include "ops/matmul.h"

namespace thimble::ops {
namespace {

cudaDataType type_of(const Tensor& t) {
  switch (t.dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    default: throw Error("matmul takes f32 and bf16");
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

struct Preference {
  cublasLtMatmulPreference_t handle = nullptr;
  explicit Preference(uint64_t workspace) {
    check_cublas(cublasLtMatmulPreferenceCreate(&handle), "cublasLtMatmulPreferenceCreate");
    check_cublas(cublasLtMatmulPreferenceSetAttribute(handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)), "set workspace");
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(handle); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
};

}  // namespace

void matmul_cuda(CudaContext& cuda, const MatmulArgs& g, Tensor workspace) {
  const Layout a(g.b), b(g.a), y(g.y);
  const Description product(g.ta, g.tb);
  const Preference preference(uint64_t(workspace.bytes()));
  cublasLtMatmulHeuristicResult_t choice{};
  int found = 0;
  check_cublas(cublasLtMatmulAlgoGetHeuristic(cuda.cublas, product.handle, a.handle, b.handle, y.handle, y.handle, preference.handle, 1, &choice, &found), "cublasLtMatmulAlgoGetHeuristic");
  check(found == 1, "cuBLASLt has an algorithm within the workspace");
  const float beta = g.add ? 1.0f : 0.0f;
  check_cublas(cublasLtMatmul(cuda.cublas, product.handle, &g.scale, g.b.data, a.handle, g.a.data, b.handle, &beta, g.y.data, y.handle, g.y.data, y.handle, &choice.algo,
                              workspace.data, size_t(workspace.bytes()), cuda.stream), "cublasLtMatmul");
}

}  // namespace thimble::ops
