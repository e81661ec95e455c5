// Attention against a float64 softmax over the whole matrix: odd sizes, grouped heads, packed documents, a cache, one-token decode.
#include "ops/attention.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case {
  int64_t tokens, heads, groups, dim, first = 0;
  int64_t document = 0;  // length of the packed documents; 0: one document
  int64_t spare = 0;     // keys of the cache beyond the last query, never to be looked at
  int64_t window = 0;
  double cap = 0;
  int64_t longest = 0;   // what the plan is told of documents
  int64_t keys() const { return first + tokens; }
  int64_t start(int64_t t) const { return document ? (first + t) / document * document : 0; }
  int64_t low(int64_t t) const { return window ? std::max(start(t), first + t + 1 - window) : start(t); }
  double capped(double s) const { return cap > 0 ? cap * std::tanh(s / cap) : s; }
  double scale() const { return double(float(1 / std::sqrt(double(dim)))); }
};

constexpr Case cases[] = {
    {.tokens = 1, .heads = 1, .groups = 1, .dim = 6},
    {.tokens = 17, .heads = 9, .groups = 3, .dim = 6},
    {.tokens = 130, .heads = 2, .groups = 1, .dim = 64},
    {.tokens = 65, .heads = 4, .groups = 4, .dim = 8},
    {.tokens = 130, .heads = 9, .groups = 3, .dim = 48, .document = 37},
    {.tokens = 200, .heads = 3, .groups = 3, .dim = 16, .document = 70},
    {.tokens = 70, .heads = 2, .groups = 2, .dim = 128},
    {.tokens = 33, .heads = 5, .groups = 1, .dim = 7},
    {.tokens = 20, .heads = 2, .groups = 1, .dim = 512},
    {.tokens = 1, .heads = 9, .groups = 3, .dim = 64, .first = 400},
    {.tokens = 1, .heads = 2, .groups = 2, .dim = 6, .first = 129, .spare = 9},
    {.tokens = 4, .heads = 4, .groups = 2, .dim = 37, .first = 250, .document = 83},
    {.tokens = 3, .heads = 3, .groups = 3, .dim = 8, .first = 500, .document = 100},
    {.tokens = 2, .heads = 10, .groups = 2, .dim = 128, .first = 70, .document = 71},
    {.tokens = 17, .heads = 4, .groups = 2, .dim = 64, .first = 113, .spare = 50},
    {.tokens = 80, .heads = 6, .groups = 2, .dim = 48, .first = 33, .document = 41},
    {.tokens = 77, .heads = 7, .groups = 1, .dim = 64},  // from here: the tiles of cuda's tensor cores
    {.tokens = 300, .heads = 4, .groups = 2, .dim = 128, .document = 100},
    {.tokens = 131, .heads = 6, .groups = 2, .dim = 96, .document = 37},
    {.tokens = 70, .heads = 2, .groups = 1, .dim = 256},
    {.tokens = 3, .heads = 8, .groups = 2, .dim = 256, .first = 150, .spare = 40},
    {.tokens = 150, .heads = 6, .groups = 3, .dim = 24, .window = 2},  // from here: windows and caps
    {.tokens = 150, .heads = 6, .groups = 2, .dim = 24, .document = 40, .window = 7},
    {.tokens = 300, .heads = 4, .groups = 2, .dim = 64, .document = 200, .window = 65},
    {.tokens = 200, .heads = 2, .groups = 2, .dim = 128, .window = 500},
    {.tokens = 1, .heads = 6, .groups = 3, .dim = 24, .first = 300, .window = 70},
    {.tokens = 33, .heads = 6, .groups = 2, .dim = 64, .first = 100, .document = 120, .window = 20},
    {.tokens = 70, .heads = 6, .groups = 3, .dim = 24, .cap = 3},
    {.tokens = 200, .heads = 4, .groups = 2, .dim = 128, .document = 90, .window = 50, .cap = 5},
    {.tokens = 131, .heads = 4, .groups = 2, .dim = 256, .window = 33, .cap = 50},
    {.tokens = 2, .heads = 4, .groups = 2, .dim = 48, .first = 90, .window = 60, .cap = 2},
};

std::string text(const Case& c, DType t) {
  return label(t) + fmt::format(" T {} H {} K {} D {} first {} document {}", c.tokens, c.heads, c.groups, c.dim, c.first, c.document) +
         fmt::format(" window {} cap {}", c.window, c.cap);
}

