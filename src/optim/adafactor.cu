// Adafactor on cuda: a block for each row's sums, stripes of rows for the columns'; then two sums in one block each. All in fixed orders.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

constexpr int64_t piece = 1024, stripes = 64;  // as in adafactor.cpp, which takes the scratch
constexpr float tiny = 1e-30f, most = 1;

struct Problem {
  DeviceUpdate u;
  float *first, *column;  // first: moments of rows, or of all elements where column is null
  int64_t rows, width;    // rows of a matrix, pieces of a vector
  float *parts, *mean, *rms, *of_stripes;
  __device__ float square(int64_t i, const float* now) const {
    const float g = u.gradient(i) * now[grad_scale];
    return g * g + tiny;
  }
  __device__ float moved(int64_t r, int64_t i, float g, const float* now) const {
    const float root = column ? 1.0f / sqrtf(float(double(first[r]) / double(*mean))) * (1.0f / sqrtf(column[i - r * width])) : 1.0f / sqrtf(first[i]);
    return root * (g * now[grad_scale]);
  }
  __device__ int64_t end(int64_t r) const { return min((r + 1) * width, u.count); }
};

__global__ void moments(Problem p, const float* now) {
  if (!isfinite(now[grad_scale])) return;
  const int64_t r = blockIdx.x;
  const float beta = now[factored_beta2];
  double total = 0;
  for (int64_t i = r * p.width + threadIdx.x; i < p.end(r); i += threads) {
    if (p.column) total += double(p.square(i, now));
    else p.first[i] = beta * p.first[i] + (1 - beta) * p.square(i, now);
  }
  if (!p.column) return;
  total = block_reduce<threads>(total, Add{});
  if (threadIdx.x == 0) p.first[r] = beta * p.first[r] + (1 - beta) * float(total / double(p.width));
}

__global__ void columns_of_stripe(Problem p, const float* now) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= p.width) return;
  double total = 0;
  for (int64_t r = blockIdx.y; r < p.rows; r += stripes) total += double(p.square(r * p.width + c, now));
  p.of_stripes[blockIdx.y * p.width + c] = float(total);
}

__global__ void columns(Problem p, const float* now) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= p.width || !isfinite(now[grad_scale])) return;
  double total = 0;
  for (int64_t s = 0; s < stripes; ++s) total += double(p.of_stripes[s * p.width + c]);
  const float beta = now[factored_beta2];
  p.column[c] = beta * p.column[c] + (1 - beta) * float(total / double(p.rows));
}

// out = the sum of x over n, divided; or the root of that
__global__ void mean_of(float* out, const float* x, int64_t n, double by, bool root) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += threads) total += double(x[i]);
  total = block_reduce<threads>(total, Add{}) / by;
  if (threadIdx.x == 0) *out = float(root ? sqrt(total) : total);
}

__global__ void squares_of_update(Problem p, const float* now) {
  const int64_t r = blockIdx.x;
  double total = 0;
  for (int64_t i = r * p.width + threadIdx.x; i < p.end(r); i += threads) {
    const double m = double(p.moved(r, i, p.u.gradient(i), now));
    total += m * m;
  }
  total = block_reduce<threads>(total, Add{});
  if (threadIdx.x == 0) p.parts[r] = float(total);
}

__global__ void apply(Problem p, const float* now) {
  if (!isfinite(now[grad_scale])) return;
  const float rate = now[learning_rate] * p.u.rate, size = rate / fmaxf(1.0f, *p.rms / most), decay = rate * p.u.weight_decay;
  change_values(p.u, blockIdx.x, now, [&](int64_t i, float x, float g) { return x - decay * x - size * p.moved(i / p.width, i, g, now); });
}

}  // namespace

void adafactor_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, Tensor parts) {
  const float* now = at<const float>(scalars);
  for (const Update& u : updates) {
    const Shape& shape = u.param.shape;
    if (u.param.count() == 0) continue;
    const bool matrix = shape.rank() == 2;
    const int64_t rows = matrix ? shape[0] : blocks_of(u.param.count(), piece), width = matrix ? shape[1] : piece;
    float* const sums = at<float>(parts);
    const Problem p{DeviceUpdate(u), at<float>(u.states[0]), matrix ? at<float>(u.states[1]) : nullptr, rows, width, sums, sums + rows, sums + rows + 1, sums + rows + 2};
    moments<<<unsigned(rows), threads, 0, cuda.stream>>>(p, now);
    if (matrix) {
      const auto blocks = unsigned(blocks_of(width, threads));
      columns_of_stripe<<<dim3(blocks, unsigned(stripes)), threads, 0, cuda.stream>>>(p, now);
      columns<<<blocks, threads, 0, cuda.stream>>>(p, now);
      mean_of<<<1, threads, 0, cuda.stream>>>(p.mean, p.first, rows, double(rows), false);
    }
    squares_of_update<<<unsigned(rows), threads, 0, cuda.stream>>>(p, now);
    mean_of<<<1, threads, 0, cuda.stream>>>(p.rms, p.parts, rows, double(u.param.count()), true);
    apply<<<unsigned(blocks_of(u.param.count(), draw_group)), threads, 0, cuda.stream>>>(p, now);
  }
  check_cuda(cudaGetLastError(), "adafactor");
}

}  // namespace thimble::optim
