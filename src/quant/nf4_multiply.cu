// NF4 against a few tokens on cuda, at the speed at which codes arrive from memory: tensor cores multiply, and bytes become weights by a look-up.
#include <algorithm>
#include <climits>

#include "device/mma.cuh"
#include "quant/nf4.cuh"

namespace thimble::quant {
namespace {

constexpr int most_tokens = 8;
constexpr int tile_rows = 16, split = 8, each = 4, stages = 3;  // rows of a tile; warps that share its columns; blocks of 64 weights of a warp's step; steps under way
constexpr int row_threads = 256;

// Products that share their tokens, as one list of tiles. c: null, or what is added.
template <class Y>
struct Products {
  struct Product { Y* y; const Y* c; Bytes4 w; int64_t rows; int first; };  // first: of its tiles
  Product of[most_few_products];
  int count = 0, tiles = 0;

  Products(std::span<const FewProduct> products, int rows_of_tile) {
    for (const auto& [y, w, c] : products) {
      of[count++] = {at<Y>(y), at<const Y>(c), Bytes4(*w), w->shape[0], tiles};
      tiles += int(blocks_of(w->shape[0], rows_of_tile));
    }
  }
  __device__ __forceinline__ const Product& with_tile(int tile) const {
    int p = 0;
    while (p + 1 < count && tile >= of[p + 1].first) ++p;
    return of[p];
  }
};

// The scales of `each` neighbouring blocks as they are stored, so that many loads are under way before one is used. quads: blocks come in fours
// that share a nested scale.
template <bool nested, bool quads> struct Scales;
template <>
struct Scales<false, true> {
  Pack<float, each> all;
  __device__ void load(const Bytes4& w, int block, int) { all = load_pack<each>(w.absmax + block); }
  __device__ float at(int u, const float*, float) const { return all.at[u]; }
};
template <>
struct Scales<true, true> {
  uint32_t codes;
  float scale;
  __device__ void load(const Bytes4& w, int block, int) {
    codes = *reinterpret_cast<const uint32_t*>(w.nested_codes + block);
    scale = w.nested_absmax[block / nested_block];
  }
  __device__ float at(int u, const float* map, float offset) const { return __fadd_rn(__fmul_rn(map[codes >> 8 * u & 255], scale), offset); }
};
template <bool nested>
struct Scales<nested, false> {
  float all[each];
  __device__ void load(const Bytes4& w, int block, int there) {
    for (int u = 0; u < each; ++u) all[u] = w.scale(int64_t{block} + min(u, there - 1));
  }
  __device__ float at(int u, const float*, float) const { return all[u]; }
};

// What a block keeps in shared memory.
struct TileMemory {
  uint32_t pairs[256 * 32];                               // the two weights of each byte, 32 times: a copy to a bank, so that no lane waits for another
  unsigned char codes[split][stages][tile_rows * each * nf4_block / 2];
  float sums[2][split][tile_rows][most_tokens], map[256];
};
// Where a row's chunk of 16 bytes lies among a stage's codes: no two of the chunks that half a warp reads lie in the same banks.
__device__ __forceinline__ int place_of(int row, int chunk) { return row * (each * nf4_block / 2) + (chunk ^ (row & 3) << 1) * 16; }

// Up to eight tokens, where rows are whole blocks. Codes come to shared memory while earlier ones are multiplied, each warp for itself. A byte is
// looked up as the two weights that it stands for; a block's scale is applied to its sum of 64 products.
template <bool nested, bool quads, class Y>
__global__ void __launch_bounds__(split * 32, 2) multiply_tiles(const __grid_constant__ Products<Y> products, const __nv_bfloat16* x, int tokens, int columns) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<TileMemory*>(shared);
  static_assert(split * 32 == 256);  // a thread to each byte
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int blocks = columns / nf4_block, steps = (blocks + split * each - 1) / (split * each);

  // Where a walk over steps and tiles stands. A tile's first row is found once for it, a step's place by adding to that.
  struct Walk {
    int tile, step = 0, row = 0, rows = 0;  // of the tile's first row in its matrix, and the rows there
    const Bytes4* w = nullptr;
  };
  const auto enter = [&](Walk& at) {
    if (at.tile >= products.tiles) return;
    const auto& p = products.with_tile(at.tile);
    at.row = (at.tile - p.first) * tile_rows, at.rows = int(p.rows) - at.row, at.w = &p.w;
  };
  const auto advance = [&](Walk& at) {
    if (++at.step < steps) return false;
    at.step = 0, at.tile += int(gridDim.x);
    enter(at);
    return true;
  };
  const auto first_of = [&](const Walk& at) { return (at.step * split + part) * each; };