struct Reference { Numbers y, lse; };

Reference reference(const Numbers& q, const Numbers& k, const Numbers& v, const Case& c) {
  Reference r{Numbers(q.size()), Numbers(size_t(c.heads * c.tokens))};
  for (int64_t h = 0; h < c.heads; ++h)
    for (int64_t t = 0; t < c.tokens; ++t) {
      const double* query = &q[size_t((t * c.heads + h) * c.dim)];
      const auto key_of = [&](const Numbers& x, int64_t j) { return &x[size_t((j * c.groups + h / (c.heads / c.groups)) * c.dim)]; };
      Numbers p;
      double most = -INFINITY, total = 0;
      for (int64_t j = c.low(t); j <= c.first + t; ++j) {
        double s = 0;
        for (int64_t d = 0; d < c.dim; ++d) s += query[d] * key_of(k, j)[d];
        p.push_back(c.capped(s * c.scale()));
        most = std::max(most, p.back());
      }
      for (double& x : p) total += x = std::exp(x - most);
      r.lse[size_t(h * c.tokens + t)] = most + std::log(total);
      double* y = &r.y[size_t((t * c.heads + h) * c.dim)];
      for (int64_t j = c.low(t); j <= c.first + t; ++j)
        for (int64_t d = 0; d < c.dim; ++d) y[d] += p[size_t(j - c.low(t))] / total * key_of(v, j)[d];
    }
  return r;
}

struct Tensors { Tensor q, k, v, y, lse, dy; AttentionGrad d; };

AttentionShape shape_of(World& world, const Case& c) {
  std::vector<int32_t> start;
  for (int64_t t = 0; t < c.tokens; ++t) start.push_back(int32_t(c.start(t)));
  const int64_t length = c.document ? c.document : c.tokens;
  return {.start = world.ints(start), .longest = c.longest, .document = c.first == 0 && c.tokens % length == 0 ? length : 0, .first = c.first, .scale = float(c.scale()), .window = c.window, .cap = float(c.cap)};
}

Tensors run(World& world, const Case& c, DType t, bool backward) {
  const Shape queries{c.tokens, c.heads, c.dim}, keys{c.keys() + c.spare, c.groups, c.dim};
  Tensors v{.q = world.normal(t, queries, 1, 2), .k = world.normal(t, keys, 2), .v = world.normal(t, keys, 3), .y = world.empty(t, queries),
            .lse = world.empty(DType::f32, {c.heads, c.tokens}), .dy = world.normal(t, queries, 4),
            .d = {world.empty(t, queries), world.empty(t, keys), world.empty(t, keys)}};
  if (c.spare && !world.is_phantom())  // whoever looks at it finds NaN
    for (const Tensor& x : {v.k, v.v}) {
      const Tensor rest = x.rows(c.keys(), c.spare);
      world.write(rest, Numbers(size_t(rest.count()), NAN));
    }
  const AttentionShape shape = shape_of(world, c);
  attention(world, v.y, v.lse, v.q, v.k, v.v, shape);
  if (backward) attention_backward(world, v.d, v.dy, v.y, v.lse, v.q, v.k, v.v, shape);
  return v;
}

TEST(Attention, AgreesWithFloat64) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(text(c, t));
      World world;
      const Tensors v = run(world, c, t, false);
      const Reference r = reference(world.read(v.q), world.read(v.k), world.read(v.v), c);
      EXPECT_LE(relative_error(world.read(v.y), r.y), tolerance(t));
      EXPECT_LE(relative_error(world.read(v.lse), r.lse), 2e-6);
      const Tensor y = world.empty(t, v.y.shape);
      attention(world, y, Tensor{}, v.q, v.k, v.v, shape_of(world, c));
      EXPECT_EQ(world.bytes(y), world.bytes(v.y));
    }
}

