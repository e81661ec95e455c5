// One token through NF4 matrices on cuda (compute capability 9 and later): a norm before, a bias, RoPE or a gate after, all in one kernel.
// A block's producer warp has the bulk engine bring rows of codes to a ring in shared memory; the other warps look bytes up as pairs of weights, each
// from its own bank, and tensor cores multiply. What binds beside memory is shared memory: a look-up for each byte, and the codes' way through it.
#include <algorithm>

#include "device/mma.cuh"
#include "ops/linear_one.h"
#include "quant/nf4.cuh"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;
using quant::Bytes4, quant::nested_block, quant::nf4_block;

constexpr int warps = 8, unit = 512, piece = warps * unit;  // warps that multiply; columns of one at a time; of all
constexpr int tile_rows = 8, group_rows = 4;                // a tile is two groups of neighbouring rows
constexpr int stages = 3, together = 4;                     // tiles under way in the ring; tiles that share a load of x

// Values as they lie in memory, read as floats.
struct Floats {
  const void* data = nullptr;
  bool is_bf16 = false;
  Floats() = default;
  explicit Floats(const Tensor& t) : data(t.data), is_bf16(t.dtype == DType::bf16) {}
  __device__ explicit operator bool() const { return data; }
  __device__ float operator[](int i) const { return is_bf16 ? float(static_cast<const bf16_t*>(data)[i]) : static_cast<const float*>(data)[i]; }
};

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
  Y* gated;           // act(y of product 0) * y of product 1; null: both are wanted themselves
  bool gelu;
  const int32_t* position;
  const float* inv_freq;
  float factor;

  // The two groups of rows of a tile: turned pairs, gate and up, or neighbours.
  struct Place { int product[2], row[2]; };
  __device__ Place place(int tile) const {
    if (gated) return {{0, 1}, {tile * group_rows, tile * group_rows}};
    int p = 0;
    while (p + 1 < count && tile >= of[p + 1].first) ++p;
    const int local = tile - of[p].first;
    if (of[p].half == 0) return {{p, p}, {local * tile_rows, local * tile_rows + group_rows}};
    const int of_head = of[p].half / group_rows, row = local / of_head * 2 * of[p].half + local % of_head * group_rows;
    return {{p, p}, {row, row + of[p].half}};
  }
};

