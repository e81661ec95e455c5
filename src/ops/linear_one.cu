// One token through a chain of NF4 matrices on cuda (compute capability 9 and later): a norm before, a bias, RoPE or a gate after each, and attention
// before one of them, all in one kernel.
// All blocks are there at once and wait for each other between the links, while weights of the next link come already (linear_one_ring.cuh). In each
// block one warp brings them, eight look bytes of codes up as pairs of weights, each lane from a bank of its own, for tensor cores to multiply, and one
// makes y of their sums. Each waits only for the one before it. What binds beside memory is the way into and out of shared memory, and between two links
// what it takes to hear of everyone: where a link is long, the next one's first products hide it.
#include <algorithm>
#include <climits>

#include "device/everyone.cuh"
#include "ops/attention_one.cuh"
#include "ops/linear_one_ring.cuh"

namespace thimble::ops {
namespace {

constexpr int warps = 8, unit = piece / warps;  // that multiply; columns of one
constexpr int bringer = warps, finisher = warps + 1, threads = (warps + 2) * 32;

__device__ __forceinline__ float low_of(uint32_t two) { return __uint_as_float(two << 16); }  // of two numbers in bf16
__device__ __forceinline__ float high_of(uint32_t two) { return __uint_as_float(two & 0xffff0000); }
__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {  // two by two, each product rounded once
  uint32_t c = 0;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(c) : "r"(a), "r"(b), "r"(0x80008000));
  return c;
}
// Both are there already: no branch.
__device__ __forceinline__ float choose(bool first, float a, float b) {
  float x;
  asm("{\n.reg .pred p;\nsetp.ne.u32 p, %3, 0;\nselp.f32 %0, %1, %2, p;\n}\n" : "=f"(x) : "f"(a), "f"(b), "r"(uint32_t(first)));
  return x;
}

template <class Y>
struct Chain {
  Job<Y> of[most_links];
  int count, attends = -1;  // attends: the link whose x attention makes first
  Attending attending;
};

__device__ unsigned ended, marked;  // blocks that have come to a link's end, or to its mark; one stream of a device runs such kernels

// Barriers by name.
constexpr int multiplying = empty_at + stages, with_finisher = multiplying + 1, squared_at = with_finisher + 1, summed_at = squared_at + 1;  // summed_at: two, of sums by turns
constexpr int few = warps * 32, one_more = few + 32;  // threads that multiply; and one warp that waits for them
__device__ __forceinline__ void meet() { wait_at(multiplying, few); }
__device__ __forceinline__ void meet_with_finisher() { wait_at(with_finisher, one_more); }

template <bool nested>
struct Memory {
  uint32_t pairs[256 * 32];  // the two weights of each byte, a copy to each bank
  float map[256];
  float sums[2][together][warps][tile_rows];  // of rounds by turns
  float squares[warps][8], joined[warps];  // of x, where it is normed, by columns of the product; of what is joined
  uint64_t finished[2], early, whole;  // the last two: of x
  alignas(128) Ring<nested> ring;
};
template <bool nested, int dim>
struct AllMemory : Memory<nested> { AttendingMemory<dim, warps> attending; };
static_assert(sizeof(AllMemory<true, 128>) <= 99 << 10 && sizeof(AllMemory<false, 128>) <= 99 << 10);  // what a block may have on compute capability 12

// Each lane makes y of a row of both groups of a tile; what it adds, and the angle by which it turns, come before the sums do.
template <bool nested, class Y>
__device__ void finish(Memory<nested>& memory, const Job<Y>& job, const Part& part, Turnstile<2>& at, float rstd, int base, int n, int lane) {
  static_assert(together * group_rows == 32);
  const int nth = lane / group_rows, i = lane % group_rows;
  const bool wanted = nth < n;
  const int tile = part.tile(base + (wanted ? nth : 0));
  const auto low_at = job.place(tile, 0), high_at = job.place(tile, 1);
  const auto &of_low = job.of[low_at.product], &of_high = job.of[high_at.product];
  const int low_row = low_at.row + i, high_row = high_at.row + i;
  const float low_c = of_low.c ? float(of_low.c[low_row]) : 0.0f, high_c = of_high.c ? float(of_high.c[high_row]) : 0.0f;
  const float low_bias = of_low.bias ? of_low.bias[low_row] : 0.0f, high_bias = of_high.bias ? of_high.bias[high_row] : 0.0f;
  float sine = 0, cosine = 1;
  if (const int half = of_low.half) {
    sincosf(float(*job.position) * job.inv_freq[low_row % (2 * half)], &sine, &cosine);
    sine *= job.factor, cosine *= job.factor;
  }
  wait_at(summed_at + at.slot, one_more);
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
    const int left = job.columns - j * piece, of = left > 4 * unit ? 1 : left > 2 * unit ? 2 : 4, units = warps / of;
    return Share{j * piece + (part & (units - 1)) * unit, part >> (of == 1 ? 3 : of == 2 ? 2 : 1), of};
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
  // Calls use(i, weights of the i-th two numbers).
  const auto with_weights = [&](const XChunk& weights, const Floats& norm, int column, auto&& use) {
    if (norm.is_bf16) {
#pragma unroll
      for (int i = 0; i < 16; ++i) use(i, float2{low_of(weights[i / 4].at[i % 4]), high_of(weights[i / 4].at[i % 4])});
    } else {
      const bool there = t / 2 == n_b && column < columns;
      const auto* from = reinterpret_cast<const float2*>(static_cast<const float*>(norm.data) + column);
#pragma unroll
      for (int i = 0; i < 16; ++i) use(i, there ? from[i] : float2{});
    }
  };
  const auto scale_by_norm = [&](XChunk& x, const XChunk& weights, const Share& share) {
    float c[4][4] = {};  // columns' products with each other, of which those with themselves count; four that do not wait for each other
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t low = x[i / 2].at[i % 2 * 2], high = x[i / 2].at[i % 2 * 2 + 1], a[4] = {low, 0, high, 0};
      multiply_add(c[i / 2], a, low, high);
    }
    if (job.norm.is_bf16 && job.offset == 0) {
#pragma unroll
      for (int i = 0; i < 16; ++i) x[i / 4].at[i % 4] = multiply_bf16(x[i / 4].at[i % 4], weights[i / 4].at[i % 4]);
    } else {
      with_weights(weights, job.norm, own_column(share.at), [&](int i, float2 w) {
        uint32_t& two = x[i / 4].at[i % 4];
        two = pack_bf16(low_of(two) * (w.x + job.offset), high_of(two) * (w.y + job.offset));
      });
    }
    const auto own = [&](int i) { return choose(g % 2, c[i][1], c[i][0]); };
    return share.turn == 0 ? own(0) + own(1) + (own(2) + own(3)) : 0.0f;  // in lanes t == g / 2
  };
  // x = residual + norm(part), of one piece: every block makes it for itself, the first, which has tiles, for those who come after.
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
    with_weights(weights, join.norm, column, [&](int i, float2 w) {
      uint32_t& two = x[i / 4].at[i % 4];
      const uint32_t r = residual[i / 4].at[i % 4];
      two = pack_bf16(low_of(two) * rstd * (w.x + join.offset), high_of(two) * rstd * (w.y + join.offset));
      two = pack_bf16(low_of(two) + low_of(r), high_of(two) + high_of(r));
    });
    if (blockIdx.x == 0 && share.turn == 0 && t / 2 == n_b && column < columns)
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
      wait_for_x(columns);
      join_own(x, share);
      load_norm(weights, job.norm, share.at);
    } else {
      load_norm(weights, job.norm, share.at);
      if (tiles.steps > 1) prefetch_norm(job.norm, columns);
      wait_for_x(share.at + unit);
      load_own(x, job.x, share.at);
    }
    squares = scale_by_norm(x, weights, share);
  } else {
    wait_for_x(share.at + unit);
    load_own(x, job.x, share.at);
  }

  const uint32_t own = shared_address(memory.pairs) + uint32_t(lane) * 4;
  const auto weights = [&](uint32_t word, int byte) {  // the byte times 128, and this lane's bank
    uint32_t two;
    asm("ld.shared.u32 %0, [%1];" : "=r"(two) : "r"(__dp4a(word, 128u << 8 * byte, own)));
    return two;
  };
  const int own_block = (t >> 1) * 4 + n_h * 2 + (t & 1);
  bool back = false;
  for (int base = 0; base < tiles.count; base += together, back = !back) {
    const int n = min(together, tiles.count - base);
    if (sums_at.round > 0) wait_for(memory.finished[sums_at.slot], (sums_at.round - 1) & 1);
    auto& sums = memory.sums[sums_at.slot];
    for (int step = 0; step < tiles.steps; ++step) {
      const int j = tiles.piece_at(back, step);
      if (step > 0) {
        share = share_of(j);
        XChunk weights{};
        if (job.norm) load_norm(weights, job.norm, share.at);
        if (base == 0) wait_for_x(share.at + unit);
        load_own(x, job.x, share.at);
        if (job.norm) {
          const float more = scale_by_norm(x, weights, share);
          if (base == 0) squares += more;
        }
      }
      if (job.norm && base == 0 && step + 1 == tiles.steps) {
        if (t == g / 2) memory.squares[part][g] = squares;
        come_to(squared_at, one_more);
      }
      const int within = share.at - j * piece, last = (columns - j * piece) / int(nf4_block) - 1;  // beyond it x is 0
      const int code_at = lane / 8 * row_bytes + within / 2 + lane % 8 * 16, block = min(within / int(nf4_block) + own_block, last);
      const int scale_at = Stage<nested>::scales_at(lane / 8) + block * Stage<nested>::scale_bytes;
#pragma unroll 1
      for (int r = 0; r < n; ++r, at.advance()) {
        wait_for(memory.ring.full[at.slot], at.round & 1);
        const auto release = [&] { come_to(empty_at + at.slot, one_more); };  // this warp has read what it needs of the slot
        if ((r & (share.of - 1)) != share.turn) {
          release();
          if (step == 0 && lane % 4 == 0) sums[r][part][lane / 4] = 0;
          continue;
        }
        const Stage<nested>& stage = memory.ring.stage[at.slot];
        const auto code = [&](int line, int group) { return load_pack<4>(reinterpret_cast<const uint32_t*>(stage.codes + code_at + group * group_rows * row_bytes + line * 128)); };
        const Pack<uint32_t, 4> codes[2][2] = {{code(0, 0), code(0, 1)}, {code(1, 0), code(1, 1)}};
        float scale[2];
#pragma unroll
        for (int group = 0; group < 2; ++group) {
          const auto row = stage.row[lane / 8 + group * group_rows];
          const unsigned char* own_scale = stage.scales + Stage<nested>::scales_at(group * group_rows) + scale_at + (row.at >> 8);
          if constexpr (nested) {
            scale[group] = __fadd_rn(__fmul_rn(memory.map[*own_scale], choose((row.at & 255) + block < nested_block, row.absmax[0], row.absmax[1])), row.offset);
          } else {
            scale[group] = *reinterpret_cast<const float*>(own_scale);
          }
        }
        release();
        float c[2][4] = {};  // by line
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int line = 0; line < 2; ++line) {
              const uint32_t top = codes[line][0].at[i], bottom = codes[line][1].at[i];
              const uint32_t a[4] = {weights(top, 2 * half), weights(bottom, 2 * half), weights(top, 2 * half + 1), weights(bottom, 2 * half + 1)};
              multiply_add(c[line], a, x[i].at[2 * half], x[i].at[2 * half + 1]);
            }
        const auto sum = [&](int k) { return choose(t >= 2, c[1][k], c[0][k]); };
        // The eight lanes of a row add up both groups: one in even lanes, the other in odd ones.
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
    if (job.early && base == 0) wait_for_x(INT_MAX);
    come_to(summed_at + sums_at.slot, one_more);
    sums_at.advance();
  }
  // Each waits for the whole of x in every link, also who needs none of it, before the finisher can tell of the next one's.
  if (tiles.count == 0) wait_for_x(INT_MAX), meet_with_finisher();
}

