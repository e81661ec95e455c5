// Products of a few tokens with a norm before and a bias, RoPE or a gate after, which may be one kernel on the device: against float64 of the whole, at
// shapes on both sides of what a kernel's pieces, tiles and heads are.
#include "ops/harness.h"
#include "ops/elementwise.h"
#include "ops/linear_one.h"
#include "quant/nf4.h"

namespace thimble::ops {
namespace {

using namespace test;
using quant::FormatId;

struct Held { quant::Weight weight; Numbers values; };

Held hold(World& world, FormatId id, Shape matrix, uint64_t draw) {
  Held h{.weight = {.format = id, .shape = matrix}, .values = {}};
  int count = 0;
  const auto parts = quant::parts_of(id, matrix, DType::bf16, count);
  for (size_t i = 0; i < size_t(count); ++i) h.weight.parts[i] = world.empty(parts[i].dtype, parts[i].shape);
  const Scope scope(world.stream().arena);
  quant::format(id).pack(world, h.weight, world.normal(DType::bf16, matrix, draw, 0.3));
  const Tensor unpacked = world.empty(DType::f32, matrix);
  quant::format(id).unpack(world, unpacked, h.weight);
  if (!world.is_phantom()) h.values = world.read(unpacked);
  return h;
}

double rounded(double x) { return double(float(bf16(float(x)))); }

Numbers normed(const Numbers& x, const Numbers& w, int64_t tokens, double eps, double offset) {
  const size_t n = w.size();
  Numbers y(x.size());
  for (size_t t = 0; t < size_t(tokens); ++t) {
    double squares = 0;
    for (size_t k = 0; k < n; ++k) squares += x[t * n + k] * x[t * n + k];
    for (size_t k = 0; k < n; ++k) y[t * n + k] = rounded(x[t * n + k] / std::sqrt(squares / double(n) + eps) * (w[k] + offset));
  }
  return y;
}

// x . w^T + c + bias
Numbers product(const Numbers& x, const Held& w, const Numbers& c, const Numbers& bias) {
  const auto rows = size_t(w.weight.shape[0]), columns = size_t(w.weight.shape[1]), tokens = x.size() / columns;
  Numbers y(tokens * rows);
  for (size_t t = 0; t < tokens; ++t)
    for (size_t n = 0; n < rows; ++n) {
      double sum = c.empty() ? 0 : c[t * rows + n];
      for (size_t k = 0; k < columns; ++k) sum += x[t * columns + k] * w.values[n * columns + k];
      y[t * rows + n] = sum + (bias.empty() ? 0 : bias[n]);
    }
  return y;
}

void expect_one_kernel(World& world, Tensor x, std::span<const quant::FewProduct> products, const Norm& norm, const After& after) {
  const DeviceSpec& spec = world.stream().device.spec();
  const bool wanted = spec.kind == DeviceKind::cuda && spec.capability >= 90 && x.shape[0] == 1 && quant::format(products[0].w->format).name.starts_with("nf4");
  EXPECT_EQ(linear_is_one(spec, std::array{Few{x, products, norm, after}}), wanted);
}

constexpr FormatId format_ids[] = {FormatId::dense, FormatId::nf4, FormatId::nf4_dq, FormatId::int8};
constexpr int64_t columns_of[] = {64, 448, 512, 896, 3584, 4096, 4160, 6144, 8192, 9472, 33344};
constexpr int64_t bytes = int64_t{16} << 20;

// The rounding of y, in units of the largest: bf16's, or in f32 that of the normed x (divided by its size or not yet, which rounds otherwise) and of the
// code book, which are bf16 there too.
double allowed(DType y) { return y == DType::f32 ? 1.5 / 256 : 1.0 / 128; }

TEST(LinearAround, NormBiasAndSum) {
  for (const FormatId id : format_ids)
    for (const int64_t columns : columns_of)
      for (const DType out : {DType::bf16, DType::f32})
        for (const int64_t tokens : {1, 3}) {
          SCOPED_TRACE(fmt::format("{}, {} columns, {} tokens, to {}", quant::format(id).name, columns, tokens, label(out)));
          World world(device_under_test(), bytes);
          const Held w = hold(world, id, {40, columns}, 1), narrow = hold(world, id, {8, columns}, 2);
          const Tensor x = world.normal(DType::bf16, {tokens, columns}, 3), weight = world.normal(columns % 128 ? DType::f32 : DType::bf16, {columns}, 4, 0.2, 1);
          const Tensor y = world.normal(out, {tokens, 40}, 5), c = world.normal(out, {tokens, 8}, 6), z = world.empty(out, {tokens, 8}), bias = world.normal(DType::bf16, {40}, 7);
          const Norm norm{weight, 1e-5f, 1.0f};
          const After after{.bias = {bias}};
          const std::array products{quant::FewProduct{y, &w.weight, y}, quant::FewProduct{z, &narrow.weight, c}};
          const Numbers n = normed(world.read(x), world.read(weight), tokens, 1e-5, 1), before = world.read(y);
          expect_one_kernel(world, x, products, norm, after);
          const int64_t used = world.stream().arena.used();
          linear_few(world, x, products, norm, after);
          EXPECT_EQ(world.stream().arena.used(), used);
          EXPECT_LE(relative_error(world.read(y), product(n, w, before, world.read(bias))), allowed(out));
          EXPECT_LE(relative_error(world.read(z), product(n, narrow, world.read(c), {})), allowed(out));
        }
}

TEST(LinearAround, QueriesAndKeysTurn) {
  for (const FormatId id : format_ids)
    for (const int64_t dim : {8, 16, 64, 128})
      for (const int64_t tokens : {1, 3}) {
        SCOPED_TRACE(fmt::format("{}, heads of {}, {} tokens", quant::format(id).name, dim, tokens));
        World world(device_under_test(), bytes);
        const int64_t columns = 576;
        const Held q = hold(world, id, {3 * dim, columns}, 1), k = hold(world, id, {dim, columns}, 2), v = hold(world, id, {dim, columns}, 3);
        const Tensor x = world.normal(DType::bf16, {tokens, columns}, 4), weight = world.normal(DType::bf16, {columns}, 5, 0.2, 1), bias = world.normal(DType::bf16, {dim}, 6);
        const auto empty = [&](const Held& w) { return world.empty(DType::bf16, {tokens, w.weight.shape[0]}); };
        const Tensor to_q = empty(q), to_k = empty(k), to_v = empty(v);
        std::vector<int32_t> positions;
        Numbers inv_freq;
        for (int64_t t = 0; t < tokens; ++t) positions.push_back(int32_t(7013 + 11 * t));
        for (int64_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * double(i) / double(dim)));
        After after{.bias = {Tensor{}, bias}};
        after.turn = {world.ints(positions), world.from(DType::f32, {dim / 2}, inv_freq), 1.25f, dim};
        const Norm norm{weight, 1e-5f, 0.0f};
        const std::array products{quant::FewProduct{to_q, &q.weight}, quant::FewProduct{to_k, &k.weight}, quant::FewProduct{to_v, &v.weight}};
        const Numbers n = normed(world.read(x), world.read(weight), tokens, 1e-5, 0), frequencies = world.read(after.turn.inv_freq);
        expect_one_kernel(world, x, products, norm, after);
        linear_few(world, x, products, norm, after);
        const auto turned = [&](Numbers y) {
          const int64_t heads = int64_t(y.size()) / tokens / dim;
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t h = 0; h < heads; ++h)
              for (int64_t i = 0; i < dim / 2; ++i) {
                const double angle = double(float(positions[size_t(t)]) * float(frequencies[size_t(i)])), cosine = 1.25 * std::cos(angle), sine = 1.25 * std::sin(angle);
                double& low = y[size_t((t * heads + h) * dim + i)];
                double& high = y[size_t((t * heads + h) * dim + i + dim / 2)];
                const double a = rounded(low), b = rounded(high);
                low = a * cosine - b * sine, high = b * cosine + a * sine;
              }
          return y;
        };
        EXPECT_LE(relative_error(world.read(to_q), turned(product(n, q, {}, {}))), 2 * allowed(DType::bf16));
        EXPECT_LE(relative_error(world.read(to_k), turned(product(n, k, {}, world.read(bias)))), 2 * allowed(DType::bf16));
        EXPECT_LE(relative_error(world.read(to_v), product(n, v, {}, {})), allowed(DType::bf16));
      }
}