// A piece of a tile's rows. Scales come by 16 bytes from the boundary before, nested ones too.
template <bool nested>
struct Stage {
  static constexpr int scale_bytes = nested ? 1 : 4, each = piece / int(nf4_block);
  unsigned char codes[tile_rows][piece / 2];
  unsigned char scales[tile_rows][each * scale_bytes + 16];
  float absmax[tile_rows][8];
  struct Row { int block; float offset; } row[tile_rows];  // its first block of all; of nested scales
};
template <bool nested>
struct Memory {
  uint32_t pairs[256 * 32];  // the two weights of each byte, a copy to each bank
  float map[256];
  float sums[together][warps][tile_rows];
  float squares[warps];
  uint64_t full[stages], empty[stages];
  alignas(128) Stage<nested> ring[stages];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define THIMBLE_ASM(...) __trap()
#else
#define THIMBLE_ASM(...) asm volatile(__VA_ARGS__)
#endif
__device__ __forceinline__ void barrier_init(uint64_t& b, int arrivals) { THIMBLE_ASM("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals) : "memory"); }
__device__ __forceinline__ void barriers_are_made() { THIMBLE_ASM("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void expect_bytes(uint64_t& b, uint32_t n) { THIMBLE_ASM("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(n) : "memory"); }
__device__ __forceinline__ void arrive(uint64_t& b) { THIMBLE_ASM("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(&b)) : "memory"); }
__device__ __forceinline__ void wait_for(uint64_t& b, uint32_t parity) {
  THIMBLE_ASM("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again_%=;\n}\n" ::"r"(shared_address(&b)), "r"(parity) : "memory");
}
// Both places and the size are multiples of 16 bytes.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t& b) {
  THIMBLE_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)),
              "r"(bytes), "r"(shared_address(&b)) : "memory");
}
__device__ __forceinline__ void meet() { THIMBLE_ASM("bar.sync 1, 256;" ::: "memory"); }  // all but the producer
static_assert(warps * 32 == 256);
#undef THIMBLE_ASM

// The order in which a block visits pieces: of up to `together` tiles the first piece, then their second ...
template <class F>
__device__ __forceinline__ void each_visit(int first, int end, int steps, F&& f) {
  for (int base = first; base < end; base += together)
    for (int j = 0; j < steps; ++j)
      for (int r = 0; r < together && base + r < end; ++r) f(base + r, j);
}

template <bool nested, class Y>
__device__ void bring(Memory<nested>& memory, const Job<Y>& job, int first, int end, int steps, int lane) {
  const int blocks = job.columns / int(nf4_block), r = lane % tile_rows, group = r / group_rows;
  float offsets[quant::most_few_products] = {};
  if (nested)
    for (int p = 0; p < job.count; ++p) offsets[p] = *job.of[p].w.offset;
  int slot = 0;
  uint32_t round = 0;
  each_visit(first, end, steps, [&](int tile, int j) {
    if (round > 0) wait_for(memory.empty[slot], (round - 1) & 1);
    if (lane < tile_rows) {
      auto& stage = memory.ring[slot];
      auto& full = memory.full[slot];
      const auto place = job.place(tile);
      const int row = place.row[group] + r % group_rows, product = place.product[group];
      const Bytes4& w = job.of[product].w;
      const int columns = min(piece, job.columns - j * piece), n = columns / int(nf4_block), block = row * blocks + j * Stage<nested>::each;
      constexpr int size = Stage<nested>::scale_bytes;
      const auto* scales = nested ? w.nested_codes : reinterpret_cast<const uint8_t*>(w.absmax);
      const int64_t low = int64_t{block} * size & ~int64_t{15}, high = (int64_t{block + n} * size + 15) & ~int64_t{15};
      const int group_low = int(block / nested_block) & ~3, group_high = (int((block + n - 1) / nested_block) & ~3) + 4;
      const uint32_t nested_bytes = nested ? uint32_t(group_high - group_low) * 4 : 0;
      expect_bytes(full, uint32_t(columns / 2 + (high - low)) + nested_bytes);
      bulk_copy(stage.codes[r], w.codes + (int64_t{row} * job.columns + int64_t{j} * piece) / 2, uint32_t(columns / 2), full);
      bulk_copy(stage.scales[r], scales + low, uint32_t(high - low), full);
      if (nested) bulk_copy(stage.absmax[r], w.nested_absmax + group_low, nested_bytes, full);
      stage.row[r] = {block, product == 0 ? offsets[0] : product == 1 ? offsets[1] : offsets[2]};
    }
    __syncwarp();
    if (lane == 0) arrive(memory.full[slot]);
    if (++slot == stages) slot = 0, ++round;
  });
}

// Four numbers of a tile's two groups of rows, summed, become y.
template <class Y>
__device__ void finish(const Job<Y>& job, int tile, int i, float a, float b) {
  const auto place = job.place(tile);
  const auto value = [&](int group, float sum) {
    const auto& p = job.of[place.product[group]];
    const int row = place.row[group] + i;
    Y v = Y(sum + (p.c ? float(p.c[row]) : 0.0f));
    if (p.bias) v = Y(float(v) + p.bias[row]);
    return v;
  };
  const auto& p = job.of[place.product[0]];
  Y low = value(0, a), high = value(1, b);
  if (job.gated) {
    const float gate = float(low), z = job.gelu ? 1.5957691216f * (gate + 0.044715f * gate * gate * gate) : gate;
    job.gated[place.row[0] + i] = Y(gate * (1.0f / (1.0f + expf(-z))) * float(high));
    return;
  }
  if (p.half) {
    float sine, cosine;
    sincosf(float(*job.position) * job.inv_freq[place.row[0] % (2 * p.half) + i], &sine, &cosine);
    sine *= job.factor, cosine *= job.factor;
    const float u = float(low), v = float(high);
    low = Y(u * cosine - v * sine), high = Y(v * cosine + u * sine);
  }
  p.y[place.row[0] + i] = low;
  p.y[place.row[1] + i] = high;
}

// Lane (g, t) = (lane / 4, lane % 4) reads 16 bytes, half a block, of row lane / 8 of each group: a row's 128 bytes go to eight lanes, so that the
// tensor cores' rows 2i and 2i + 1 are the halves of row i's 256 weights. Column n = (u, b, h) of their product, a bit each, holds the x that meets
// half h's block b of the u-th such line, elsewhere 0: the sums of blocks stay apart, and lane (g, t) ends with that of line t / 2, half g % 2, block t % 2.
template <bool nested, class Y>
__global__ void __launch_bounds__((warps + 1) * 32, 2) multiply_one(const __grid_constant__ Job<Y> job) {
  extern __shared__ __align__(128) unsigned char shared[];
  auto& memory = *reinterpret_cast<Memory<nested>*>(shared);
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int steps = (job.columns + piece - 1) / piece;
  const int first = int(int64_t{job.tiles} * blockIdx.x / gridDim.x), end = int(int64_t{job.tiles} * (blockIdx.x + 1) / gridDim.x);
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) barrier_init(memory.full[s], 1), barrier_init(memory.empty[s], warps);
    barriers_are_made();
  }
  __syncthreads();
  if (part == warps) return bring<nested>(memory, job, first, end, steps, lane);  // weights are nobody's result: no need to wait

  const uint32_t pair = pack_bf16(quant::book[threadIdx.x >> 4], quant::book[threadIdx.x & 15]);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_pack(memory.pairs + threadIdx.x * 32 + (i + threadIdx.x) % 8 * 4, Pack<uint32_t, 4>{pair, pair, pair, pair});
  if (nested) memory.map[threadIdx.x] = job.of[0].w.map[threadIdx.x];
  meet();
  wait_for_earlier();

  // Where a piece has few columns, several warps share each unit of them, and take tiles by turns.
  struct Share { int at, turn, of; };  // the first of its columns; its tiles: those where tile % of == turn
  const auto share_of = [&](int j) {
    const int units = (min(piece, job.columns - j * piece) + unit - 1) / unit, of = min(together, warps / units);
    return Share{j * piece + part % units * unit, part / units, of};
  };
  const int n_u = g >> 2, n_b = g >> 1 & 1, n_h = g & 1;
  using XChunk = Pack<uint32_t, 4>[4];
  // This lane's x of a unit: 32 numbers, where its column has some.
  const auto own_column = [&](int at) { return at + n_u * unit / 2 + (n_h * 4 + t) * int(nf4_block) / 2; };
  const auto load_x = [&](XChunk& x, int at) {
    const int column = own_column(at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = {};
      if (t / 2 == n_b && column < job.columns) x[i] = load_pack<4>(reinterpret_cast<const uint32_t*>(job.x + column) + i * 4);
    }
  };
  const auto each_pair = [&](XChunk& x, auto&& f) {
#pragma unroll
    for (int i = 0; i < 16; ++i) f(x[i / 4].at[i % 4], i * 2);
  };
  XChunk x;
  float rstd = 0;
  if (job.norm) {
    float squares = 0;
    for (int j = 0; j < steps; ++j) {
      const Share share = share_of(j);
      load_x(x, share.at);
      if (share.turn == 0)
        each_pair(x, [&](uint32_t two, int) {
          const float low = __uint_as_float(two << 16), high = __uint_as_float(two & 0xffff0000);
          squares += low * low + high * high;
        });
    }
    squares = warp_reduce(squares, Add{});
    if (lane == 0) memory.squares[part] = squares;
    meet();
    squares = 0;
    for (int p = 0; p < warps; ++p) squares += memory.squares[p];
    rstd = 1.0f / sqrtf(squares / float(job.columns) + job.eps);
  }
  const auto normed_x = [&](int at, bool loaded) {
    if (!loaded) load_x(x, at);
    const int column = own_column(at);
    if (job.norm && t / 2 == n_b && column < job.columns)
      each_pair(x, [&](uint32_t& two, int i) {
        two = pack_bf16(__uint_as_float(two << 16) * rstd * (job.norm[column + i] + job.offset), __uint_as_float(two & 0xffff0000) * rstd * (job.norm[column + i + 1] + job.offset));
      });
  };

  const uint32_t own = shared_address(memory.pairs) + uint32_t(lane) * 4;
  const auto weights = [&](uint32_t word, int byte) {  // the byte times 128, and this lane's bank
    uint32_t two;
    asm("ld.shared.u32 %0, [%1];" : "=r"(two) : "r"(__dp4a(word, 128u << 8 * byte, own)));
    return two;
  };
  const int own_block = (t >> 1) * 4 + n_h * 2 + (t & 1);
  Share share = share_of(0);
  if (steps == 1) normed_x(share.at, bool(job.norm));
  int slot = 0;
  uint32_t parity = 0;
  for (int base = first; base < end; base += together) {
    float total[together][2] = {};
    const int n = min(together, end - base);
    for (int j = 0; j < steps; ++j) {
      if (steps > 1) share = share_of(j), normed_x(share.at, false);
#pragma unroll 1
      for (int r = 0; r < n; ++r) {
        wait_for(memory.full[slot], parity);
        const auto release = [&] {  // this warp has read what it needs of the slot
          __syncwarp();
          if (lane == 0) arrive(memory.empty[slot]);
          if (++slot == stages) slot = 0, parity ^= 1;
        };
        if (r % share.of != share.turn) {
          release();
          continue;
        }
        const Stage<nested>& stage = memory.ring[slot];
        const int row = lane / 8, within = share.at - j * piece, block = within / int(nf4_block) + own_block;
        const auto code = [&](int line, int group) {
          return load_pack<4>(reinterpret_cast<const uint32_t*>(stage.codes[row + group * group_rows] + within / 2 + line * 128 + lane % 8 * 16));
        };
        const Pack<uint32_t, 4> codes[2][2] = {{code(0, 0), code(0, 1)}, {code(1, 0), code(1, 1)}};
        float scale[2];
#pragma unroll
        for (int group = 0; group < 2; ++group) {
          const int i = row + group * group_rows;
          const auto from = stage.row[i];
          if constexpr (nested) {
            const int nth = (from.block + block) / int(nested_block) - (from.block / int(nested_block) & ~3);
            scale[group] = __fadd_rn(__fmul_rn(memory.map[stage.scales[i][(from.block & 15) + block]], stage.absmax[i][nth]), from.offset);
          } else {
            scale[group] = reinterpret_cast<const float*>(stage.scales[i])[(from.block & 3) + block];
          }
          if (share.at + own_block * int(nf4_block) >= job.columns) scale[group] = 0;  // what nobody brought
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
        const auto sum = [&](int k) { return t >= 2 ? c[1][0][k] + c[1][1][k] : c[0][0][k] + c[0][1][k]; };
        const float block_sums[2] = {n_h ? sum(1) : sum(0), n_h ? sum(3) : sum(2)};
#pragma unroll
        for (int k = 0; k < together; ++k)
#pragma unroll
          for (int group = 0; group < 2; ++group)
            if (k == r) total[k][group] = fmaf(scale[group], block_sums[group], total[k][group]);
      }
    }
#pragma unroll
    for (int k = 0; k < together; ++k)
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        float sum = total[k][group];
#pragma unroll
        for (int d = 1; d < 8; d *= 2) sum += shuffle_xor(sum, d);
        if (lane % 8 == 0) memory.sums[k][part][group * group_rows + lane / 8] = sum;
      }
    meet();
    if (int(threadIdx.x) < n * group_rows) {
      const int k = int(threadIdx.x) / group_rows, i = int(threadIdx.x) % group_rows;
      float a = 0, b = 0;
#pragma unroll
      for (int p = 0; p < warps; ++p) a += memory.sums[k][p][i], b += memory.sums[k][p][group_rows + i];
      finish(job, base + k, i, a, b);
    }
    meet();
  }
}

