// One token through a chain of NF4 matrices on cuda (compute capability 9 and later): a norm before, a bias, RoPE or a gate after each, and attention
// before one of them, all in one kernel.
// All blocks are there at once and wait for each other between the links, while codes of the next link come already. In each block one warp has the
// bulk engine bring rows of codes to a ring in shared memory, eight look bytes up as pairs of weights, each lane from a bank of its own, for tensor
// cores to multiply, and one makes y of their sums. Each waits only for the one before it. What binds beside memory is how fast the eight issue.
#include <algorithm>

#include "device/bulk.cuh"
#include "ops/attention_one.cuh"
#include "ops/floats.cuh"
#include "ops/linear_one.h"
#include "quant/nf4.cuh"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;
using quant::Bytes4, quant::nested_block, quant::nf4_block;

constexpr int warps = 8, piece = most_joined_columns, unit = piece / warps;  // warps that multiply; columns of all of them at a time; of one
constexpr int bringer = warps, finisher = warps + 1, threads = (warps + 2) * 32;
constexpr int tile_rows = 8, group_rows = 4;                // a tile is two groups of neighbouring rows
constexpr int stages = 3, together = 8;                     // pieces of tiles under way in the ring; tiles that share a load of x

__device__ __forceinline__ float low_of(uint32_t two) { return __uint_as_float(two << 16); }  // of two numbers in bf16
__device__ __forceinline__ float high_of(uint32_t two) { return __uint_as_float(two & 0xffff0000); }
// Both are there already: no branch.
__device__ __forceinline__ float choose(bool first, float a, float b) {
  float x;
  asm("{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\nselp.f32 %0, %1, %2, p;\n}\n" : "=f"(x) : "f"(a), "f"(b), "r"(uint32_t(first)));
  return x;
}

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

template <class Y>
struct Chain {
  Job<Y> of[most_links];
  int count, attends = -1;  // attends: the link whose x attention makes first
  Attending attending;
};

// A piece of a tile's rows: codes row by row; scales of its columns or, where there is room, of all columns, from the 16 bytes that they begin in.
template <bool nested>
struct Stage {
  static constexpr int scale_bytes = nested ? 1 : 4, each = piece / int(nf4_block), group_scales = nested ? 2112 : 4 * (each * scale_bytes + 16);  // a row's quarter is a multiple of 16 too
  unsigned char codes[tile_rows * piece / 2];
  unsigned char scales[2 * group_scales];
  struct Row {            // what a row's scales are made of
    const float* absmax;  // of the nested blocks from a fourth on in which the piece begins
    uint32_t at;          // its first scale among `scales`, in bytes, times 1024, and the block of these four nested ones that this is
    float offset;
  } row[tile_rows];
};
template <bool nested>
struct Memory {
  uint32_t pairs[256 * 32];  // the two weights of each byte, a copy to each bank
  float map[256];
  float sums[2][together][warps][tile_rows];  // of rounds by turns
  float squares[warps], joined[warps];  // of x, where it is normed; of what is joined
  uint64_t full[stages], empty[stages], summed[2], finished[2];
  alignas(128) Stage<nested> ring[stages];
};
template <bool nested, int dim>
struct AllMemory : Memory<nested> { AttendingMemory<dim, warps> attending; };

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define THIMBLE_ASM(...) __trap()
#else
#define THIMBLE_ASM(...) asm volatile(__VA_ARGS__)
#endif
__device__ __forceinline__ void meet() { THIMBLE_ASM("bar.sync 1, 256;" ::: "memory"); }                 // those who multiply
__device__ __forceinline__ void meet_with_finisher() { THIMBLE_ASM("bar.sync 2, 288;" ::: "memory"); }
static_assert(warps * 32 == 256);

