// What .cu files share: the handles of one GPU, and status checks that name the call and the place.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <source_location>
#include <vector>

#include "base/error.h"
#include "device/algorithm_file.h"
#include "device/device.h"

namespace thimble {

inline void check_cuda(cudaError_t status, const char* call, std::source_location at = std::source_location::current()) {
  if (status != cudaSuccess)
    throw Error(Fault::internal, {.what = std::string("a CUDA call failed: ") + call, .where = std::string(at.file_name()) + ":" + std::to_string(at.line()),
                                  .found = cudaGetErrorString(status)});
}
inline void check_cublas(cublasStatus_t status, const char* call, std::source_location at = std::source_location::current()) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(Fault::internal, {.what = std::string("a cuBLASLt call failed: ") + call, .where = std::string(at.file_name()) + ":" + std::to_string(at.line()),
                                  .found = cublasLtGetStatusString(status)});
}

class CudaContext {
 public:
  explicit CudaContext(const DeviceSpec& spec) : deterministic(spec.deterministic) {
    check_cuda(cudaSetDevice(spec.index), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    for (auto& lane : lanes) check_cuda(cudaStreamCreateWithFlags(&lane, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cublas(cublasLtCreate(&cublas), "cublasLtCreate");
    const auto attribute = [&](cudaDeviceAttr a) {
      int value = 0;
      check_cuda(cudaDeviceGetAttribute(&value, a, spec.index), "cudaDeviceGetAttribute");
      return value;
    };
    processors = attribute(cudaDevAttrMultiProcessorCount);
    shared_bytes = size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    capability = attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  }
  ~CudaContext() {
    cudnn.reset();
    cublasLtDestroy(cublas);
    for (auto lane : lanes) cudaStreamDestroy(lane);
    cudaStreamDestroy(stream);
  }
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  const bool deterministic;
  int processors = 0, capability = 0;  // multiprocessors; 90: compute capability 9.0
  size_t shared_bytes = 0;             // of shared memory that a block may have
  cudaStream_t stream = nullptr;     // what computes
  cudaStream_t lanes[2] = {};        // by Lane
  cublasLtHandle_t cublas = nullptr;
  std::shared_ptr<void> cudnn;          // made and known by ops/attention_cudnn.cpp alone
  std::map<std::vector<int64_t>, cublasLtMatmulAlgo_t> algorithms;  // of matrix products, by their shapes
  std::map<const void*, int> resident;  // kernels that are launched to fill the card: how many blocks fit a multiprocessor
  std::map<const void*, size_t> prepared;  // kernels that may take more shared memory than all do: how much
  Algorithms remembered;                // of earlier runs: each is checked before it is taken
};

}  // namespace thimble
