// Several sequences at a time get the tokens that each gets alone, and a layer with a window that keeps only its window gives the numbers of one
// that keeps all; in arenas of exactly the planned bytes.
#include <gtest/gtest.h>

#include <utility>

#include "base/philox.h"
#include "serve/engine.h"
#include "serve/host_sampler.h"
#include "store/weight_source.h"

namespace thimble::serve {
namespace {

nn::ModelSpec model(int64_t window) {
  nn::ModelSpec m{.family = "llama", .vocab = 101, .hidden = 64, .max_positions = 128, .tied_head = true, .dtype = "float32"};
  m.layers.assign(3, {.heads = 6, .kv_heads = 3, .head_dim = 8, .ffn = 128});
  m.layers[0].window = m.layers[2].window = window;  // between them one that sees all
  return m;
}

struct Machine {
  explicit Machine(const EngineShape& shape, const DeviceSpec& spec = {})
      : outcome(Engine::rehearse(spec, shape)), device(cpu_device(spec)), rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]}), engine(rank, shape) {
    engine.load(store::random_weights(engine.model().weights().table(), 5, 0.3f).get());
  }
  plan::Outcome outcome;
  std::unique_ptr<Device> device;
  comm::Rank rank;
  Engine engine;
};

std::vector<int32_t> prompt(uint64_t seed, int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(int32_t(philox(1, seed, uint64_t(t))[0] % 101));
  return ids;
}

struct Asked { std::vector<int32_t> prompt; int64_t limit; Sampling how; };

std::vector<Asked> some() {
  std::vector<Asked> all;
  for (uint64_t i = 0; i < 7; ++i)
    all.push_back({prompt(i, 1 + int64_t(i * 5 % 11)), i == 3 ? 1 : int64_t(9 + i * 4), {.temperature = i % 2 ? 0.0 : 1.0, .repetition_penalty = i % 3 ? 1.0 : 1.3, .frequency_penalty = i == 4 ? 0.5 : 0.0, .seed = i}});
  return all;
}

TEST(Sequences, EachAsAlone) {
  const std::vector<int32_t> ends{17};
  for (const auto format : {quant::FormatId::dense, quant::FormatId::nf4, quant::FormatId::int8})
    for (const int64_t window : {0, 6}) {
      const auto shape = [&](int64_t sequences) {
        return EngineShape{.model = model(window), .method = {.format = format, .head = format}, .context = 64, .prefill_chunk = 4, .sequences = sequences, .all_logits = false};
      };
      std::vector<Generated> alone;
      for (const Asked& a : some()) {
        Machine one(shape(1));
        Sampler sampler(a.how);
        alone.push_back(one.engine.generate(a.prompt, a.limit, ends, sampler));
      }
      for (const int64_t sequences : {2, 3, 8}) {
        Machine many(shape(sequences));
        const auto asked = some();
        std::vector<Sampler> samplers;
        for (const Asked& a : asked) samplers.emplace_back(a.how);
        std::vector<Generated> together(asked.size());
        size_t next = 0;
        many.engine.generate([&]() -> std::optional<Request> {
          if (next == asked.size()) return std::nullopt;
          const size_t i = next++;
          return Request{asked[i].prompt, asked[i].limit, &samplers[i], nullptr, [&, i](Generated g) { together[i] = std::move(g); }};
        }, ends);
        for (size_t i = 0; i < asked.size(); ++i) {
          EXPECT_EQ(together[i].ids, alone[i].ids) << quant::format(format).name << ", window " << window << ", " << sequences << " at a time, sequence " << i;
          EXPECT_EQ(together[i].stopped, alone[i].stopped);
          EXPECT_FALSE(together[i].ids.empty() && !together[i].stopped);
        }
      }
    }
}

