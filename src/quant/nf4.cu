// NF4 on cuda. Packing follows bitsandbytes' kernels to the bit (see nf4.cpp); unpacking runs at the speed of memory,
// the 16 values in shared memory, one to a bank, so that no two lanes ever wait for each other.
#include "device/mma.cuh"
#include "quant/dynamic8.cuh"
#include "quant/nf4.h"

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
constexpr int most_tokens = 8;
constexpr int unpack_each = 8, unpack_times = 4;  // weights of an access, accesses of a thread

__constant__ float book[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
                               -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                               0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};
__constant__ float thresholds[15] = {-0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
                                     -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
                                     0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f};

// The bytes of a packed matrix on the device.
struct Bytes4 {
  const uint8_t* codes;
  const float* absmax;          // nf4
  const uint8_t* nested_codes;  // nf4_dq, as the rest
  const float *nested_absmax, *map, *offset;
  int64_t count;

  explicit Bytes4(const Weight& w) : codes(at<const uint8_t>(w.parts[0])), absmax(nullptr), nested_codes(nullptr), nested_absmax(nullptr), map(nullptr), offset(nullptr), count(w.shape.count()) {
    if (w.format == FormatId::nf4) {
      absmax = at<const float>(w.parts[1]);
      return;
    }
    nested_codes = at<const uint8_t>(w.parts[1]);
    nested_absmax = at<const float>(w.parts[2]);
    offset = at<const float>(w.parts[3]);
    map = device_maps()->signed_values;
  }
  // The reference rounds the product before it adds the offset.
  __device__ __forceinline__ float scale(int64_t block) const {
    return absmax ? absmax[block] : __fadd_rn(__fmul_rn(map[nested_codes[block]], nested_absmax[block / nested_block]), *offset);
  }
  __device__ __forceinline__ int code(int64_t i) const { return i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15; }
};

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

constexpr int tile_rows = 16, split = 8;  // rows of a block's tile; warps that share its columns

// Up to eight tokens by tensor cores, where rows are whole blocks. A byte is looked up as the two weights that it stands for: the 256 pairs
// lie 32 times in shared memory, a copy to a bank, so that no lane waits for another. A block's scale is applied to its sum of 64 products.
template <class Y>
__global__ void __launch_bounds__(split * 32, 2) multiply_tiles(Y* y, const __nv_bfloat16* x, Bytes4 w, int tokens, int64_t rows, int64_t columns) {
  __shared__ __align__(16) uint32_t pairs[256 * 32];
  __shared__ float map[256], sums[split][tile_rows][most_tokens];
  static_assert(split * 32 == 256);  // a thread to each byte
  const uint32_t pair = pack_bf16(book[threadIdx.x >> 4], book[threadIdx.x & 15]);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_pack(pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{pair, pair, pair, pair});
  if (!w.absmax) map[threadIdx.x] = w.map[threadIdx.x];
  __syncthreads();
  constexpr int at_once = 8;  // blocks of 64 weights whose loads are under way together
  const int lane = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int64_t blocks = columns / nf4_block;
  const float offset = w.absmax ? 0.0f : *w.offset;
  const auto scale = [&](int64_t block) {
    return w.absmax ? w.absmax[block] : __fadd_rn(__fmul_rn(map[w.nested_codes[block]], w.nested_absmax[block / nested_block]), offset);
  };
  for (int64_t tile = blockIdx.x; tile * tile_rows < rows; tile += gridDim.x) {
    const int64_t row[2] = {min(tile * tile_rows + g, rows - 1), min(tile * tile_rows + g + 8, rows - 1)};
    float total[4] = {};
    for (int64_t first = part; first < blocks; first += split * at_once) {
      Pack<uint32_t, 2> codes[at_once][2];  // words: taken apart into bytes they would fill eight registers
      float scales[at_once][2];
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const int64_t k = min(first + u * split, blocks - 1);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          codes[u][h] = load_pack<2>(reinterpret_cast<const uint32_t*>(w.codes + (row[h] * columns + k * nf4_block + t * 16) / 2));
          scales[u][h] = scale(row[h] * blocks + k);
        }
      }
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const int64_t k = first + u * split;
        if (k >= blocks) break;
        Pack<uint32_t, 4> b[2] = {};
        if (g < tokens) {
          const auto* from = reinterpret_cast<const uint32_t*>(x + g * columns + k * nf4_block + t * 16);
          b[0] = load_pack<4>(from);
          b[1] = load_pack<4>(from + 4);
        }
        float c[4] = {};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const auto pair = [&](int h, int byte) { return pairs[(codes[u][h].at[byte / 4] >> byte % 4 * 8 & 255) * 32 + lane]; };
          const uint32_t a[4] = {pair(0, 2 * j), pair(1, 2 * j), pair(0, 2 * j + 1), pair(1, 2 * j + 1)};
          multiply_add(c, a, b[j / 2].at[j % 2 * 2], b[j / 2].at[j % 2 * 2 + 1]);
        }
        for (int i = 0; i < 4; ++i) total[i] += scales[u][i / 2] * c[i];
      }
    }
    for (int i = 0; i < 4; ++i) sums[part][g + i / 2 * 8][t * 2 + i % 2] = total[i];
    __syncthreads();
    if (threadIdx.x < tile_rows * most_tokens) {
      const int r = int(threadIdx.x) % tile_rows, token = int(threadIdx.x) / tile_rows;
      float sum = 0;
#pragma unroll
      for (int i = 0; i < split; ++i) sum += sums[i][r][token];
      if (token < tokens && tile * tile_rows + r < rows) y[token * rows + tile * tile_rows + r] = Y(sum);
    }
    __syncthreads();
  }
}