TEST(Attention, GradientIsThatOfCentralDifferences) {
  for (const Case& c : {Case{.tokens = 1, .heads = 1, .groups = 1, .dim = 6}, Case{.tokens = 9, .heads = 4, .groups = 2, .dim = 6},
                        Case{.tokens = 13, .heads = 3, .groups = 1, .dim = 7, .document = 5},
                        Case{.tokens = 70, .heads = 2, .groups = 1, .dim = 2}, Case{.tokens = 13, .heads = 4, .groups = 2, .dim = 6, .window = 4},
                        Case{.tokens = 13, .heads = 4, .groups = 2, .dim = 6, .document = 8, .window = 5, .cap = 1.5}}) {
    SCOPED_TRACE(text(c, DType::f32));
    World world;
    const Tensors t = run(world, c, DType::f32, true);
    Numbers q = world.read(t.q), k = world.read(t.k), v = world.read(t.v);
    const Numbers dy = world.read(t.dy);
    const auto loss = [&] { return dot(dy, reference(q, k, v, c).y); };
    EXPECT_LE(relative_error(world.read(t.d.dv), central_differences(v, loss)), 3e-6);
    if (c.tokens == 1) {  // a softmax over one key does not depend on q and k
      for (const Tensor& d : {t.d.dq, t.d.dk})
        for (const double x : world.read(d)) EXPECT_NEAR(x, 0, 1e-6);
      continue;
    }
    EXPECT_LE(relative_error(world.read(t.d.dq), central_differences(q, loss)), 3e-6);
    EXPECT_LE(relative_error(world.read(t.d.dk), central_differences(k, loss)), 3e-6);
  }
}

// Too large for differences: the gradient written out in float64.
struct Gradient { Numbers dq, dk, dv; };

Gradient reference_gradient(const Numbers& q, const Numbers& k, const Numbers& v, const Numbers& dy, const Reference& r, const Case& c) {
  Gradient g{Numbers(q.size()), Numbers(k.size()), Numbers(v.size())};
  const auto n = size_t(c.dim);
  for (int64_t h = 0; h < c.heads; ++h)
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto a = size_t((t * c.heads + h) * c.dim);
      double delta = 0;
      for (size_t d = 0; d < n; ++d) delta += dy[a + d] * r.y[a + d];
      for (int64_t j = c.low(t); j <= t; ++j) {
        const auto b = size_t((j * c.groups + h / (c.heads / c.groups)) * c.dim);
        double s = 0, dp = 0;
        for (size_t d = 0; d < n; ++d) s += q[a + d] * k[b + d], dp += dy[a + d] * v[b + d];
        const double score = c.capped(s * c.scale()), slope = c.cap > 0 ? 1 - score / c.cap * (score / c.cap) : 1;
        const double p = std::exp(score - r.lse[size_t(h * c.tokens + t)]), ds = p * (dp - delta) * slope * c.scale();
        for (size_t d = 0; d < n; ++d) {
          g.dq[a + d] += ds * k[b + d];
          g.dk[b + d] += ds * q[a + d];
          g.dv[b + d] += p * dy[a + d];
        }
      }
    }
  return g;
}

TEST(Attention, GradientOfLargeCasesAgreesWithFloat64) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      if (c.first > 0 || c.tokens == 1) continue;
      SCOPED_TRACE(text(c, t));
      World world;
      const Tensors x = run(world, c, t, true);
      const Numbers q = world.read(x.q), k = world.read(x.k), v = world.read(x.v), dy = world.read(x.dy);
      const Gradient g = reference_gradient(q, k, v, dy, reference(q, k, v, c), c);
      const double bound = t == DType::f32 ? 4e-6 : 1.0 / 64;  // bf16: y is rounded before delta reads it
      EXPECT_LE(relative_error(world.read(x.d.dq), g.dq), bound);
      EXPECT_LE(relative_error(world.read(x.d.dk), g.dk), bound);
      EXPECT_LE(relative_error(world.read(x.d.dv), g.dv), bound);
    }
}

