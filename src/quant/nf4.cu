// NF4 on cuda. Packing follows bitsandbytes' kernels to the bit (see nf4.cpp); unpacking runs at the speed of memory,
// the 16 values in shared memory, one to a bank, so that no two lanes ever wait for each other.
#include "quant/nf4.cuh"

namespace thimble::quant {

__device__ DeviceMaps maps_on_device;

const DeviceMaps* device_maps() {
  static bool there[64] = {};
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  if (!there[device]) {
    const auto put = [](float (&to)[256], const std::array<float, 256>& from) { std::copy(from.begin(), from.end(), to); };
    DeviceMaps maps;
    put(maps.signed_values, signed_map().values());
    put(maps.signed_thresholds, signed_map().thresholds());
    put(maps.unsigned_values, unsigned_map().values());
    put(maps.unsigned_thresholds, unsigned_map().thresholds());
    check_cuda(cudaMemcpyToSymbol(maps_on_device, &maps, sizeof maps), "cudaMemcpyToSymbol");
    there[device] = true;
  }
  void* address = nullptr;
  check_cuda(cudaGetSymbolAddress(&address, maps_on_device), "cudaGetSymbolAddress");
  return static_cast<const DeviceMaps*>(address);
}

namespace {

constexpr int threads = 256;
constexpr int unpack_each = 8, unpack_times = 4;  // weights of an access, accesses of a thread

__constant__ float thresholds[15] = {-0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
                                     -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
                                     0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f};

// A block of 64 weights to a warp, two weights to a lane.
template <class T>
__global__ void quantize(uint8_t* codes, float* absmax, const T* x, int64_t count) {
  const int64_t block = int64_t{blockIdx.x} * (threads / 32) + threadIdx.x / 32;
  const int64_t i = block * nf4_block + threadIdx.x % 32 * 2;
  if (block * nf4_block >= count) return;
  const float a = i < count ? float(x[i]) : 0.0f, b = i + 1 < count ? float(x[i + 1]) : 0.0f;
  const float most = warp_reduce(fmaxf(magnitude(a), magnitude(b)), Max{});
  const float r = 1.0f / most;
  int high = 0, low = 0;
#pragma unroll
  for (int k = 0; k < 15; ++k) high += a * r > thresholds[k], low += b * r > thresholds[k];
  if (i < count) codes[i / 2] = uint8_t(high << 4 | low);
  if (threadIdx.x % 32 == 0) absmax[block] = most;
}

__global__ void mean(float* offset, const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += 1024) total += double(x[i]);
  total = block_reduce<1024>(total, Add{});
  if (threadIdx.x == 0) *offset = n ? float(total / double(n)) : 0.0f;
}

// A nested block of 256 scales to a block of as many threads.
__global__ void nest(uint8_t* codes, float* nested_absmax, const float* absmax, const float* offset, const DeviceMaps* maps, int64_t n) {
  static_assert(threads == nested_block);
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  const float v = i < n ? __fsub_rn(absmax[i], *offset) : 0.0f;
  const float most = block_reduce<threads>(magnitude(v), Max{});
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = most;
  const float r = 1.0f / most;
  if (i < n) codes[i] = uint8_t(nearest_code(maps->signed_thresholds, __fmul_rn(v, r)));
}

// Four times eight weights a thread: neighbouring lanes write neighbouring 16 bytes, and the four loads are under way together.
template <class T>
__global__ void unpack(T* to, Bytes4 w) {
  constexpr int each = unpack_each, times = unpack_times, wide = 16 / int(sizeof(T));
  __shared__ float values[16];
  if (threadIdx.x < 16) values[threadIdx.x] = book[threadIdx.x];
  __syncthreads();
  const int64_t begin = (int64_t{blockIdx.x} * times * threads + threadIdx.x) * each;
  if (begin + (times - 1) * threads * each + each <= w.count) {
    Pack<uint8_t, 4> codes[times];
    float scales[times];
#pragma unroll
    for (int i = 0; i < times; ++i) codes[i] = load_pack<4>(w.codes + (begin + i * threads * each) / 2);
#pragma unroll
    for (int i = 0; i < times; ++i) scales[i] = w.scale((begin + i * threads * each) / nf4_block);
#pragma unroll
    for (int i = 0; i < times; ++i)
#pragma unroll
      for (int j = 0; j < each; j += wide) {
        Pack<T, wide> out;
#pragma unroll
        for (int k = 0; k < wide; k += 2) {
          const int byte = codes[i].at[(j + k) / 2];
          out.at[k] = T(values[byte >> 4] * scales[i]);
          out.at[k + 1] = T(values[byte & 15] * scales[i]);
        }
        store_pack<wide>(to + begin + i * threads * each + j, out);
      }
    return;
  }
  for (int i = 0; i < times; ++i) {
    const int64_t first = begin + int64_t{i} * threads * each;
    for (int64_t k = first; k < min(first + each, w.count); ++k) to[k] = T(values[w.code(k)] * w.scale(k / nf4_block));
  }
}

}  // namespace

void nf4_quantize_cuda(CudaContext& cuda, Tensor codes, Tensor absmax, Tensor dense) {
  const int64_t n = dense.count();
  if (n == 0) return;
  visit_cuda(dense.dtype, [&]<class T>(T) {
    quantize<<<unsigned(blocks_of(nf4_blocks(n), threads / 32)), threads, 0, cuda.stream>>>(at<uint8_t>(codes), at<float>(absmax), at<const T>(dense), n);
  });
  check_cuda(cudaGetLastError(), "nf4 quantize");
}

void nf4_offset_cuda(CudaContext& cuda, Tensor offset, Tensor absmax) {
  mean<<<1, 1024, 0, cuda.stream>>>(at<float>(offset), at<const float>(absmax), absmax.count());
  check_cuda(cudaGetLastError(), "nf4 offset");
}

void nf4_nest_cuda(CudaContext& cuda, Tensor codes, Tensor nested_absmax, Tensor absmax, Tensor offset) {
  const int64_t n = absmax.count();
  if (n == 0) return;
  nest<<<unsigned(blocks_of(n, nested_block)), threads, 0, cuda.stream>>>(at<uint8_t>(codes), at<float>(nested_absmax), at<const float>(absmax), at<const float>(offset),
                                                                         device_maps(), n);
  check_cuda(cudaGetLastError(), "nf4 nest");
}

void nf4_unpack_cuda(CudaContext& cuda, Tensor dense, const Weight& w) {
  const int64_t n = w.shape.count();
  if (n == 0) return;
  visit_cuda(dense.dtype, [&]<class T>(T) { unpack<<<unsigned(blocks_of(n, threads * unpack_each * unpack_times)), threads, 0, cuda.stream>>>(at<T>(dense), Bytes4(w)); });
  check_cuda(cudaGetLastError(), "nf4 unpack");
}

}  // namespace thimble::quant