TEST(LinearAround, GateAndUpJoin) {
  for (const FormatId id : format_ids)
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh})
      for (const int64_t tokens : {1, 3}) {
        SCOPED_TRACE(fmt::format("{}, {} tokens", quant::format(id).name, tokens));
        World world(device_under_test(), bytes);
        const int64_t columns = 1088, rows = 72;
        const Held gate = hold(world, id, {rows, columns}, 1), up = hold(world, id, {rows, columns}, 2);
        const Tensor x = world.normal(DType::bf16, {tokens, columns}, 3, 0.05);
        const auto empty = [&] { return world.empty(DType::bf16, {tokens, rows}); };
        const Tensor to_gate = empty(), to_up = empty();
        After after;
        after.gated = empty(), after.activation = activation;
        const std::array products{quant::FewProduct{to_gate, &gate.weight}, quant::FewProduct{to_up, &up.weight}};
        expect_one_kernel(world, x, products, {}, after);
        linear_few(world, x, products, {}, after);
        const Numbers g = product(world.read(x), gate, {}, {}), u = product(world.read(x), up, {}, {});
        Numbers expected(g.size());
        for (size_t i = 0; i < g.size(); ++i) {
          const double z = activation == Activation::silu ? g[i] : 2 * std::sqrt(2 / M_PI) * (g[i] + 0.044715 * g[i] * g[i] * g[i]);
          expected[i] = g[i] / (1 + std::exp(-z)) * u[i];
        }
        EXPECT_LE(relative_error(world.read(after.gated), expected), 2 * allowed(DType::bf16));
      }
}