// What cuDNN is asked for on cuda, where bits need not repeat: documents of one length, with caps, windows and heads of 256 channels.
TEST(Attention, DocumentsOfOneLengthAgreeWithFloat64) {
  for (Case c : {Case{.tokens = 256, .heads = 4, .groups = 2, .dim = 128, .document = 128}, Case{.tokens = 180, .heads = 2, .groups = 2, .dim = 64, .document = 90},
                        Case{.tokens = 200, .heads = 4, .groups = 2, .dim = 128, .document = 100, .window = 33},
                        Case{.tokens = 200, .heads = 4, .groups = 2, .dim = 256},
                        Case{.tokens = 256, .heads = 4, .groups = 2, .dim = 128, .document = 128, .cap = 5},
                        Case{.tokens = 300, .heads = 6, .groups = 2, .dim = 128, .document = 150, .window = 40, .cap = 50},
                        Case{.tokens = 180, .heads = 4, .groups = 2, .dim = 256, .document = 90, .cap = 3},
                        Case{.tokens = 200, .heads = 2, .groups = 1, .dim = 256, .window = 70, .cap = 50}}) {
    c.longest = c.document ? c.document : c.tokens;
    SCOPED_TRACE(text(c, DType::bf16));
    constexpr int64_t capacity = int64_t{64} << 20;
    World world(device_as_run(), capacity), phantom(phantom_device(spec_as_run()), capacity);
    const Tensors x = run(world, c, DType::bf16, true);
    run(phantom, c, DType::bf16, true);
    EXPECT_EQ(difference(world.ledger(), phantom.ledger()), "");
    const Numbers q = world.read(x.q), k = world.read(x.k), v = world.read(x.v), dy = world.read(x.dy);
    const Reference r = reference(q, k, v, c);
    const Gradient g = reference_gradient(q, k, v, dy, r, c);
    EXPECT_LE(relative_error(world.read(x.y), r.y), tolerance(DType::bf16));
    EXPECT_LE(relative_error(world.read(x.d.dq), g.dq), 1.0 / 64);
    EXPECT_LE(relative_error(world.read(x.d.dk), g.dk), 1.0 / 64);
    EXPECT_LE(relative_error(world.read(x.d.dv), g.dv), 1.0 / 64);
  }
}

TEST(Attention, DocumentsDoNotSeeEachOther) {
  World world;
  const Case packed{.tokens = 111, .heads = 4, .groups = 2, .dim = 8, .document = 37};
  const Case alone{.tokens = 37, .heads = 4, .groups = 2, .dim = 8};
  const Tensors all = run(world, packed, DType::f32, true);
  for (int64_t i = 0; i < 3; ++i) {
    const auto part = [&](Tensor x) { return x.rows(37 * i, 37); };
    const Tensor y = world.empty(DType::f32, part(all.y).shape), lse = world.empty(DType::f32, {4, 37});
    const Shape keys = part(all.k).shape;
    const AttentionGrad d{world.empty(DType::f32, y.shape), world.empty(DType::f32, keys), world.empty(DType::f32, keys)};
    const AttentionShape shape = shape_of(world, alone);
    attention(world, y, lse, part(all.q), part(all.k), part(all.v), shape);
    attention_backward(world, d, part(all.dy), y, lse, part(all.q), part(all.k), part(all.v), shape);
    EXPECT_LE(relative_error(world.read(y), world.read(part(all.y))), 1e-6);
    EXPECT_LE(relative_error(world.read(d.dq), world.read(part(all.d.dq))), 1e-6);
    EXPECT_LE(relative_error(world.read(d.dk), world.read(part(all.d.dk))), 1e-6);
    EXPECT_LE(relative_error(world.read(d.dv), world.read(part(all.d.dv))), 1e-6);
  }
}

