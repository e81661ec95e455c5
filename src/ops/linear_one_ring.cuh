// What a block has to do for a link of a token's chain of products (linear_one.cu), the ring in shared memory through which weights come to it, and the
// warp that fills that.
#pragma once
#include <cstddef>

#include "device/bulk.cuh"
#include "ops/floats.cuh"
#include "ops/linear_one.h"
#include "quant/nf4.cuh"

namespace thimble::ops {

using bf16_t = __nv_bfloat16;
using quant::Bytes4, quant::nested_block, quant::nf4_block;

constexpr int piece = most_joined_columns;    // columns of a row that are made at a time
constexpr int tile_rows = 8, group_rows = 4;  // a tile is two groups of neighbouring rows
constexpr int stages = 3, together = 8;       // pieces of tiles under way in the ring; a round: tiles that share a load of x and whose sums are put together
constexpr int empty_at = 1;                   // and as many more barriers by name as there are stages

// A link of the chain: one x and what is made of it.
template <class Y>
struct Job {
  struct Product {
    Y* y;
    const Y* c;  // null: nothing is added
    Floats bias;
    Bytes4 w;
    int first;  // of its tiles
    int half;   // of a head whose channels turn by pairs; 0: none turn
  };
  Product of[quant::most_few_products];
  int count, tiles, columns;
  int each, more;        // of its tiles a block has, and blocks that have one more
  int marks = 0;         // rounds of `together` tiles that, done by all blocks, make the next link's x `early`; 0: none
  int early = 0;         // columns of x that are there before the rest
  uint32_t earlies = 0, wholes = 0;  // how often a link's x was early, and whole, before
  const bf16_t* x;
  Floats norm;
  float eps, offset;  // of the norm
  struct { const bf16_t *part, *residual; bf16_t* sum; Floats norm; float eps, offset; } join;  // part null: x is there
  Y* gated;           // act(y of product 0) * y of product 1; null: both are wanted themselves
  bool gelu;
  const int32_t* position;
  const float* inv_freq;
  float factor;