  const int copied_row = lane / 8, chunk = lane % 8, row_bytes = blocks * (nf4_block / 2);
  const uint32_t to = shared_address(memory.codes[part][0]) + place_of(copied_row, chunk);
  Walk fetched{int(blockIdx.x)};
  enter(fetched);
  const uint8_t* from = nullptr;
  const auto begin_tile = [&] {
    if (fetched.tile < products.tiles) from = fetched.w->codes + int64_t{fetched.row + copied_row} * row_bytes + part * each * (nf4_block / 2) + chunk * 16;
  };
  begin_tile();
  const auto fetch = [&](int slot) {
    const int first = first_of(fetched);
    if (fetched.tile < products.tiles && first < blocks) {
      const bool there = quads || first + chunk / 2 < blocks;
#pragma unroll
      for (int i = 0; i < tile_rows / 4; ++i)  // four rows on, a chunk lies in the same bank
        copy_16(to + slot * int(sizeof memory.codes[0][0]) + i * 4 * each * (nf4_block / 2), from + i * 4 * row_bytes, there && copied_row + 4 * i < fetched.rows);
    }
    commit_copies();
    from += split * each * (nf4_block / 2);
    if (advance(fetched)) begin_tile();
  };

  struct Steps { Scales<nested, quads> scales[2]; float offset; };
  const auto load_scales = [&](const Walk& at) {
    Steps s{};
    const int first = first_of(at);
    if (at.tile >= products.tiles || first >= blocks) return s;
#pragma unroll
    for (int h = 0; h < 2; ++h) s.scales[h].load(*at.w, (at.row + min(g + 8 * h, at.rows - 1)) * blocks + first, blocks - first);
    s.offset = nested && quads ? *at.w->offset : 0.0f;
    return s;
  };

  for (int i = 0; i + 1 < stages; ++i) fetch(i);
  Walk now{int(blockIdx.x)};
  enter(now);
  Steps next = load_scales(now);
  const uint32_t pair = pack_bf16(book[threadIdx.x >> 4], book[threadIdx.x & 15]);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_pack(memory.pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{pair, pair, pair, pair});
  if (nested) memory.map[threadIdx.x] = products.of[0].w.map[threadIdx.x];
  __syncthreads();
  wait_for_earlier();  // weights are nobody's result, x is

  const uint32_t own = uint32_t(lane) * 4, byte_mask = 255 * 128;
  // The weights of a byte of `word`: the byte times 128, and this lane's bank.
  const auto weights = [&](uint32_t word, int byte) {
    const uint32_t offset = ((byte == 0 ? word << 7 : word >> (8 * byte - 7)) & byte_mask) | own;
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(memory.pairs) + offset);
  };
  float total[4] = {};
  for (int slot = 0, turn = 0; now.tile < products.tiles; slot = slot + 1 == stages ? 0 : slot + 1) {
    wait_for_copies_but<stages - 2>();
    __syncwarp();  // the codes have come to all lanes, and all have read those before
    fetch(slot == 0 ? stages - 1 : slot - 1);
    const Walk here = now;
    const Steps scales = next;
    const bool ends = advance(now);
    next = load_scales(now);
    if (const int first = first_of(here); first < blocks) {
      const auto* tokens_at = reinterpret_cast<const uint32_t*>(x + g * columns + first * nf4_block + t * 16);
      const unsigned char* codes = memory.codes[part][slot] + t % 2 * 8;
      Pack<uint32_t, 2> words[each][2];
#pragma unroll
      for (int u = 0; u < each; ++u)
#pragma unroll
        for (int h = 0; h < 2; ++h) words[u][h] = load_pack<2>(reinterpret_cast<const uint32_t*>(codes + place_of(g + 8 * h, 2 * u + t / 2)));
      float c[each][4] = {};  // of all blocks together, half of each after the other: their sums do not wait for each other
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Pack<uint32_t, 4> b[each] = {};
#pragma unroll
        for (int u = 0; u < each; ++u)
          if (g < tokens && (quads || first + u < blocks)) b[u] = load_pack<4>(tokens_at + u * (nf4_block / 2) + half * 4);
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
          for (int u = 0; u < each; ++u) {
            const uint32_t top = words[u][0].at[half], bottom = words[u][1].at[half];
            const uint32_t a[4] = {weights(top, 2 * j), weights(bottom, 2 * j), weights(top, 2 * j + 1), weights(bottom, 2 * j + 1)};
            multiply_add(c[u], a, b[u].at[2 * j], b[u].at[2 * j + 1]);
          }
      }
#pragma unroll
      for (int u = 0; u < each; ++u)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float scale = scales.scales[h].at(u, memory.map, scales.offset);
          total[2 * h] = fmaf(scale, c[u][2 * h], total[2 * h]);
          total[2 * h + 1] = fmaf(scale, c[u][2 * h + 1], total[2 * h + 1]);
        }
    }
    if (!ends) continue;
    auto& mine = memory.sums[turn ^= 1];
