// NF4 against two to sixteen tokens on cuda: a block of threads has one piece of the rows' columns and a range of tiles of rows.
#pragma once
#include "device/mma.cuh"
#include "device/named_barriers.cuh"
#include "quant/nf4.cuh"
#include "quant/nf4_few.h"

namespace thimble::quant {

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
  Products from_token(int64_t token) const {
    Products later = *this;
    for (auto& p : later.of) p.y += token * p.rows, p.c += p.c ? token * p.rows : 0;
    return later;
  }
  __device__ __forceinline__ int with_tile(int tile) const {
    int p = 0;
    while (p + 1 < count && tile >= of[p + 1].first) ++p;
    return p;
  }
};

constexpr int warps = few_warps, ring_stages = 3;              // ring_stages: units of a warp's codes that are under way
constexpr int finisher = warps, few_threads = (warps + 1) * 32;  // the warp that puts the others' sums together
constexpr int slots = 3, slot_full = 1;                        // sums of tiles under way to it; the first of as many barriers
constexpr int most_ranges = 4096;

// coded: blocks come in fours that share a nested scale, and scales come as their codes and that one; else as they are.
template <bool coded>
struct alignas(16) FewStage {
  unsigned char codes[few_tile_rows * few_unit / 2];
  unsigned char scales[few_tile_rows * few_unit_blocks * (coded ? 1 : sizeof(float))];
  float absmax[coded ? few_tile_rows : 4];
};
template <bool coded>
struct FewMemory {
  uint32_t pairs[256 * 32];  // the two weights of each byte, 32 times: a copy to a bank, so that no lane waits for another
  float sums[slots][warps][few_token_columns * few_tile_rows];
  FewStage<coded> ring[warps][ring_stages];
  float map[coded ? 256 : 4], offset[4];  // offset: by product
  int taken;                              // sums that were read
  bool last;
};
static_assert(sizeof(FewMemory<true>) <= 99 << 10 && sizeof(FewMemory<false>) <= 99 << 10);  // what a block may have on compute capability 8.6, 8.9 and 12

// Where a row's chunk of 16 bytes lies among a stage's codes: no two of what half a warp reads, four rows' halves of a block to each lane, lie in the same banks.
__device__ __forceinline__ int few_place_of(int row, int chunk) { return row * (few_unit / 2) + (((chunk >> 1) ^ (row & 3)) << 5) + (chunk & 1) * 16; }

struct FewRun {
  const __nv_bfloat16* x;
  int tokens, columns, ranges;  // ranges: of tiles; a block of threads has one of them, and one piece of its rows
  float* partial;               // as nf4_few_partial
};

static __device__ unsigned arrived[most_ranges];  // pieces of a range that are done; back at 0 after each kernel