  // Where one of the two groups of rows of a tile begins: turned pairs, gate and up, or neighbours.
  struct Place { int product, row; };
  __device__ Place place(int tile, int group) const {
    if (gated) return {group, tile * group_rows};
    int p = 0;
    while (p + 1 < count && tile >= of[p + 1].first) ++p;
    const int local = tile - of[p].first;
    if (of[p].half == 0) return {p, local * tile_rows + group * group_rows};
    const int of_head = of[p].half / group_rows;
    return {p, local / of_head * 2 * of[p].half + local % of_head * group_rows + group * of[p].half};
  }
};

// A block's tiles of a link, neighbours or, where there are marks, every gridDim-th, and the order in which it visits their pieces: of a round's tiles the
// first piece, then their second ...; of the next round's the other way round, so that x of a piece serves both.
struct Part {
  int count, steps, first, stride;
  __device__ int tile(int k) const { return first + k * stride; }
  __device__ int piece_at(bool back, int step) const { return back ? steps - 1 - step : step; }
};
template <class Y>
__device__ __forceinline__ Part part_of(const Job<Y>& job) {
  const int block = int(blockIdx.x);
  return {job.each + (block < job.more), (job.columns + piece - 1) / piece, job.marks ? block : block * job.each + min(block, job.more), job.marks ? int(gridDim.x) : 1};
}

// Where a ring of n slots stands: the one that is next, and how often it has gone round.
template <int n>
struct Turnstile {
  int slot = 0;
  uint32_t round = 0;
  __device__ void advance() { if (++slot == n) slot = 0, ++round; }
};

// A piece of a tile's rows: codes row by row, and scales of each row from the 16 bytes that they begin in, so far apart that lanes of few rows, who bring them
// or read them, meet in no bank.
template <bool nested>
struct Stage {
  static constexpr int scale_bytes = nested ? 1 : 4, each = piece / int(nf4_block);
  unsigned char codes[tile_rows * piece / 2];
  alignas(16) unsigned char scales[nested ? 1664 : 2304];
  struct alignas(16) Row {  // what a row's scales are made of
    float absmax[2];        // of the nested block in which the piece begins, and of the next
    float offset;
    uint32_t at;            // the place of the first block of weights in its nested one, and its scale's place among the row's times 256
  } row[tile_rows];
  __device__ static int scales_at(int r) { return nested ? r * 192 + r / 2 * 16 : r * 288; }
};
static_assert(7 * 192 + 3 * 16 + 80 <= 1664 && 7 * 288 + 272 <= 2304 && piece / nf4_block <= nested_block);

template <bool nested>
struct Ring {
  Stage<nested> stage[stages];
  uint64_t full[stages];
};
constexpr int bringing = 32 + 2;  // arrivals at such a barrier: of each lane's copies, and of the first lane before its own and after all wrote

// What need not be made again each time it is used.
__device__ __forceinline__ uint32_t kept(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
// Sixteen lanes have a group of rows. Rows of codes that lie together come in one copy: a copy takes the engine's way in as long whatever its size. Scales
// come by the lanes' own copies, neighbours to neighbours. Places are counted in blocks of weights. `readers`: threads at the barrier of an empty stage, this
// warp among them. It is busy for most of the time that a tile takes the others.
template <bool nested, class Y>
__device__ void bring(Ring<nested>& ring, const Job<Y>& job, Turnstile<stages>& at, int readers, int lane) {
  using S = Stage<nested>;
  constexpr int full = S::each * S::scale_bytes / 16, rows_at_once = 16 / full;  // copies of a row's scales, where they begin in the first byte of 16
  const Part own = part_of(job);
  const int blocks = job.columns / int(nf4_block), row_bytes = min(piece, job.columns) / 2, group = lane / 16, i = lane % full, r = lane % 16 / full, in_group = lane % group_rows;
  const bool alone = own.steps > 1, misaligned = blocks * S::scale_bytes % 16 != 0;
  const uint32_t stage0 = kept(shared_address(ring.stage)), full0 = kept(shared_address(ring.full));
  const uint8_t *codes = nullptr, *scales = nullptr;
  const float* absmax = nullptr;
  float offset = 0;
  int product = -1;
  bool back = false;
  for (int base = 0; base < own.count; base += together, back = !back)
    for (int step = 0; step < own.steps; ++step) {
      const int j = own.piece_at(back, step), n = min(piece, job.columns - j * piece) / int(nf4_block), bytes = n * int(nf4_block) / 2;
      for (int k = base; k < min(base + together, own.count); ++k, at.advance()) {
        const auto place = job.place(own.tile(k), group);
        if (place.product != product) {
          product = place.product;
          const Bytes4& w = job.of[product].w;
          codes = w.codes, scales = nested ? w.nested_codes : reinterpret_cast<const uint8_t*>(w.absmax), absmax = w.nested_absmax;
          if (nested) offset = *w.offset;
        }
        const auto first = uint32_t(place.row * blocks + j * S::each);  // of the group's first row
        const uint8_t* from = codes + uint64_t{first} * (nf4_block / 2);
        const auto* from_high = reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, reinterpret_cast<uint64_t>(from), 16));
        const uint32_t stage = stage0 + at.slot * uint32_t(sizeof(S)), barrier = full0 + at.slot * 8;
        if (at.round > 0) wait_at(empty_at + at.slot, readers);
        if (lane == 0) {
          arrive_expecting(barrier, uint32_t(tile_rows * bytes));
          if (alone) {
#pragma unroll
            for (int row = 0; row < tile_rows; ++row)
              bulk_copy(stage + row * row_bytes, (row < group_rows ? from : from_high) + uint64_t(row % group_rows) * blocks * (nf4_block / 2), bytes, barrier);
          } else {
            bulk_copy(stage, from, group_rows * bytes, barrier), bulk_copy(stage + group_rows * row_bytes, from_high, group_rows * bytes, barrier);
          }
        }
        const uint32_t to = stage + offsetof(S, scales);
#pragma unroll
        for (int row = r; row < r + group_rows; row += rows_at_once) {
          const uint64_t begin = uint64_t{first + uint32_t(row * blocks)} * S::scale_bytes;
          const uint32_t within = uint32_t(begin) & 15, size = within + n * S::scale_bytes, own_to = to + S::scales_at(group * group_rows + row);
          if (i * 16 < size) copy_16(own_to + i * 16, scales + (begin - within) + i * 16, true);
          if (misaligned && i == 0 && full * 16 < size) copy_16(own_to + full * 16, scales + (begin - within) + full * 16, true);
        }
        const uint32_t own_first = first + uint32_t(in_group * blocks), row = stage + offsetof(S, row) + (group * group_rows + in_group) * uint32_t(sizeof(typename S::Row));
        const uint32_t nth = lane % 16 / group_rows;  // of a row's first four lanes: two absmax, and one the rest
        if (nested && nth < 2) copy_4(row + nth * 4, absmax + min(own_first / nested_block + nth, (own_first + uint32_t(n) - 1) / nested_block));
        if (nth == 2) store_shared(row + 8, __float_as_uint(offset), (own_first * S::scale_bytes & 15) << 8 | own_first % nested_block);
        arrive_when_copied(barrier);
        __syncwarp();
        if (lane == 0) arrive(barrier);
      }
    }
}

}  // namespace thimble::ops