// What all blocks have in common: a count of those that have come to an end, whose highest bit turns when all have. One stream of a device runs such kernels.
__device__ unsigned ends;
// By the warp that writes this block's y, which waits for the others' too. Each has come to this end before one comes to the next.
struct Everyone {
  unsigned seen;  // the highest bit, before
  __device__ static unsigned now() {
    unsigned x = 0;
    THIMBLE_ASM("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(&ends) : "memory");
    return x & 1u << 31;
  }
  __device__ void come() const {
    const unsigned by = blockIdx.x == 0 ? (1u << 31) - (gridDim.x - 1) : 1;
    THIMBLE_ASM("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(&ends), "r"(by) : "memory");
  }
  __device__ void wait() {
    while (now() == seen) {}
    seen ^= 1u << 31;
  }
  __device__ void meet(int lane) {
    __syncwarp();
    if (lane == 0) come(), wait();
    __syncwarp();
  }
};
#undef THIMBLE_ASM

// A block's share of a link, and the order in which it visits its pieces: of up to `together` tiles the first piece, then their second ...; of the
// next tiles the other way round, so that x of a piece serves both.
struct Part {
  int first, end, steps;
  __device__ int piece_at(int base, int step) const { return (base - first) / together % 2 ? steps - 1 - step : step; }
};
template <class Y>
__device__ __forceinline__ Part part_of(const Job<Y>& job) {
  const auto tiles = uint32_t(job.tiles);
  return {int(tiles * blockIdx.x / gridDim.x), int(tiles * (blockIdx.x + 1) / gridDim.x), (job.columns + piece - 1) / piece};
}

// Where a ring of n slots stands: the one that is next, and how often it has gone round.
template <int n>
struct Turnstile {
  int slot = 0;
  uint32_t round = 0;
  __device__ void advance() { if (++slot == n) slot = 0, ++round; }
};

// Eight lanes, a row each, bring codes, eight others scales, eight say where scales are. One brings all of a group where they lie together: a copy takes
// the engine's way in as long whatever its size. Places are counted in blocks of weights.
template <bool nested, class Y>
__device__ void bring(Memory<nested>& memory, const Job<Y>& job, Turnstile<stages>& at, int lane) {
  using S = Stage<nested>;
  const int blocks = job.columns / int(nf4_block), r = lane % tile_rows, group = r / group_rows, in_group = r % group_rows, role = lane / tile_rows;
  const Part own = part_of(job);
  const bool all_scales = group_rows * blocks * S::scale_bytes + 16 <= S::group_scales, alone = role == 0 ? own.steps > 1 : !all_scales;
  const bool copies = role < 2 && (alone || in_group == 0);
  const uint32_t bytes = role == 0 ? nf4_block / 2 : S::scale_bytes;
  auto& stage0 = memory.ring[0];
  unsigned char* const to = role == 0 ? stage0.codes + r * min(piece, job.columns) / 2 : stage0.scales + group * S::group_scales + in_group * (S::group_scales / group_rows);
  const uint8_t* from = nullptr;
  const float* absmax = nullptr;
  float offset = 0;
  int product = -1;
  for (int base = own.first; base < own.end; base += together)
    for (int step = 0; step < own.steps; ++step) {
      const int j = own.piece_at(base, step), n = alone ? min(piece, job.columns - j * piece) / int(nf4_block) : group_rows * blocks;
      for (int tile = base; tile < min(base + together, own.end); ++tile, at.advance()) {
        const auto place = job.place(tile, group);
        if (place.product != product) {
          product = place.product;
          const Bytes4& w = job.of[product].w;
          from = role == 0 ? w.codes : nested ? w.nested_codes : reinterpret_cast<const uint8_t*>(w.absmax);
          absmax = w.nested_absmax;
          if (nested) offset = *w.offset;
        }
        const auto group_first = uint32_t(place.row * blocks), block = group_first + uint32_t(in_group * blocks + j * S::each), begin = alone ? block : group_first;
        const uint64_t low = uint64_t{begin} * bytes & ~15ull, high = (uint64_t{begin} + uint32_t(n)) * bytes + 15 & ~15ull;
        const uint32_t size = copies ? uint32_t(high - low) : 0, all = warp_reduce(size, Add{});
        if (at.round > 0) wait_for(memory.empty[at.slot], (at.round - 1) & 1);
        if (copies) bulk_copy(to + at.slot * sizeof stage0, from + low, size, memory.full[at.slot]);
        if (role == 2) {
          const uint32_t copied = all_scales ? group_first : block, slot_of = all_scales ? group * S::group_scales : r * (S::group_scales / group_rows);
          const uint32_t first = slot_of + (copied * S::scale_bytes & 15) + (block - copied) * S::scale_bytes;
          memory.ring[at.slot].row[r] = {nested ? absmax + block / (4 * nested_block) * 4 : nullptr, first << 10 | (block & uint32_t(4 * nested_block - 1)), offset};
        }
        __syncwarp();
        if (lane == 0) arrive_expecting(memory.full[at.slot], all);
      }
    }
}

// Each lane makes y of a row of both groups of a tile; what it adds, and the angle by which it turns, come before the sums do.
template <bool nested, class Y>
__device__ void finish(Memory<nested>& memory, const Job<Y>& job, Turnstile<2>& at, int base, bool wanted, int lane) {
  static_assert(together * group_rows == 32);
  const int nth = lane / group_rows, tile = base + nth, i = lane % group_rows;
  const auto low_at = job.place(wanted ? tile : base, 0), high_at = job.place(wanted ? tile : base, 1);
  const auto &of_low = job.of[low_at.product], &of_high = job.of[high_at.product];
  const int low_row = low_at.row + i, high_row = high_at.row + i;
  const float low_c = of_low.c ? float(of_low.c[low_row]) : 0.0f, high_c = of_high.c ? float(of_high.c[high_row]) : 0.0f;
  const float low_bias = of_low.bias ? of_low.bias[low_row] : 0.0f, high_bias = of_high.bias ? of_high.bias[high_row] : 0.0f;
  float sine = 0, cosine = 1;
  if (const int half = of_low.half) {
    sincosf(float(*job.position) * job.inv_freq[low_row % (2 * half)], &sine, &cosine);
    sine *= job.factor, cosine *= job.factor;
  }
  wait_for(memory.summed[at.slot], at.round & 1);
  float rstd = 1;
  if (job.norm) {
    float squares = 0;
#pragma unroll
    for (const float of_warp : memory.squares) squares += of_warp;
    rstd = rsqrtf(squares / float(job.columns) + job.eps);
  }
  const auto value = [&](int group, float c, const Floats& biases, float bias) {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < warps; ++p) sum += memory.sums[at.slot][nth][p][group * group_rows + i];
    const Y v = Y(fmaf(sum, rstd, c));
    return biases ? Y(float(v) + bias) : v;
  };
  Y low = value(0, low_c, of_low.bias, low_bias), high = value(1, high_c, of_high.bias, high_bias);
  __syncwarp();
  if (lane == 0) arrive(memory.finished[at.slot]);
  at.advance();
  if (!wanted) return;
  if (job.gated) {
    const float gate = float(low), z = job.gelu ? 1.5957691216f * (gate + 0.044715f * gate * gate * gate) : gate;
    job.gated[low_row] = Y(gate * (1.0f / (1.0f + expf(-z))) * float(high));
    return;
  }
  if (of_low.half) {
    const float u = float(low), v = float(high);
    low = Y(u * cosine - v * sine), high = Y(v * cosine + u * sine);
  }
  of_low.y[low_row] = low;
  of_low.y[high_row] = high;
}

__device__ __forceinline__ void prefetch_norm(const Floats& norm, int columns) {
  const int each = norm.is_bf16 ? 64 : 32;  // in what the second cache takes at a time
  for (int i = int(threadIdx.x) * each; i < columns; i += warps * 32 * each) prefetch(static_cast<const char*>(norm.data) + i * (128 / each));
}

// Lane (g, t) = (lane / 4, lane % 4) reads 16 bytes, half a block, of row lane / 8 of each group: a row's 128 bytes go to eight lanes, so that the
// tensor cores' rows 2i and 2i + 1 are the halves of row i's 256 weights. Column n = (u, b, h) of their product, a bit each, holds the x that meets
// half h's block b of the u-th such line, elsewhere 0: the sums of blocks stay apart, and lane (g, t) ends with that of line t / 2, half g % 2, block t % 2.
template <bool nested, class Y, class F>
__device__ void multiply_link(Memory<nested>& memory, const Job<Y>& job, Turnstile<stages>& at, Turnstile<2>& sums_at, int lane, int part, F&& wait_for_x) {
  const int g = lane / 4, t = lane % 4;
  const Part tiles = part_of(job);
  const int columns = job.columns, row_bytes = min(piece, columns) / 2;
  // Where a piece has few columns, several warps share each unit of them, and take tiles by turns.
  struct Share { int at, turn, of; };  // the first of its columns; its tiles: those where tile % of == turn
  const auto share_of = [&](int j) {
    const int units = (min(piece, job.columns - j * piece) + unit - 1) / unit, of = min(4, warps / units);
    return Share{j * piece + part % units * unit, part / units, of};
  };
  const int n_u = g >> 2, n_b = g >> 1 & 1, n_h = g & 1;
  using XChunk = Pack<uint32_t, 4>[4];
  // This lane's x of a unit: 32 numbers, where its column has some.
  const auto own_column = [&](int at) { return at + n_u * unit / 2 + (n_h * 4 + t) * int(nf4_block) / 2; };
  const auto load_own = [&](XChunk& x, const bf16_t* from, int at) {
    const int column = own_column(at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = {};
      if (t / 2 == n_b && column < job.columns) x[i] = load_pack<4>(reinterpret_cast<const uint32_t*>(from + column) + i * 4);
    }
  };
  // x of a piece, times the norm's weights: what x is to be divided by is one number, which the sums are divided by when they are done.
  const auto load_norm = [&](XChunk& weights, const Floats& norm, int at) {
    if (norm.is_bf16) load_own(weights, static_cast<const bf16_t*>(norm.data), at);
  };
  const auto weight_at = [&](const XChunk& weights, const Floats& norm, int column, int i) -> float2 {
    const uint32_t w = weights[i / 4].at[i % 4];
    if (norm.is_bf16) return {low_of(w), high_of(w)};
    return t / 2 == n_b && column < columns ? float2{norm[column + 2 * i], norm[column + 2 * i + 1]} : float2{};
  };
  const auto scale_by_norm = [&](XChunk& x, const XChunk& weights, const Share& share) {
    const int column = own_column(share.at);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      uint32_t& two = x[i / 4].at[i % 4];
      const float2 w = weight_at(weights, job.norm, column, i);
      squares += low_of(two) * low_of(two) + high_of(two) * high_of(two);
      two = pack_bf16(low_of(two) * (w.x + job.offset), high_of(two) * (w.y + job.offset));
    }
    return share.turn == 0 ? squares : 0.0f;
  };
  // x = residual + norm(part), of one piece: every block makes it for itself, the last, which has tiles, for those who come after.
  const auto join_own = [&](XChunk& x, const Share& share) {
    const auto& join = job.join;
    const int column = own_column(share.at);
    XChunk weights{};
    load_own(x, join.part, share.at);
    load_norm(weights, join.norm, share.at);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float low = low_of(x[i / 4].at[i % 4]), high = high_of(x[i / 4].at[i % 4]);
      squares += low * low + high * high;
    }
    squares = warp_reduce(share.turn == 0 ? squares : 0.0f, Add{});
    if (lane == 0) memory.joined[part] = squares;
    meet();
    squares = 0;
    for (const float of_warp : memory.joined) squares += of_warp;
    const float rstd = 1.0f / sqrtf(squares / float(columns) + join.eps);
    XChunk residual;
    load_own(residual, join.residual, share.at);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      uint32_t& two = x[i / 4].at[i % 4];
      const uint32_t r = residual[i / 4].at[i % 4];
      const float2 w = weight_at(weights, join.norm, column, i);
      two = pack_bf16(low_of(two) * rstd * (w.x + join.offset), high_of(two) * rstd * (w.y + join.offset));
      two = pack_bf16(low_of(two) + low_of(r), high_of(two) + high_of(r));
    }
    if (blockIdx.x + 1 == gridDim.x && share.turn == 0 && t / 2 == n_b && column < columns)