template <bool nested, class Y>
void run(CudaContext& cuda, const Job<Y>& job) {
  const int grid = std::min(job.tiles, 2 * cuda.processors);
  launch_early(cuda, "nf4 multiply", unsigned(grid), (warps + 1) * 32, sizeof(Memory<nested>), multiply_one<nested, Y>, job);
}

}  // namespace

void linear_one_cuda(CudaContext& cuda, Tensor x, std::span<const quant::FewProduct> products, const Norm& norm, const After& after) {
  const auto go = [&]<class Y>(Y) {
    Job<Y> job{.columns = int(x.shape[1]), .x = at<const bf16_t>(x), .norm = Floats(norm.weight), .eps = norm.eps, .offset = norm.offset,
               .gated = at<Y>(after.gated), .gelu = after.activation == Activation::gelu_tanh, .position = at<const int32_t>(after.turn.positions),
               .inv_freq = at<const float>(after.turn.inv_freq), .factor = after.turn.factor};
    for (const auto& [y, w, c] : products) {
      const int i = job.count++;
      const bool turns = after.turn && i < 2;
      job.of[i] = {at<Y>(y), at<const Y>(c), Floats(after.bias[size_t(i)]), Bytes4(*w), job.tiles, turns ? int(after.turn.head_dim) / 2 : 0};
      job.tiles += int(w->shape[0]) / tile_rows;
    }
    products.front().w->format == quant::FormatId::nf4_dq ? run<true>(cuda, job) : run<false>(cuda, job);
  };
  if (products.front().y.dtype == DType::f32) go(float{});
  else go(bf16_t{});
}

}  // namespace thimble::ops