// Any rows and types, without tensor cores: a warp to a row, a scale to each weight.
template <class Y, class X>
__global__ void multiply_rows(Y* y, const X* x, Bytes4 w, int tokens, int64_t rows, int64_t columns) {
  __shared__ float values[16];
  if (threadIdx.x < 16) values[threadIdx.x] = book[threadIdx.x];
  __syncthreads();
  const int64_t row = int64_t{blockIdx.x} * (threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float sums[most_tokens] = {};
  for (int64_t k = threadIdx.x % 32; k < columns; k += 32) {
    const int64_t i = row * columns + k;
    const float weight = values[w.code(i)] * w.scale(i / nf4_block);
#pragma unroll
    for (int t = 0; t < most_tokens; ++t)
      if (t < tokens) sums[t] += weight * float(x[t * columns + k]);
  }
#pragma unroll
  for (int t = 0; t < most_tokens; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) y[t * rows + row] = Y(sum);
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

void nf4_multiply_few_cuda(CudaContext& cuda, Tensor y, Tensor x, const Weight& w) {
  const int64_t rows = w.shape[0], columns = w.shape[1];
  if (rows == 0 || x.shape[0] == 0) return;
  const auto tokens = int(x.shape[0]);
  const bool wide = reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && reinterpret_cast<uintptr_t>(w.parts[0].data) % 16 == 0;
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    if (x.dtype == DType::bf16 && columns % nf4_block == 0 && wide && cuda.capability >= 80) {
      const auto tiles = blocks_of(rows, tile_rows);
      multiply_tiles<<<unsigned(std::min<int64_t>(tiles, cuda.processors * 2)), split * 32, 0, cuda.stream>>>(at<Y>(y), at<const __nv_bfloat16>(x), Bytes4(w), tokens, rows, columns);
      return;
    }
    visit_cuda(x.dtype, [&]<class X>(X) {
      multiply_rows<<<unsigned(blocks_of(rows, threads / 32)), threads, 0, cuda.stream>>>(at<Y>(y), at<const X>(x), Bytes4(w), tokens, rows, columns);
    });
  });
  check_cuda(cudaGetLastError(), "nf4 multiply");
}

}  // namespace thimble::quant