// Up to 8 * N tokens. A block of threads has one piece of the columns, each of its warps a unit of that, whose x stays in registers while tiles of rows pass.
// Codes come to shared memory while earlier ones are multiplied, each warp for itself. Lane (g, t) = (lane / 4, lane % 4) reads a quarter of a block of rows
// g and g + 8, so that each four products of tensor cores make the sums of one block, for a scale each.
template <bool nested, bool quads, int N, class Y>
__global__ void __launch_bounds__(few_threads, 2) multiply_several(const __grid_constant__ Products<Y> products, const __grid_constant__ FewRun run) {
  constexpr bool coded = nested && quads;
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<FewMemory<coded>*>(shared);
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = __shfl_sync(~0u, int(threadIdx.x) / 32, 0), g = lane / 4, t = lane % 4;
  const int piece = int(blockIdx.x) / run.ranges, range = int(blockIdx.x) % run.ranges, pieces = int(gridDim.x) / run.ranges;
  const int first = int(int64_t{products.tiles} * range / run.ranges), end = int(int64_t{products.tiles} * (range + 1) / run.ranges);
  const int blocks = run.columns / nf4_block, units = (blocks + few_unit_blocks - 1) / few_unit_blocks, unit = piece * warps + part;
  const int own_units = min(warps, units - piece * warps);  // of the piece
  const bool multiplies = part < own_units;

  const auto fetch = [&](int tile, FewStage<coded>& to) {
    if (multiplies && tile < end) {
      const auto& p = products.of[products.with_tile(tile)];
      const Bytes4& w = p.w;
      const int row = (tile - p.first) * few_tile_rows, last = min(few_tile_rows, int(p.rows) - row) - 1;  // rows that are not there make sums that nobody reads
      const int copied_row = lane / 8, chunk = lane % 8, first_block = unit * few_unit_blocks;
      if (quads || chunk / 2 < blocks - first_block) {  // beside what is not there x is 0
        const uint8_t* from = w.codes + first_block * (nf4_block / 2) + chunk * 16;
#pragma unroll
        for (int i = 0; i < few_tile_rows; i += 4) copy_16(shared_address(to.codes) + few_place_of(copied_row + i, chunk), from + int64_t{row + min(copied_row + i, last)} * (run.columns / 2), true);
      }
      if constexpr (quads) {
        const int r = lane % few_tile_rows, block = (row + min(r, last)) * blocks + first_block;
        if (!nested) {
          if (lane < few_tile_rows) copy_16(shared_address(to.scales) + r * 16, w.absmax + block, true);
        } else if (lane < few_tile_rows) {
          copy_4(shared_address(to.scales) + r * 4, w.nested_codes + block);
        } else {
          copy_4(shared_address(to.absmax) + r * 4, w.nested_absmax + block / nested_block);
        }
      } else {
        for (int i = lane; i < few_tile_rows * few_unit_blocks; i += 32)
          reinterpret_cast<float*>(to.scales)[i] = w.scale(int64_t{row + min(i / few_unit_blocks, last)} * blocks + min(first_block + i % few_unit_blocks, blocks - 1));
      }
    }
    commit_copies();
  };
  auto& ring = memory.ring[part % warps];
  if (part != finisher) {
    for (int i = 0; i + 1 < ring_stages; ++i) fetch(first + i, ring[i]);  // weights are nobody's result, x is
    const uint32_t pair = pack_bf16(book[threadIdx.x >> 4], book[threadIdx.x & 15]);
#pragma unroll
    for (int i = 0; i < 8; ++i) store_pack(memory.pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{pair, pair, pair, pair});
    if (coded) memory.map[threadIdx.x] = products.of[0].w.map[threadIdx.x];
  } else {
    if (lane == 0) memory.taken = 0;
    if (coded && lane < products.count) memory.offset[lane] = *products.of[lane].w.offset;
  }
  __syncthreads();
  wait_for_earlier();

  // y of a tile and eight tokens, as tensor cores leave them.
  const auto write = [&](int tile, int n, const Pack<float, 4>& sums) {
    const auto& p = products.of[products.with_tile(tile)];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = (tile - p.first) * few_tile_rows + g + i / 2 * 8, token = n * few_token_columns + 2 * t + i % 2;
      const int64_t to = token * p.rows + row;
      if (row < p.rows && token < run.tokens) p.y[to] = Y(sums.at[i] + (p.c ? float(p.c[to]) : 0.0f));
    }
  };
  const auto partial = [&](int of_piece, int tile, int n) { return run.partial + ((int64_t{of_piece} * products.tiles + tile) * N + n) * few_token_columns * few_tile_rows + lane * 4; };
  volatile int& taken = memory.taken;
  int item = 0, slot = 0;
  const auto advance = [&] { ++item, slot = slot + 1 == slots ? 0 : slot + 1; };
  if (part == finisher) {
    for (int tile = first; tile < end; ++tile)
      for (int n = 0; n < N; ++n, advance()) {
        wait_at(slot_full + slot, few_threads);
        Pack<float, 4> sums{};
        for (int of = 0; of < own_units; ++of) {
          const auto one = load_pack<4>(memory.sums[slot][of] + lane * 4);
#pragma unroll
          for (int i = 0; i < 4; ++i) sums.at[i] += one.at[i];
        }
        __syncwarp();
        if (lane == 0) taken = item + 1;
        pieces == 1 ? write(tile, n, sums) : store_pack(partial(piece, tile, n), sums);
      }
  } else {
    // x of this lane: of token g of each eight, the columns that its weights of each block meet.
    uint32_t x[N][few_unit_blocks][8];
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int b = 0; b < few_unit_blocks; ++b)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int token = n * few_token_columns + g, column = (unit * few_unit_blocks + b) * int(nf4_block) + t * 16 + half * 8;
          Pack<uint32_t, 4> four{};
          if (token < run.tokens && column < run.columns) four = load_pack<4>(reinterpret_cast<const uint32_t*>(run.x + int64_t{token} * run.columns + column));