// What follows attention: the second link reads what the first wrote, the third what the second did; a small link leaves blocks without a tile. Where the
// second link is long, the third begins with the first columns of x while the last are made.
TEST(LinearAround, AChainIsItsLinksOneByOne) {
  for (const FormatId id : format_ids)
    for (const Shape& sizes : {Shape{64, 192}, Shape{576, 1600}, Shape{1024, 4160}, Shape{448, 9920}}) {
      const int64_t hidden = sizes[0], inner = sizes[1];
      SCOPED_TRACE(fmt::format("{}, {} and {} columns", quant::format(id).name, hidden, inner));
      World world(device_under_test(), int64_t{64} << 20);
      const Held o = hold(world, id, {hidden, hidden}, 1), gate = hold(world, id, {inner, hidden}, 2), up = hold(world, id, {inner, hidden}, 3), down = hold(world, id, {hidden, inner}, 4);
      const Tensor attended = world.normal(DType::bf16, {1, hidden}, 5), x = world.normal(DType::bf16, {1, hidden}, 6), weight = world.normal(DType::bf16, {hidden}, 7, 0.2, 1);
      const auto row = [&](int64_t n) { return world.filled(DType::bf16, {1, n}, 0); };
      const auto run = [&](bool together, bool after) {
        const Tensor out = row(hidden), mid = after ? row(hidden) : out, to_gate = row(inner), to_up = row(inner), act = row(inner), y = row(hidden);
        const std::array first{quant::FewProduct{out, &o.weight, after ? Tensor{} : x}};
        const std::array second{quant::FewProduct{to_gate, &gate.weight}, quant::FewProduct{to_up, &up.weight}};
        const std::array third{quant::FewProduct{y, &down.weight, after ? Tensor{} : mid}};
        const Join join = after ? Join{out, x, {weight, 1e-5f, 1.0f}} : Join{};
        const std::array chain{Few{.x = attended, .products = first}, Few{mid, second, {weight, 1e-5f, 0.0f}, {.gated = act}, join}, Few{.x = act, .products = third}};
        if (together) linear_few(world, chain);
        else for (const Few& f : chain) linear_few(world, std::span(&f, 1));
        return std::pair(world.bytes(mid), world.bytes(y));
      };
      for (const bool after : {false, true}) {
        const auto one_by_one = run(false, after);
        for (int again = 0; again < 20; ++again) ASSERT_EQ(run(true, after), one_by_one) << again;
      }
    }
}

// What a norm after attention leaves: the sum that the next half reads is made first, by every block, and stays for who adds it later.
TEST(LinearAround, XIsJoinedFirst) {
  for (const FormatId id : format_ids)
    for (const int64_t columns : columns_of)
      for (const int64_t tokens : {1, 3}) {
        SCOPED_TRACE(fmt::format("{}, {} columns, {} tokens", quant::format(id).name, columns, tokens));
        World world(device_under_test(), bytes);
        const Held w = hold(world, id, {40, columns}, 1);
        const auto of_x = [&](uint64_t draw) { return world.normal(DType::bf16, {tokens, columns}, draw); };
        const DType type = columns % 128 ? DType::f32 : DType::bf16;
        const Tensor part = of_x(2), residual = of_x(3), x = of_x(4), y = world.empty(DType::bf16, {tokens, 40});
        const Norm after{world.normal(type, {columns}, 5, 0.2, 1), 1e-6f, 1.0f}, before{world.normal(type, {columns}, 6, 0.2, 1), 1e-5f, 0.0f};
        const std::array products{quant::FewProduct{y, &w.weight}};
        linear_few(world, std::array{Few{.x = x, .products = products, .norm = before, .join = {part, residual, after}}});
        Numbers sum = normed(world.read(part), world.read(after.weight), tokens, 1e-6, 1);
        const Numbers r = world.read(residual);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += r[i];
        EXPECT_LE(relative_error(world.read(x), sum), 2 * tolerance(DType::bf16));
        EXPECT_LE(relative_error(world.read(y), product(normed(world.read(x), world.read(before.weight), tokens, 1e-5, 0), w, {}, {})), allowed(DType::bf16));
      }
}