#pragma unroll
    for (int i = 0; i < 4; ++i) mine[part][g + i / 2 * 8][t * 2 + i % 2] = total[i], total[i] = 0;
    __syncthreads();
    const int r = int(threadIdx.x) % tile_rows, token = int(threadIdx.x) / tile_rows;
    if (token >= tokens) continue;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < split; ++i) sum += mine[i][r][token];
    const auto& p = products.with_tile(here.tile);
    const int64_t row = int64_t{here.tile - p.first} * tile_rows + r;
    if (row < p.rows) p.y[token * p.rows + row] = Y(sum + (p.c ? float(p.c[token * p.rows + row]) : 0.0f));
  }
}

// Any rows and types, without tensor cores: a warp to a row, a scale to each weight.
template <class Y, class X>
__global__ void multiply_rows(const __grid_constant__ Products<Y> products, const X* x, int tokens, int64_t columns) {
  __shared__ float values[16];
  let_later_begin();
  if (threadIdx.x < 16) values[threadIdx.x] = book[threadIdx.x];
  __syncthreads();
  wait_for_earlier();
  const auto& p = products.with_tile(int(blockIdx.x));
  const int64_t row = int64_t{int(blockIdx.x) - p.first} * (row_threads / 32) + threadIdx.x / 32;
  if (row >= p.rows) return;
  float sums[most_tokens] = {};
  for (int64_t k = threadIdx.x % 32; k < columns; k += 32) {
    const int64_t i = row * columns + k;
    const float weight = values[p.w.code(i)] * p.w.scale(i / nf4_block);
#pragma unroll
    for (int t = 0; t < most_tokens; ++t)
      if (t < tokens) sums[t] += weight * float(x[t * columns + k]);
  }
#pragma unroll
  for (int t = 0; t < most_tokens; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) p.y[t * p.rows + row] = Y(sum + (p.c ? float(p.c[t * p.rows + row]) : 0.0f));
  }
}

bool aligned(const Tensor& t, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(t.data) % bytes == 0; }

}  // namespace

void nf4_multiply_few_cuda(CudaContext& cuda, Tensor x, std::span<const FewProduct> given) {
  const int64_t columns = x.shape[1];
  const auto tokens = int(x.shape[0]);
  if (tokens == 0) return;
  bool tiles = x.dtype == DType::bf16 && columns % nf4_block == 0 && columns > 0 && cuda.capability >= 80 && aligned(x, 16);
  for (const auto& [y, w, c] : given) tiles = tiles && aligned(w->parts[0], 16) && aligned(w->parts[1], 16) && nf4_blocks(w->shape.count()) < INT_MAX;
  visit_cuda(given.front().y.dtype, [&]<class Y>(Y) {
    const Products<Y> products(given, tiles ? tile_rows : row_threads / 32);
    if (products.tiles == 0) return;
    if (!tiles)
      return visit_cuda(x.dtype, [&]<class X>(X) {
        launch_early(cuda, "nf4 multiply", unsigned(products.tiles), row_threads, 0, multiply_rows<Y, X>, products, at<const X>(x), tokens, columns);
      });
    const int grid = std::min(products.tiles, 2 * cuda.processors);  // two blocks fit a multiprocessor
    const auto run = [&](auto kernel) { launch_early(cuda, "nf4 multiply", unsigned(grid), split * 32, sizeof(TileMemory), kernel, products, at<const __nv_bfloat16>(x), tokens, int(columns)); };
    const bool nested = given.front().w->format == FormatId::nf4_dq, quads = columns % (each * nf4_block) == 0;
    if (nested) quads ? run(multiply_tiles<true, true, Y>) : run(multiply_tiles<true, false, Y>);
    else quads ? run(multiply_tiles<false, true, Y>) : run(multiply_tiles<false, false, Y>);
  });
}

}  // namespace thimble::quant