template <bool nested, class Y, int dim, bool normed>
__global__ void __launch_bounds__(threads, 2) multiply_chain(const __grid_constant__ Chain<Y> chain) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<AllMemory<nested, dim>*>(shared);
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);  // so that the compiler knows it to be one for the warp
  if (threadIdx.x == 0) {
    for (uint64_t& full : memory.ring.full) barrier_init(full, bringing);
    for (int s = 0; s < 2; ++s) barrier_init(memory.finished[s], 1);
    barrier_init(memory.early, 1), barrier_init(memory.whole, 1);
    barriers_are_made();
  }
  __syncthreads();
  if (part == bringer) {  // weights are nobody's result: no need to wait
    Turnstile<stages> at;
    for (int i = 0; i < chain.count; ++i) bring(memory.ring, chain.of[i], at, one_more, lane);
    return;
  }
  if (part == finisher) {
    if (dim > 0) prefetch_keys(chain.attending.run, chain.attending.tensors, lane);
    Turnstile<2> sums_at;
    wait_for_earlier();
    Everyone at_end(ended), at_mark(marked);
    const auto tell = [&](uint64_t& barrier) { if (lane == 0) arrive(barrier); };
    for (int i = 0; i < chain.count; ++i) {
      const bool attends = dim > 0 && i == chain.attends;
      const Job<Y>& job = chain.of[i];
      if (i > 0) at_end.wait(lane);
      if (attends) {
        if (i > 0) meet_with_finisher();
        meet_with_finisher(), at_end.come(lane), at_end.wait(lane);
      }
      if (i > 0 || attends) tell(memory.whole);
      const Part own = part_of(job);
      const auto when_marked = [&] { at_mark.wait(lane), tell(memory.early); };
      float rstd = 1;
      if (job.norm && own.count > 0) {
        wait_at(squared_at, one_more);
        const float* squares = memory.squares[lane / 4] + lane % 4 * 2;
        rstd = rsqrtf(warp_reduce(squares[0] + squares[1], Add{}) / float(job.columns) + job.eps);
      }
      int rounds = 0;
      for (int base = 0; base < own.count; base += together) {
        if (rounds > 0 && rounds == job.marks) when_marked();
        finish(memory, job, own, sums_at, rstd, base, min(together, own.count - base), lane);
        if (++rounds == job.marks) at_mark.come(lane);
      }
      if (rounds > 0 && rounds == job.marks) when_marked();
      if (own.count == 0) meet_with_finisher();
      if (i + 1 < chain.count) at_end.come(lane);
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
    const Job<Y>& job = chain.of[i];
    multiply_link<nested>(memory, job, at, sums_at, lane, part, [&](int columns) {
      if (columns <= job.early) wait_for(memory.early, job.earlies & 1);
      else if (i > 0 || attends) wait_for(memory.whole, job.wholes & 1);
      else wait_for_earlier();
    });
  }
}