#pragma unroll
          for (int i = 0; i < 4; ++i) x[n][b][half * 4 + i] = four.at[i];
        }
    // The weights of a byte of `word`: the byte times 128, and this lane's bank.
    const uint32_t own = shared_address(memory.pairs) + uint32_t(lane) * 4;
    const auto weights = [&](uint32_t word, int byte) {
      uint32_t two;
      asm("ld.shared.u32 %0, [%1];" : "=r"(two) : "r"(__dp4a(word, 128u << 8 * byte, own)));
      return two;
    };
    int stage = 0;
    for (int tile = first; tile < end; ++tile) {
      float total[N][4] = {};
      wait_for_copies_but<ring_stages - 2>();
      __syncwarp();  // the codes have come to all lanes, and all have read those before
      fetch(tile + ring_stages - 1, ring[stage == 0 ? ring_stages - 1 : stage - 1]);
      if (multiplies) {
        const FewStage<coded>& here = ring[stage];
        float scale[2];  // of block t of rows g and g + 8
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = g + h * 8, at = row * few_unit_blocks + t;
          if constexpr (coded) scale[h] = __fadd_rn(__fmul_rn(memory.map[here.scales[at]], here.absmax[row]), memory.offset[products.with_tile(tile)]);
          else scale[h] = reinterpret_cast<const float*>(here.scales)[at];
        }
        constexpr int together = N == 1 ? 2 : 1;  // blocks whose products do not wait for each other
#pragma unroll
        for (int b = 0; b < few_unit_blocks; b += together) {
          float c[together][N][4] = {};
          Pack<uint32_t, 2> codes[together][2];
#pragma unroll
          for (int u = 0; u < together; ++u)
#pragma unroll
            for (int h = 0; h < 2; ++h) codes[u][h] = load_pack<2>(reinterpret_cast<const uint32_t*>(here.codes + few_place_of(g + h * 8, (b + u) * 2) + t * 8));
#pragma unroll
          for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int u = 0; u < together; ++u) {
              const uint32_t top = codes[u][0].at[i / 2], bottom = codes[u][1].at[i / 2];
              const int byte = i % 2 * 2;
              const uint32_t a[4] = {weights(top, byte), weights(bottom, byte), weights(top, byte + 1), weights(bottom, byte + 1)};
#pragma unroll
              for (int n = 0; n < N; ++n) multiply_add(c[u][n], a, x[n][b + u][2 * i], x[n][b + u][2 * i + 1]);
            }
#pragma unroll
          for (int u = 0; u < together; ++u) {
            const float low = __shfl_sync(~0u, scale[0], b + u, 4), high = __shfl_sync(~0u, scale[1], b + u, 4);
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
              for (int i = 0; i < 4; ++i) total[n][i] = fmaf(i < 2 ? low : high, c[u][n][i], total[n][i]);
          }
        }
      }
      stage = stage + 1 == ring_stages ? 0 : stage + 1;
#pragma unroll
      for (int n = 0; n < N; ++n, advance()) {
        while (item - taken >= slots) {}
        __syncwarp();
        if (multiplies) store_pack(memory.sums[slot][part] + lane * 4, Pack<float, 4>{total[n][0], total[n][1], total[n][2], total[n][3]});
        come_to(slot_full + slot, few_threads);
      }
    }
  }
  if (pieces == 1) return;
  // Who is the last of a range adds up its pieces, in order.
  if (part == finisher) {
    __threadfence();
    __syncwarp();
    if (lane == 0) {
      memory.last = atomicAdd(&arrived[range], 1u) + 1 == unsigned(pieces);
      if (memory.last) arrived[range] = 0;
      __threadfence();
    }
  }
  __syncthreads();
  if (!memory.last) return;
  for (int i = part; i < (end - first) * N; i += warps + 1) {
    const int tile = first + i / N, n = i % N;
    Pack<float, 4> sums{};
#pragma unroll 4
    for (int of = 0; of < pieces; ++of) {
      const float4 one = __ldcg(reinterpret_cast<const float4*>(partial(of, tile, n)));
      sums.at[0] += one.x, sums.at[1] += one.y, sums.at[2] += one.z, sums.at[3] += one.w;
    }
    write(tile, n, sums);
  }
}

}  // namespace thimble::quant