// y of one query and the keys that it sees.
Numbers attention_of_one(const Numbers& q, const Numbers& keys, const Numbers& values, int64_t heads, int64_t groups, int64_t dim, const AttentionShape& a) {
  Numbers y(q.size());
  const int64_t low = a.window > 0 ? std::max<int64_t>(0, a.first + 1 - a.window) : 0;
  for (int64_t h = 0; h < heads; ++h) {
    const auto vector = [&](int64_t key) { return (key * groups + h / (heads / groups)) * dim; };
    Numbers weight;
    double sum = 0;
    for (int64_t key = low; key <= a.first; ++key) {
      double score = 0;
      for (int64_t c = 0; c < dim; ++c) score += q[size_t(h * dim + c)] * keys[size_t(vector(key) + c)];
      score *= double(a.scale);
      weight.push_back(std::exp(a.cap > 0 ? double(a.cap) * std::tanh(score / double(a.cap)) : score));
      sum += weight.back();
    }
    for (int64_t key = low; key <= a.first; ++key)
      for (int64_t c = 0; c < dim; ++c) y[size_t(h * dim + c)] += weight[size_t(key - low)] / sum * values[size_t(vector(key) + c)];
  }
  return y;
}

// A whole layer: attention stands between the products of its queries, keys and values and that of what it makes; it reads keys of earlier tokens too.
TEST(LinearAround, ALayerIsItsLinksOneByOne) {
  struct Sizes { int64_t hidden, inner, heads, groups, dim; };
  struct Keys { int64_t first, window; float cap; bool normed = false; };
  for (const FormatId id : {FormatId::dense, FormatId::nf4, FormatId::nf4_dq})
    for (const Sizes& sizes : {Sizes{256, 576, 4, 4, 64}, Sizes{1024, 1600, 8, 2, 128}, Sizes{448, 192, 7, 1, 64}, Sizes{640, 192, 32, 2, 64}, Sizes{192, 192, 2, 1, 32}, Sizes{8192, 64, 8, 1, 128}})
      for (const Keys& before : {Keys{0, 0, 0}, Keys{4, 0, 0}, Keys{299, 0, 30}, Keys{299, 100, 0}, Keys{2999, 0, 0}, Keys{0, 0, 0, true}, Keys{299, 0, 30, true}, Keys{2999, 0, 0, true}}) {
        const auto& [hidden, inner, heads, groups, dim] = sizes;
        if (hidden == 8192 && before.first == 2999) continue;
        SCOPED_TRACE(fmt::format("{}, {} and {} columns, {} heads of {} and {} of keys, {} before, a window of {}{}", quant::format(id).name, hidden, inner, heads, dim, groups, before.first, before.window,
                                 before.normed ? ", normed" : ""));
        World world(device_under_test(), int64_t{96} << 20);
        const Held wq = hold(world, id, {heads * dim, hidden}, 1), wk = hold(world, id, {groups * dim, hidden}, 2), wv = hold(world, id, {groups * dim, hidden}, 3), wo = hold(world, id, {hidden, heads * dim}, 4);
        const Held gate = hold(world, id, {inner, hidden}, 5), up = hold(world, id, {inner, hidden}, 6), down = hold(world, id, {hidden, inner}, 7);
        const Tensor x = world.normal(DType::bf16, {1, hidden}, 8), weight = world.normal(DType::bf16, {hidden}, 9, 0.02, 0.1);
        const Tensor keys = world.normal(DType::bf16, {before.first + 1, groups * dim}, 10), values = world.normal(DType::bf16, {before.first + 1, groups * dim}, 11);
        Numbers inv_freq;
        for (int64_t i = 0; i < dim / 2; ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * double(i) / double(dim)));
        const Turn turn{world.ints({int32_t(before.first)}), world.from(DType::f32, {dim / 2}, inv_freq), 1.0f, dim};
        const AttentionShape shape{.start = world.ints({0}), .first = before.first, .scale = 1 / std::sqrt(float(dim)), .window = before.window, .cap = before.cap};
        const auto row = [&](int64_t n) { return world.filled(DType::bf16, {1, n}, 0); };
        const Tensor to_q = row(heads * dim), attended = row(heads * dim), mid = row(hidden), to_gate = row(inner), to_up = row(inner), act = row(inner), y = row(hidden);
        const auto of_heads = [d = sizes.dim](const Tensor& t) { return t.view({t.shape[0], t.shape[1] / d, d}); };
        const Norm norm{weight, 1e-5f, 0.0f};
        const Tensor cached = keys.rows(before.first, 1), own = before.normed ? row(groups * dim) : cached;
        const HeadNorms norms{{world.normal(DType::bf16, {dim}, 12, 0.2, 1), world.normal(DType::bf16, {dim}, 13, 0.2, 1)}, 1e-6f, 0.5f};
        Attend attend{of_heads(to_q), of_heads(keys), of_heads(values), shape};
        if (before.normed) attend.norms = norms, attend.turn = turn, attend.last = own;
        const std::array qkv{quant::FewProduct{to_q, &wq.weight}, quant::FewProduct{own, &wk.weight}, quant::FewProduct{values.rows(before.first, 1), &wv.weight}};
        const std::array out{quant::FewProduct{mid, &wo.weight, x}}, last{quant::FewProduct{y, &down.weight, mid}};
        const std::array both{quant::FewProduct{to_gate, &gate.weight}, quant::FewProduct{to_up, &up.weight}};
        const std::array chain{Few{x, qkv, norm, {.turn = before.normed ? Turn{} : turn}}, Few{.x = attended, .products = out, .attend = attend},
                               Few{mid, both, norm, {.gated = act}}, Few{.x = act, .products = last}};
        const auto run = [&](bool together) {
          for (const Tensor& t : {to_q, cached, attended, mid, act, y}) zero(world, t);
          if (together) linear_few(world, chain);
          else for (const Few& f : chain) linear_few(world, std::span(&f, 1));
          return world.bytes(y);
        };
        const DeviceSpec& spec = world.stream().device.spec();
        EXPECT_EQ(linear_is_one(spec, chain), spec.kind == DeviceKind::cuda && spec.capability >= 90 && id != FormatId::dense && dim != 32);
        const int64_t used = world.stream().arena.used();
        const auto one_by_one = run(false);
        for (int again = 0; again < 10; ++again) ASSERT_EQ(run(true), one_by_one) << again;
        EXPECT_EQ(world.stream().arena.used(), used);
        const Numbers made = world.read(attended);
        if (before.normed) {
          linear_few(world, std::span(chain).first(1));
          norm_and_rope(world, {of_heads(to_q), of_heads(own)}, norms, turn.positions, turn.inv_freq, turn.factor);
          EXPECT_LE(relative_error(world.read(cached), world.read(own)), 2 * tolerance(DType::bf16));
        }
        EXPECT_LE(relative_error(made, attention_of_one(world.read(to_q), world.read(keys), world.read(values), heads, groups, dim, shape)), allowed(DType::bf16));
        EXPECT_LE(relative_error(world.read(mid), product(made, wo, world.read(x), {})), allowed(DType::bf16));
      }
}

// A cuda card is planned on a machine that has none: what is one kernel there is one entry of its ledger.
TEST(LinearAround, APhantomCardHasOneEntry) {
  for (const int capability : {80, 90}) {
    DeviceSpec spec;
    spec.kind = DeviceKind::cuda, spec.capability = capability, spec.compute = DType::bf16;
    World world(phantom_device(spec), bytes);
    const Held w = hold(world, FormatId::nf4_dq, {64, 512}, 1);
    const Tensor x = world.empty(DType::bf16, {1, 512}), weight = world.empty(DType::bf16, {512}), y = world.empty(DType::bf16, {1, 64});
    const size_t before = world.ledger().entries().size();
    linear_few(world, x, std::array{quant::FewProduct{y, &w.weight}}, {weight, 1e-5f, 0.0f});
    EXPECT_EQ(world.ledger().entries().size() - before == 1, capability == 90);
  }
}

}  // namespace
}  // namespace thimble::ops
