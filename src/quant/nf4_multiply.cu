// NF4 against a few tokens on cuda: tensor cores multiply, and bytes become weights by a look-up in shared memory, whose rate is what binds.
#include <algorithm>
#include <climits>

#include "quant/nf4_few.cuh"

namespace thimble::quant {
namespace {

constexpr int tile_rows = few_tile_rows, split = 8, stages = 2;                    // rows of a tile; warps that share its columns; units of a warp that are under way
constexpr int unit_blocks = 8, unit_columns = unit_blocks * nf4_block, each = 4;  // what a warp multiplies at a time; neighbouring blocks whose scales a lane loads
constexpr int row_threads = 256, row_tokens = 8;                                   // of products without tensor cores

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

// What a block keeps in shared memory, and after it the sums of a few tiles.
struct TileMemory {
  uint32_t pairs[256 * 32];  // the two weights of each byte, 32 times: a copy to a bank, so that no lane waits for another
  unsigned char codes[split][stages][tile_rows * unit_columns / 2];
  float map[256];
};
// Where a row's chunk of 16 bytes lies among a stage's codes: no two of the chunks that a quarter of a warp reads lie in the same banks.
__device__ __forceinline__ int place_of(int row, int chunk) { return row * (unit_columns / 2) + (chunk ^ (row & 1) << 2) * 16; }

// One token. Codes come to shared memory while earlier ones are multiplied, each warp for itself. A byte is looked up as the two weights that it stands for.
// Lane (g, t) = (lane / 4, lane % 4) reads chunk 4j + t of rows g and g + 8, half a block, in the j-th of a unit's four steps: its weights meet the tensor
// cores as they lie, and what keeps the blocks' sums apart, for a scale each, are the product's eight columns: column c is block c of the unit, its x elsewhere 0.
template <bool nested, bool quads, class Y>
__global__ void __launch_bounds__(split * 32, 2) multiply_one(const __grid_constant__ Products<Y> products, const __nv_bfloat16* x, int columns, int together) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<TileMemory*>(shared);
  auto* sums = reinterpret_cast<float*>(shared + sizeof(TileMemory));  // by tile, warp and row
  static_assert(split * 32 == 256);  // a thread to each byte
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int blocks = columns / nf4_block, units = (blocks + unit_blocks - 1) / unit_blocks, row_bytes = columns / 2;

  // Where a walk over this warp's units of the block's tiles stands.
  struct Walk {
    int tile, unit;
    int row = 0, rows = 0;  // of the tile's first row in its matrix, and the rows from there
    const Bytes4* w = nullptr;
  };
  const auto enter = [&](Walk& at) {
    at.unit = part;
    if (at.tile >= products.tiles) return;
    const auto& p = products.of[products.with_tile(at.tile)];
    at.row = (at.tile - p.first) * tile_rows, at.rows = int(p.rows) - at.row, at.w = &p.w;
  };
  const auto is_over = [&](const Walk& at) { return at.tile >= products.tiles || at.unit >= units; };  // the latter: tiles have none for this warp
  const auto advance = [&](Walk& at) {
    if ((at.unit += split) < units) return false;
    at.tile += int(gridDim.x);
    enter(at);
    return true;
  };

  const int copied_row = lane / 8, chunk = lane % 8;
  const uint32_t to = shared_address(memory.codes[part][0]) + place_of(copied_row, chunk);
  Walk fetched{int(blockIdx.x)};
  const uint8_t* from = nullptr;
  const auto begin_tile = [&] {
    if (!is_over(fetched)) from = fetched.w->codes + int64_t{fetched.row + copied_row} * row_bytes + part * (unit_columns / 2) + chunk * 16;
  };
  enter(fetched);
  begin_tile();
  const auto fetch = [&](int slot) {
    if (!is_over(fetched)) {
      const int there = blocks - fetched.unit * unit_blocks;
      const uint8_t* row = from;
#pragma unroll
      for (int i = 0; i < tile_rows; i += 4, row += 4 * row_bytes) {  // what is not there meets an x of 0, or makes a sum that nobody reads
        const uint32_t at = to + slot * int(sizeof memory.codes[0][0]) + i * (unit_columns / 2);
        if (copied_row + i < fetched.rows && chunk / 2 < there) copy_16(at, row, true);
        if (copied_row + i < fetched.rows && chunk / 2 + 4 < there) copy_16(at ^ 128, row + 128, true);
      }
      from += split * unit_columns / 2;
      if (advance(fetched)) begin_tile();
    }
    commit_copies();
  };