#pragma unroll
      for (int i = 0; i < 4; ++i) store_pack(reinterpret_cast<uint32_t*>(join.sum + column) + i * 4, x[i]);
  };
  XChunk x;
  Share share = share_of(0);
  float squares = 0;
  if (job.norm) {  // its weights come before x does
    XChunk weights{};
    if (job.join.part) {
      prefetch_norm(job.join.norm, columns), prefetch_norm(job.norm, columns);
      wait_for_x();
      join_own(x, share);
      load_norm(weights, job.norm, share.at);
    } else {
      load_norm(weights, job.norm, share.at);
      if (tiles.steps > 1) prefetch_norm(job.norm, columns);
      wait_for_x();
      load_own(x, job.x, share.at);
    }
    squares = scale_by_norm(x, weights, share);
  } else {
    wait_for_x();
    load_own(x, job.x, share.at);
  }

  const uint32_t own = shared_address(memory.pairs) + uint32_t(lane) * 4;
  const auto weights = [&](uint32_t word, int byte) {  // the byte times 128, and this lane's bank
    uint32_t two;
    asm("ld.shared.u32 %0, [%1];" : "=r"(two) : "r"(__dp4a(word, 128u << 8 * byte, own)));
    return two;
  };
  const int own_block = (t >> 1) * 4 + n_h * 2 + (t & 1);
  for (int base = tiles.first; base < tiles.end; base += together) {
    const int n = min(together, tiles.end - base);
    if (sums_at.round > 0) wait_for(memory.finished[sums_at.slot], (sums_at.round - 1) & 1);
    auto& sums = memory.sums[sums_at.slot];
    for (int step = 0; step < tiles.steps; ++step) {
      const int j = tiles.piece_at(base, step);
      if (step > 0) {
        share = share_of(j);
        XChunk weights{};
        if (job.norm) load_norm(weights, job.norm, share.at);
        load_own(x, job.x, share.at);
        if (job.norm) {
          const float more = scale_by_norm(x, weights, share);
          if (base == tiles.first) squares += more;
        }
      }
      const int within = share.at - j * piece, last = (columns - j * piece) / int(nf4_block) - 1;  // beyond it x is 0
      const int code_at = lane / 8 * row_bytes + within / 2 + lane % 8 * 16, block = min(within / int(nf4_block) + own_block, last);
#pragma unroll 1
      for (int r = 0; r < n; ++r, at.advance()) {
        wait_for(memory.full[at.slot], at.round & 1);
        const auto release = [&] {  // this warp has read what it needs of the slot
          __syncwarp();
          if (lane == 0) arrive(memory.empty[at.slot]);
        };
        if ((r & (share.of - 1)) != share.turn) {
          release();
          if (step == 0 && lane % 4 == 0) sums[r][part][lane / 4] = 0;
          continue;
        }
        const Stage<nested>& stage = memory.ring[at.slot];
        const auto code = [&](int line, int group) { return load_pack<4>(reinterpret_cast<const uint32_t*>(stage.codes + code_at + group * group_rows * row_bytes + line * 128)); };
        const Pack<uint32_t, 4> codes[2][2] = {{code(0, 0), code(0, 1)}, {code(1, 0), code(1, 1)}};
        float scale[2], absmax[2], offset[2];
#pragma unroll
        for (int group = 0; group < 2; ++group) {
          const auto row = stage.row[lane / 8 + group * group_rows];
          const uint32_t scale_at = (row.at >> 10) + block * Stage<nested>::scale_bytes;
          if constexpr (nested) {
            absmax[group] = __ldg(row.absmax + ((row.at & 1023) + block) / nested_block);  // comes while there is much to do
            offset[group] = row.offset;
            scale[group] = memory.map[stage.scales[scale_at]];
          } else {
            scale[group] = *reinterpret_cast<const float*>(stage.scales + scale_at);
          }
        }
        release();
        float c[2][2][4] = {};  // by line; two that do not wait for each other
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int line = 0; line < 2; ++line) {
              const uint32_t top = codes[line][0].at[i], bottom = codes[line][1].at[i];
              const uint32_t a[4] = {weights(top, 2 * half), weights(bottom, 2 * half), weights(top, 2 * half + 1), weights(bottom, 2 * half + 1)};
              multiply_add(c[line][half], a, x[i].at[2 * half], x[i].at[2 * half + 1]);
            }
        const auto sum = [&](int k) { return choose(t >= 2, c[1][0][k], c[0][0][k]) + choose(t >= 2, c[1][1][k], c[0][1][k]); };
        // The eight lanes of a row add up both groups: one in even lanes, the other in odd ones.
        if (nested)
#pragma unroll
          for (int group = 0; group < 2; ++group) scale[group] = __fadd_rn(__fmul_rn(scale[group], absmax[group]), offset[group]);
        const float low = scale[0] * choose(n_h, sum(1), sum(0)), high = scale[1] * choose(n_h, sum(3), sum(2));
        float mine = (lane & 1 ? high : low) + shuffle_xor(lane & 1 ? low : high, 1);
        mine += shuffle_xor(mine, 2);
        mine += shuffle_xor(mine, 4);
        if (lane % 8 < 2) {
          float& to = sums[r][part][lane % 8 * group_rows + lane / 8];
          to = step == 0 ? mine : to + mine;
        }
      }
    }
    if (job.norm && base == tiles.first) {
      squares = warp_reduce(squares, Add{});
      if (lane == 0) memory.squares[part] = squares;
    }
    __syncwarp();
    if (lane == 0) arrive(memory.summed[sums_at.slot]);
    sums_at.advance();
  }
}