// Where a link's x is the result of the one before, and each block has some tiles of that, all blocks' first rounds make x's first columns: they are
// there while the last rounds are still made, and what is done with them hides what it takes to hear of those.
template <class Y>
void mark(Chain<Y>& chain, int blocks) {
  for (int i = 0; i + 1 < chain.count; ++i) {
    Job<Y>&job = chain.of[i], &next = chain.of[i + 1];
    next.wholes = job.wholes + (i > 0 || i == chain.attends), next.earlies = job.earlies + (job.early > 0);
    const bool made = job.gated ? static_cast<const void*>(job.gated) == next.x : job.count == 1 && job.of[0].half == 0 && static_cast<const void*>(job.of[0].y) == next.x;
    if (!made || i + 1 == chain.attends || next.join.part || job.each < together) continue;
    job.marks = job.each / together;
    next.early = job.marks * together * blocks * (job.gated ? group_rows : tile_rows);
  }
}

// Every block must be there at once, or they would wait for ever: so they are no clusters, of which fewer fit while blocks of an earlier kernel leave.
template <bool nested, class Y, int dim, bool normed>
void run(CudaContext& cuda, Chain<Y>& chain) {
  const auto kernel = multiply_chain<nested, Y, dim, normed>;
  constexpr size_t shared = sizeof(AllMemory<nested, dim>);
  const int most = resident_blocks(cuda, "nf4 multiply", kernel, threads, shared);
  int blocks = 0;
  for (int i = 0; i < chain.count; ++i) blocks = std::max(blocks, chain.of[i].tiles);
  if (dim > 0) chain.attending.splits = splits_of(chain.attending.run, most), blocks = std::max(blocks, chain.attending.run.heads * chain.attending.splits);
  blocks = std::min(blocks, most);
  for (int i = 0; i < chain.count; ++i) chain.of[i].each = chain.of[i].tiles / blocks, chain.of[i].more = chain.of[i].tiles % blocks;
  mark(chain, blocks);
  launch_early(cuda, "nf4 multiply", unsigned(blocks), threads, shared, kernel, chain);
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