  // A lane loads the scales of four blocks of row lane / 2, and gets those that it needs from others.
  struct Loaded { Scales<nested, quads> scales; float offset; };
  Walk scaled{int(blockIdx.x)};
  enter(scaled);
  const auto load_scales = [&] {
    Loaded s{};
    if (is_over(scaled)) return s;
    const int first = min(scaled.unit * unit_blocks + lane % 2 * each, blocks - (quads ? each : 1));
    s.scales.load(*scaled.w, (scaled.row + min(lane / 2, scaled.rows - 1)) * blocks + first, blocks - first);
    s.offset = nested && quads ? *scaled.w->offset : 0.0f;
    advance(scaled);
    return s;
  };

  for (int i = 0; i + 1 < stages; ++i) fetch(i);
  Loaded next = load_scales();
  const uint32_t pair = pack_bf16(book[threadIdx.x >> 4], book[threadIdx.x & 15]);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_pack(memory.pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{pair, pair, pair, pair});
  if (nested) memory.map[threadIdx.x] = products.of[0].w.map[threadIdx.x];
  __syncthreads();
  wait_for_earlier();  // weights are nobody's result, x is

  // This lane's chunk of x of a unit: half of its column; where it has none it is 0.
  Pack<uint32_t, 4> own_x[4];
  const auto load_x = [&](int unit) {
    const int first = unit * unit_columns + (g / 2 * 4 + t) * int(nf4_block / 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      own_x[i] = {};
      if (t / 2 == g % 2 && first < columns) own_x[i] = load_pack<4>(reinterpret_cast<const uint32_t*>(x + first) + i * 4);
    }
  };
  // The weights of a byte of `word`: the byte times 128, and this lane's bank.
  const uint32_t own = uint32_t(lane) * 4;
  const auto weights = [&](uint32_t word, int byte) {
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(memory.pairs) + __dp4a(word, 128u << 8 * byte, own));
  };

  load_x(part);
  int local = 0, round = int(blockIdx.x), slot = 0;  // tiles whose sums wait; the first of them
  for (int tile = round; tile < products.tiles; tile += int(gridDim.x)) {
    float total[2][2] = {};  // by parity of the block, and row
    for (int unit = part; unit < units; unit += split) {
      wait_for_copies_but<stages - 2>();
      __syncwarp();  // the codes have come to all lanes, and all have read those before
      fetch((slot + stages - 1) % stages);
      float scale[each];
#pragma unroll
      for (int u = 0; u < each; ++u) scale[u] = next.scales.at(u, memory.map, next.offset);
      next = load_scales();
      const auto scale_of = [&](int row, int u, int quad) { return __shfl_sync(~0u, scale[u], row * 2 + quad); };
      const unsigned char* codes = memory.codes[part][slot];
      float c[2][4] = {};  // two that do not wait for each other
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const auto top = load_pack<4>(reinterpret_cast<const uint32_t*>(codes + place_of(g, 4 * j + t)));
        const auto bottom = load_pack<4>(reinterpret_cast<const uint32_t*>(codes + place_of(g + 8, 4 * j + t)));
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t a[4] = {weights(top.at[i], 2 * half), weights(bottom.at[i], 2 * half), weights(top.at[i], 2 * half + 1), weights(bottom.at[i], 2 * half + 1)};
            const auto x_of = [&](int k) { return g / 2 == j ? own_x[i].at[k] : 0; };
            multiply_add(c[half], a, x_of(2 * half), x_of(2 * half + 1));
          }
      }
      slot = (slot + 1) % stages;
#pragma unroll
      for (int e = 0; e < 2; ++e)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float even = scale_of(g + 8 * h, e, t / 2), odd = scale_of(g + 8 * h, 2 + e, t / 2);
          total[e][h] = fmaf(t % 2 ? odd : even, c[0][2 * h + e] + c[1][2 * h + e], total[e][h]);
        }
      if (units > split) load_x(unit + split < units ? unit + split : part);
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = total[0][h] + total[1][h];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      if (t == 0) sums[(local * split + part) * tile_rows + g + 8 * h] = sum;
    }
    if (++local < together && tile + int(gridDim.x) < products.tiles) continue;
    __syncthreads();
    for (int i = int(threadIdx.x); i < local * tile_rows; i += split * 32) {
      const int of = i / tile_rows, r = i % tile_rows, at_tile = round + of * int(gridDim.x);
      const auto& p = products.of[products.with_tile(at_tile)];
      const int64_t row = int64_t{at_tile - p.first} * tile_rows + r;
      if (row >= p.rows) continue;
      float sum = 0;
#pragma unroll
      for (int k = 0; k < split; ++k) sum += sums[(of * split + k) * tile_rows + r];
      p.y[row] = Y(sum + (p.c ? float(p.c[row]) : 0.0f));
    }
    __syncthreads();
    local = 0, round = tile + int(gridDim.x);
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
  const auto& p = products.of[products.with_tile(int(blockIdx.x))];
  const int64_t row = int64_t{int(blockIdx.x) - p.first} * (row_threads / 32) + threadIdx.x / 32;
  if (row >= p.rows) return;
  float sums[row_tokens] = {};
  for (int64_t k = threadIdx.x % 32; k < columns; k += 32) {
    const int64_t i = row * columns + k;
    const float weight = values[p.w.code(i)] * p.w.scale(i / nf4_block);
#pragma unroll
    for (int t = 0; t < row_tokens; ++t)
      if (t < tokens) sums[t] += weight * float(x[t * columns + k]);
  }
