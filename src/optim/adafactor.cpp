// Tensor by tensor, since an update is clipped by its own size. Sums are of rows, or of pieces of a vector, each in order; scratch holds them.
#include "optim/adafactor.h"

#include <algorithm>
#include <cmath>

#include "optim/blocks.h"

namespace thimble::optim {

void adafactor_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, Tensor parts);  // adafactor.cu

namespace {

constexpr int64_t piece = 1024;           // of a vector
constexpr float tiny = 1e-30f, most = 1;  // added to squares; an update's root mean square
constexpr int64_t stripes = 64;           // of rows, whose columns are summed apart on cuda

bool factored(const Shape& s) { return s.rank() == 2; }

struct Rows { int64_t count, width; };
Rows rows_of(const Shape& s) { return factored(s) ? Rows{s[0], s[1]} : Rows{(s.count() + piece - 1) / piece, piece}; }

// f(row, first element, elements)
template <class F>
void each_row(const Shape& s, F&& f) {
  const Rows rows = rows_of(s);
  parallel_for(rows.count, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, rows.width)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r, r * rows.width, std::min(rows.width, s.count() - r * rows.width));
  });
}

double sum(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += double(x[i]);
  return total;
}

// f(g): g(i) is the i-th number of the gradient, as read_gradient has it.
template <class F>
void with_gradient(const Update& u, F&& f) {
  if (u.param.dtype == DType::f32) return f([g = u.grad.get<float>()](int64_t i) { return g[i]; });
  if (u.grad.dtype == DType::f32) return f([g = u.grad.get<float>()](int64_t i) { return float(bf16(g[i])); });
  f([g = u.grad.get<bf16>()](int64_t i) { return float(g[i]); });
}

template <class G>
void update_moments(const Update& u, const G& g, float scale, float beta) {
  const auto square = [&](int64_t i) { return (g(i) * scale) * (g(i) * scale) + tiny; };
  if (!factored(u.param.shape)) {
    float* v = u.states[0].get<float>();
    return each_row(u.param.shape, [&](int64_t, int64_t first, int64_t n) {
      for (int64_t i = first; i < first + n; ++i) v[i] = beta * v[i] + (1 - beta) * square(i);
    });
  }
  float *row = u.states[0].get<float>(), *column = u.states[1].get<float>();
  const int64_t rows = u.param.shape[0], columns = u.param.shape[1];
  each_row(u.param.shape, [&](int64_t r, int64_t first, int64_t n) {
    double total = 0;
    for (int64_t i = first; i < first + n; ++i) total += double(square(i));
    row[r] = beta * row[r] + (1 - beta) * float(total / double(n));
  });
  parallel_for(columns, 16, [&](int64_t begin, int64_t end) {
    constexpr int64_t at_once = 64;
    for (int64_t c = begin; c < end; c += at_once) {
      double totals[at_once] = {};
      const int64_t n = std::min(at_once, end - c);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < n; ++i) totals[i] += double(square(r * columns + c + i));
      for (int64_t i = 0; i < n; ++i) column[c + i] = beta * column[c + i] + (1 - beta) * float(totals[i] / double(rows));
    }
  });
}

template <class G>
void step(const Update& u, const G& g, const float* now, float* parts) {
  const float scale = now[grad_scale], rate = now[learning_rate] * u.rate, decay = rate * u.weight_decay;
  update_moments(u, g, scale, now[factored_beta2]);
  const Shape& shape = u.param.shape;
  const bool two = factored(shape);
  const float *first_state = u.states[0].get<float>(), *column = two ? u.states[1].get<float>() : nullptr;
  const double mean = two ? sum(first_state, shape[0]) / double(shape[0]) : 0;
  // The update of element i of a row that begins at `first`, before it is clipped.
  const auto moved = [&](int64_t r, int64_t first, int64_t i) {
    const float root = two ? 1.0f / std::sqrt(float(double(first_state[r]) / mean)) * (1.0f / std::sqrt(column[i - first])) : 1.0f / std::sqrt(first_state[i]);
    return root * (g(i) * scale);
  };
  each_row(shape, [&](int64_t r, int64_t first, int64_t n) {
    double total = 0;
    for (int64_t i = first; i < first + n; ++i) total += double(moved(r, first, i)) * double(moved(r, first, i));
    parts[r] = float(total);
  });
  const auto rms = float(std::sqrt(sum(parts, rows_of(shape).count) / double(shape.count())));
  const float size = rate / std::max(1.0f, rms / most);
  const int64_t width = rows_of(shape).width;
  for_blocks(std::span(&u, 1), draw_group, 4, [&](const Update&, int64_t first, int64_t n) {
    change_values(u, first, n, now, [&](float* p) {
      for (int64_t at = first; at < first + n;) {  // row by row, or the part of one
        const int64_t r = at / width, end = std::min((r + 1) * width, first + n);
        for (int64_t i = at; i < end; ++i) p[i - first] = p[i - first] - decay * p[i - first] - size * moved(r, r * width, i);
        at = end;
      }
    });
  });
}

}  // namespace

void adafactor_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  if (factored(param)) {
    out[0] = {".row", DType::f32, {param[0]}};
    out[1] = {".column", DType::f32, {param[1]}};
    n = 2;
  } else {
    out[0] = {".v", DType::f32, {param.count()}};
    n = 1;
  }
}

void adafactor_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper&) {
  const Scope scope(s.arena);
  int64_t sums = 0;  // of rows, two scalars; on cuda columns of stripes too
  for (const Update& u : updates) {
    const Shape& shape = u.param.shape;
    const bool columns = factored(shape) && s.device.kind() == DeviceKind::cuda;
    sums = std::max(sums, rows_of(shape).count + 2 + (columns ? stripes * shape[1] : 0));
  }
  const Tensor parts = s.scratch("adafactor sums", DType::f32, {sums});
  launch(
      s, update_work("adafactor", updates, 20),
      [&] {
        const float* now = scalars.get<float>();
        if (!std::isfinite(now[grad_scale])) return;
        for (const Update& u : updates) with_gradient(u, [&](const auto& g) { step(u, g, now, parts.get<float>()); });
      },
      [&](auto& cuda) { adafactor_update_cuda(cuda, updates, scalars, parts); });
}

}  // namespace thimble::optim