template <bool nested, class Y, int dim, bool normed>
__global__ void __launch_bounds__(threads, 2) multiply_chain(const __grid_constant__ Chain<Y> chain) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<AllMemory<nested, dim>*>(shared);
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);  // so that the compiler knows it to be one for the warp
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) barrier_init(memory.full[s], 1), barrier_init(memory.empty[s], warps);
    for (int s = 0; s < 2; ++s) barrier_init(memory.summed[s], warps), barrier_init(memory.finished[s], 1);
    barriers_are_made();
  }
  __syncthreads();
  if (part == bringer) {  // weights are nobody's result: no need to wait
    Turnstile<stages> at;
    for (int i = 0; i < chain.count; ++i) bring<nested>(memory, chain.of[i], at, lane);
    return;
  }
  if (part == finisher) {
    if (dim > 0) prefetch_keys(chain.attending.run, chain.attending.tensors, lane);
    Turnstile<2> sums_at;
    wait_for_earlier();
    Everyone everyone{Everyone::now()};
    for (int i = 0; i < chain.count; ++i) {
      const bool attends = dim > 0 && i == chain.attends;
      if (i > 0) everyone.meet(lane), meet_with_finisher();
      if (attends) meet_with_finisher(), everyone.meet(lane), meet_with_finisher();
      const Part own = part_of(chain.of[i]);
      for (int base = own.first; base < own.end; base += together) {
        const int tile = base + lane / group_rows;
        finish(memory, chain.of[i], sums_at, base, tile < own.end, lane);
      }
    }
    return;
  }
  const uint32_t two = pack_bf16(quant::book[threadIdx.x >> 4], quant::book[threadIdx.x & 15]);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_pack(memory.pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{two, two, two, two});
  if (nested) memory.map[threadIdx.x] = chain.of[0].of[0].w.map[threadIdx.x];
  meet();  // each looks up what all have written
  Turnstile<stages> at;
  Turnstile<2> sums_at;
  for (int i = 0; i < chain.count; ++i) {
    const bool attends = dim > 0 && i == chain.attends;
    if constexpr (dim > 0)
      if (attends) {
        if (i == 0) wait_for_earlier();
        attend<dim, normed>(memory.attending, chain.attending, [] { meet(); }, [&] { i > 0 ? meet_with_finisher() : meet(); });
        meet_with_finisher();
      }
    multiply_link<nested>(memory, chain.of[i], at, sums_at, lane, part, [&] { i > 0 || attends ? meet_with_finisher() : wait_for_earlier(); });
  }
}