// Beside the host's draws of the logits of the whole text, computed anew for each token.
TEST(Sequences, WhatADeviceDrawsTheHostDraws) {
  const auto shape = [](int64_t sequences) { return EngineShape{.model = model(0), .context = 96, .prefill_chunk = 8, .sequences = sequences, .all_logits = false}; };
  EngineShape whole = shape(1);
  whole.all_logits = true, whole.prefill_chunk = whole.context;
  Machine one(shape(1)), many(shape(2)), anew(whole);
  constexpr double nothing = 1e-300;  // taken from a logit it changes none
  for (Sampling how : {Sampling{.temperature = 1, .presence_penalty = nothing}, {.temperature = 0.7, .top_k = 20, .top_p = 0.9, .frequency_penalty = nothing},
                       {.temperature = 2, .min_p = 0.3, .repetition_penalty = 1.3, .presence_penalty = 0.5, .frequency_penalty = 0.1}, {.repetition_penalty = 1.2}, {.presence_penalty = nothing}}) {
    how.seed = 11;
    Sampler here(how), there(how), alone(how);
    HostSampler host(how);
    if (how.presence_penalty + how.frequency_penalty == nothing) how.presence_penalty = how.frequency_penalty = 0, alone = Sampler(how);
    for (int i = 0; i < 3; ++i) {  // answers go on with the seed
      const auto ids = prompt(8, 5 + 7 * i);
      std::vector<int32_t> text = ids, expected;
      for (host.begin(ids); expected.size() < 60; text.push_back(expected.back())) {
        const Tensor logits = anew.engine.logits(text);
        expected.push_back(host.next({logits.get<float>() + (std::ssize(text) - 1) * 101, 101}));
      }
      EXPECT_EQ(many.engine.generate(ids, 60, {}, here).ids, expected) << how.temperature << ", answer " << i;
      EXPECT_EQ(one.engine.generate(ids, 60, {}, there).ids, expected) << how.temperature << ", answer " << i;
      EXPECT_EQ(one.engine.generate(ids, 60, {}, alone).ids, expected) << how.temperature << ", answer " << i;
    }
  }
}

// A fresh request keeps nothing of an earlier one that begins as it does. In 16 bits: there it shows in what pieces a prompt was computed.
TEST(Sequences, AFreshOneIsAsAloneWhateverCameBefore) {
  const EngineShape shape{.model = model(0), .context = 96, .prefill_chunk = 64, .all_logits = false};
  const DeviceSpec half{.compute = DType::f16};
  Machine again(shape, half);
  for (const int64_t tokens : {20, 24, 9, 23, 30}) {
    const auto ids = prompt(1, tokens);
    const Sampling how{.temperature = 1, .seed = uint64_t(tokens)};
    Machine alone(shape, half);
    Sampler sampler(how), same(how);
    const auto expected = alone.engine.generate(ids, 60, {}, sampler).ids;
    std::vector<int32_t> got;
    bool asked = false;
    again.engine.generate([&]() -> std::optional<Request> {
      if (std::exchange(asked, true)) return std::nullopt;
      return Request{.prompt = ids, .limit = 60, .sampler = &same, .on_end = [&](Generated g) { got = std::move(g.ids); }, .fresh = true};
    }, {});
    EXPECT_EQ(got, expected) << tokens << " tokens";
  }
}

// A cache made for steps of 60 tokens has room for all and lets nothing go; one for steps of 3 moves its window again and again.
TEST(Windows, KeepTheirNumbersInASmallerCache) {
  const auto ids = prompt(3, 3);
  const auto run = [&](int64_t chunk, int64_t& cache) {
    Machine m({.model = model(6), .context = 60, .prefill_chunk = chunk, .all_logits = false});
    cache = m.outcome.at_peak[size_t(Tier::device)][size_t(Use::cache)];
    Sampler sampler({.temperature = 1, .seed = 4});
    auto out = m.engine.generate(ids, 50, {}, sampler).ids;
    const auto first = out;
    out.insert(out.begin(), ids.begin(), ids.end());
    for (const size_t cut : {53u, 40u, 9u, 5u}) {  // what is left of a turn, within the window that is there or long before it
      Sampler again({.temperature = 1, .seed = 5});
      const auto more = m.engine.generate({out.begin(), out.begin() + int64_t(cut)}, 5, {}, again).ids;
      out.insert(out.end(), more.begin(), more.end());
    }
    return out;
  };
  int64_t all = 0, few = 0;
  const auto expected = run(60, all);
  EXPECT_EQ(run(3, few), expected);
  // Two of three layers hold 5 + 3 rows instead of 60; (S, K D) of keys and of values, f32
  EXPECT_LT(few, all / 2);
}

}  // namespace
}  // namespace thimble::serve