#pragma unroll
  for (int t = 0; t < row_tokens; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) p.y[t * p.rows + row] = Y(sum + (p.c ? float(p.c[t * p.rows + row]) : 0.0f));
  }
}

bool aligned(const Tensor& t, uintptr_t bytes) { return reinterpret_cast<uintptr_t>(t.data) % bytes == 0; }

}  // namespace

void nf4_multiply_few_cuda(CudaContext& cuda, Tensor x, std::span<const FewProduct> given, Tensor partial) {
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
        for (int first = 0; first < tokens; first += row_tokens)
          launch_early(cuda, "nf4 multiply", unsigned(products.tiles), row_threads, 0, multiply_rows<Y, X>, products.from_token(first), at<const X>(x) + first * columns,
                       std::min(row_tokens, tokens - first), columns);
      });
    const bool nested = given.front().w->format == FormatId::nf4_dq;
    const auto* from = at<const __nv_bfloat16>(x);
    const auto by_format = [&](bool quads, auto&& run) {
      if (nested) quads ? run(std::true_type{}, std::true_type{}) : run(std::true_type{}, std::false_type{});
      else quads ? run(std::false_type{}, std::true_type{}) : run(std::false_type{}, std::false_type{});
    };
    if (tokens == 1)
      return by_format(columns % (each * nf4_block) == 0, [&](auto nested, auto quads) {
        constexpr int each_tile = split * tile_rows * int(sizeof(float));
        const int grid = std::min(products.tiles, 2 * cuda.processors);  // two blocks fit a multiprocessor
        const int room = std::min(8 << 10, int(cuda.shared_bytes - sizeof(TileMemory))), together = std::clamp(room / each_tile, 1, (products.tiles + grid - 1) / grid);
        launch_early(cuda, "nf4 multiply", unsigned(grid), split * 32, sizeof(TileMemory) + size_t(together) * each_tile, multiply_one<nested.value, quads.value, Y>, products, from, int(columns),
                     together);
      });
    const auto several = [&]<int n>(std::integral_constant<int, n>) {
      by_format(columns % few_unit == 0, [&](auto nested, auto quads) {
        const auto kernel = multiply_several<nested.value, quads.value, n, Y>;
        constexpr size_t shared = sizeof(FewMemory<nested.value && quads.value>);
        const int most = resident_blocks(cuda, "nf4 multiply", kernel, few_threads, shared), pieces = int(few_pieces(columns));
        const int ranges = std::clamp(most / pieces, 1, std::min(products.tiles, most_ranges));
        launch_early(cuda, "nf4 multiply", unsigned(pieces * ranges), few_threads, shared, kernel, products, FewRun{from, tokens, int(columns), ranges, at<float>(partial)});
      });
    };
    if (tokens <= few_token_columns) several(std::integral_constant<int, 1>{});
    else several(std::integral_constant<int, most_token_columns>{});
  });
}

}  // namespace thimble::quant