// Every block must be there at once, or they would wait for ever: so they are no clusters, of which fewer fit while blocks of an earlier kernel leave.
template <bool nested, class Y, int dim, bool normed>
void run(CudaContext& cuda, Chain<Y>& chain) {
  const auto kernel = multiply_chain<nested, Y, dim, normed>;
  const auto* key = reinterpret_cast<const void*>(kernel);
  constexpr size_t shared = sizeof(AllMemory<nested, dim>);
  prepare_kernel(cuda, key, "nf4 multiply", shared);
  int& resident = cuda.resident[key];
  if (resident == 0) check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared), "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  check(resident > 0, "a block of the product of one token fits a multiprocessor");
  const int most = resident * cuda.processors;
  int blocks = 0;
  for (int i = 0; i < chain.count; ++i) blocks = std::max(blocks, chain.of[i].tiles);
  if (dim > 0) chain.attending.splits = splits_of(chain.attending.run, most), blocks = std::max(blocks, chain.attending.run.heads * chain.attending.splits);
  launch_early(cuda, "nf4 multiply", unsigned(std::min(blocks, most)), threads, shared, kernel, chain);
}

}  // namespace

void linear_one_cuda(CudaContext& cuda, std::span<const Few> chain, Tensor partial) {
  const auto& first = chain.front().products.front();
  const auto go = [&]<class Y>(Y) {
    Chain<Y> jobs{};
    int64_t dim = 0;
    for (const auto& [x, products, norm, after, join, attend] : chain) {
      if (attend) {
        const auto& [q, keys, values, shape, norms, turn, last] = attend;
        dim = q.shape[2];
        jobs.attends = jobs.count;
        jobs.attending.run = attention_run(q, keys, shape);
        jobs.attending.tensors = {at<bf16_t>(x), nullptr, at<float>(partial), at<const bf16_t>(q), at<const bf16_t>(keys), at<const bf16_t>(values)};
        if (last) jobs.attending.heads = {{Floats(norms.weight[0]), Floats(norms.weight[1])}, norms.eps, norms.offset, turn.factor, at<const int32_t>(turn.positions), at<const float>(turn.inv_freq),
                                          at<const bf16_t>(last), at<bf16_t>(keys.rows(keys.shape[0] - 1, 1))};
        check(aligned_16(q, keys, values) && jobs.attending.run.heads <= most_attending_heads, "attention: vectors of heads are aligned, a counter is there to each of them");
      }
      Job<Y>& job = jobs.of[jobs.count++] = Job<Y>{.columns = int(x.shape[1]), .x = at<const bf16_t>(x), .norm = Floats(norm.weight), .eps = norm.eps, .offset = norm.offset,
                                             .join = {at<const bf16_t>(join.part), at<const bf16_t>(join.residual), at<bf16_t>(x), Floats(join.norm.weight), join.norm.eps, join.norm.offset},
                                             .gated = at<Y>(after.gated), .gelu = after.activation == Activation::gelu_tanh, .position = at<const int32_t>(after.turn.positions),
                                             .inv_freq = at<const float>(after.turn.inv_freq), .factor = after.turn.factor};
      for (const auto& [y, w, c] : products) {
        const int i = job.count++;
        job.of[i] = {at<Y>(y), at<const Y>(c), Floats(after.bias[size_t(i)]), Bytes4(*w), job.tiles, after.turn && i < 2 ? int(after.turn.head_dim) / 2 : 0};
        job.tiles += int(w->shape[0]) / tile_rows;
      }
    }
    const auto go_on = [&]<int of>(std::integral_constant<int, of>) {
      const auto by_heads = [&]<bool normed>(std::bool_constant<normed>) {
        first.w->format == quant::FormatId::nf4_dq ? run<true, Y, of, normed>(cuda, jobs) : run<false, Y, of, normed>(cuda, jobs);
      };
      if constexpr (of > 0)
        if (jobs.attending.heads.last) return by_heads(std::true_type{});
      by_heads(std::false_type{});
    };
    if constexpr (std::is_same_v<Y, bf16_t>) {
      if (dim == 64) return go_on(std::integral_constant<int, 64>{});
      if (dim == 128) return go_on(std::integral_constant<int, 128>{});
    }
    check(dim == 0, "attention is of bf16, and of 64 or 128 channels");
    go_on(std::integral_constant<int, 0>{});
  };
  if (first.y.dtype == DType::f32) go(float{});
  else go(bf16_t{});
}

}  // namespace thimble::ops