// Sequences of other lengths, each with keys and values of its own: as each alone, to the bit, and the token's own key and value lie there for the next one.
TEST(Attention, SequencesAreAsEachAlone) {
  struct Sizes { int64_t heads, groups, dim, window = 0; double cap = 0; };
  for (const auto& [heads, groups, dim, window, cap] : {Sizes{9, 3, 64}, {8, 2, 128}, {4, 4, 128, 33}, {6, 1, 256, 0, 5}, {10, 2, 48}, {18, 2, 64}})
    for (const DType t : {DType::f32, DType::bf16}) {
      World world(device_under_test(), int64_t{64} << 20);
      const std::vector<int64_t> firsts{5, 0, 70, 700, 31, 1500, 257};
      const auto n = int64_t(firsts.size());
      const Tensor q = world.normal(t, {n, heads, dim}, 1), k = world.normal(t, {n, groups, dim}, 2), v = world.normal(t, {n, groups, dim}, 3), y = world.empty(t, q.shape), alone = world.empty(t, q.shape);
      std::vector<Cached> all, others;
      for (int64_t i = 0; i < n; ++i) {
        const Shape shape{firsts[size_t(i)] + 3, groups, dim};
        const auto draw = uint64_t(10 + 2 * i);
        all.push_back({world.normal(t, shape, draw), world.normal(t, shape, draw + 1), firsts[size_t(i)]});
        others.push_back({world.normal(t, shape, draw), world.normal(t, shape, draw + 1), firsts[size_t(i)]});
      }
      const AttentionShape shape{.start = world.ints(std::vector<int32_t>(size_t(n))), .scale = 0.125f, .window = window, .cap = float(cap)};
      attention(world, y, q, k, v, all, shape);
      for (int64_t i = 0; i < n; ++i) {
        const auto& [keys, values, first] = others[size_t(i)];
        world.write(keys.rows(first, 1), world.read(k.rows(i, 1)));
        world.write(values.rows(first, 1), world.read(v.rows(i, 1)));
        AttentionShape own = shape;
        own.start = shape.start.rows(i, 1), own.first = first;
        attention(world, alone.rows(i, 1), {}, q.rows(i, 1), keys, values, own);
        EXPECT_EQ(world.read(all[size_t(i)].keys), world.read(keys));
        EXPECT_EQ(world.read(all[size_t(i)].values), world.read(values));
      }
      EXPECT_EQ(world.read(y), world.read(alone)) << label(t) << " D " << dim << " H " << heads << " K " << groups;
    }
}

TEST(Attention, LargeScoresDoNotOverflow) {
  World world;
  const Case c{.tokens = 70, .heads = 1, .groups = 1, .dim = 16};
  const Shape shape{70, 1, 16};
  const Tensor q = world.normal(DType::f32, shape, 1, 300), v = world.normal(DType::f32, shape, 3), y = world.empty(DType::f32, shape);
  attention(world, y, Tensor{}, q, q, v, shape_of(world, c));
  EXPECT_LE(relative_error(world.read(y), reference(world.read(q), world.read(q), world.read(v), c).y), 1e-4);
}

TEST(Attention, PhantomAndThreads) {
  for (const DType t : {DType::f32, DType::bf16}) {
    const Case c{.tokens = 130, .heads = 9, .groups = 3, .dim = 6, .document = 37};
    const Case decode{.tokens = 1, .heads = 9, .groups = 3, .dim = 48, .first = 300};
    expect_phantom_agrees([&](World& world) {
      run(world, c, t, true);
      run(world, decode, t, false);
    });
    expect_threads_change_nothing([&](World& world) {
      const Tensors v = run(world, c, t, true), one = run(world, decode, t, false);
      return std::vector<Tensor>{v.y, v.lse, v.d.dq, v.d.dk, v.d.dv, one.y};
    });
  }
}

TEST(Attention, WorkDependsOnShapesAlone) {
  World one(phantom_device({})), many(phantom_device({}));
  run(one, {.tokens = 64, .heads = 2, .groups = 1, .dim = 8}, DType::f32, true);
  run(many, {.tokens = 64, .heads = 2, .groups = 1, .dim = 8, .document = 4}, DType::f32, true);
  EXPECT_EQ(difference(one.ledger(), many.ledger()), "");
  double flops = 0;
  for (const Entry& e : one.ledger().entries()) flops += e.flops;
  EXPECT_EQ(flops, 14.0 * 8 * 2 * (64 * 65 / 2));
}

TEST(Attention, RefusesWhatDoesNotFitTogether) {
  World world(phantom_device({}));
  const Tensor q = world.empty(DType::f32, {4, 6, 8}), k = world.empty(DType::f32, {4, 3, 8}), y = world.empty(DType::f32, {4, 6, 8});
  const AttentionShape shape{.start = world.empty(DType::i32, {4}), .scale = 1};
  AttentionShape late = shape;
  late.first = 1;
  EXPECT_THROW(attention(world, y, Tensor{}, q, k, k, late), Error);
  EXPECT_THROW(attention(world, y, Tensor{}, q, world.empty(DType::f32, {4, 4, 8}), world.empty(DType::f32, {4, 4, 8}), shape), Error);
  EXPECT_THROW(attention(world, y, Tensor{}, q, k, world.empty(DType::bf16, {4, 3, 8}), shape), Error);
  EXPECT_THROW(attention_backward(world, {q, k, k}, y, y, Tensor{}, q, k, k, shape), Error);
}

}  // namespace
}  // namespace thimble::ops
