// Small runs for the tests of the step: a tiny model from a seed, random packed documents, a trainer in arenas of the planned size.
#pragma once
#include <gtest/gtest.h>

#include "device_under_test.h"
#include "folder_on_disk.h"
#include "base/philox.h"
#include "models/registry.h"
#include "store/weight_source.h"
#include "train/trainer.h"

namespace thimble::train {

inline DeviceSpec f32_cpu(DType compute = DType::f32) {
  DeviceSpec spec = this_cpu();
  spec.compute = compute;
  return spec_under_test(spec);
}

// Of a run whose plan has layers on disk: its device's file lies in this process's own folder.
inline DeviceSpec f32_cpu_with_disk() {
  static const FolderOnDisk folder;
  DeviceSpec spec = f32_cpu();
  spec.disk = folder.path;
  return spec;
}

inline nn::ModelSpec tiny_model(int layers = 3, bool tied = true) {
  nn::ModelSpec m{.family = "llama", .vocab = 101, .hidden = 36, .max_positions = 128, .tied_head = tied, .dtype = "float32"};
  m.layers.assign(size_t(layers), {.heads = 6, .kv_heads = 3, .head_dim = 6, .ffn = 52});
  return m;
}

// All that a family may have beyond a Llama's layer, in one model; every second layer has a window and turns by a base of its own.
inline nn::ModelSpec ornate_model() {
  nn::ModelSpec m = tiny_model(3, false);
  m.family = "gemma3_text";
  m.activation = ops::Activation::gelu_tanh;
  m.norm_offset = 1;
  m.scaled_embedding = true;
  m.query_scalar = 9;
  m.attention_cap = 2;
  m.logit_cap = 5;
  m.rope = {.kind = nn::RopeSpec::Kind::dynamic, .factor = 2, .original_positions = 8};
  m.local_rope = {.theta = 100};
  for (auto& l : m.layers) l.qkv_bias = l.o_bias = l.mlp_bias = l.head_norms = l.norms_after = true;
  m.layers[1].window = 5, m.layers[1].local_rope = true;
  return m;
}

inline nn::Method lora(quant::FormatId format) {
  return {.lora = nn::lora_on(4, 2), .format = format};
}
inline nn::Method dora(quant::FormatId format) {
  auto m = lora(format);
  m.lora.dora = true;
  return m;
}
inline nn::Method noisy(quant::FormatId format, bool dora = false) {  // dropout and NEFTune
  auto m = lora(format);
  m.lora.dora = dora;
  m.lora.dropout = 0.25f;
  m.embedding_noise = 5;
  return m;
}
// Adapters of modules that hold several matrices each.
inline nn::Method fused(nn::Method m) {
  m.lora.layers = nn::lora_on(4, 2, nn::is_matrix, true).layers;
  return m;
}
// Adapters of some matrices of some layers, embedding and head whole.
inline nn::Method with_modules(DType dtype = DType::f32) {
  nn::Method m{.weights = {.embedding = true, .head = true, .dtype = dtype}, .lora = {.layers = {nn::LayerLora{}, nn::lora_on(3, 2).layers[0], nn::lora_on(5, 1, [](int p) { return p == nn::v_proj; }).layers[0]}}};
  return m;
}
// Of three layers the last one, and the final norm.
inline nn::Method freeze(quant::FormatId format, DType dtype = DType::f32) {
  nn::Method m{.weights = {.final_norm = true, .layers = {{}, {}, nn::all_weights().layers[0]}, .dtype = dtype}, .format = format};
  return m;
}
// Whether a plan may leave so many of three layers on the device, trained ones beside frozen ones among them, and run several micro-batches at a time.
inline bool may_stay(const nn::Method& m, int resident) {
  int trained = 0;
  for (int l = 0; l < 3; ++l) trained += m.weights.layers[l].any();
  return trained == 3 || resident >= trained;
}
inline bool in_windows(const nn::Method& m, const nn::ModelSpec& model) { return !model.rope_follows_length() && !(model.tied_head && m.weights.embedding); }
inline nn::Method full(DType dtype = DType::f32) { return {.weights = nn::all_weights(dtype)}; }

// `tokens` tokens in documents of 1 to 20, a quarter of the targets masked.
inline data::MicroBatch random_batch(const nn::ModelSpec& m, int64_t tokens, uint64_t seed) {
  data::MicroBatch b;
  Draws draws{seed, 7, 0};
  int64_t start = 0, length = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (t == start + length) start = t, length = 1 + int64_t(draws.below(20));
    b.ids.push_back(int32_t(draws.below(uint64_t(m.vocab))));
    b.targets.push_back(draws.below(4) ? int32_t(draws.below(uint64_t(m.vocab))) : -1);
    b.positions.push_back(int32_t(t - start));
    b.start.push_back(int32_t(start));
  }
  return b;
}

inline plan::Plan plan_of(const nn::ModelSpec& m, nn::LayerSave save, int resident, bool paged) {
  return {.micro_batch = 1, .accumulation = 3, .save = std::vector<nn::LayerSave>(m.layers.size(), save), .resident_layers = resident, .head_chunk = 16,
          .paged_optimizer = paged};
}

inline plan::Plan in_windows(plan::Plan p, int64_t window, bool unpack_layer) {
  p.window = window;
  p.unpack_layer = unpack_layer;
  return p;
}

inline plan::Plan on_disk(plan::Plan p, int layers) {
  p.disk_layers = layers;
  return p;
}

inline plan::Plan in_chunks(plan::Plan p, int64_t tokens) {
  p.token_chunk = tokens;
  return p;
}

// The micro-batches of a step, ragged: one has so few tokens that its products take packed bytes as they are.
inline std::vector<data::MicroBatch> three_batches(const nn::ModelSpec& m, int64_t tokens, uint64_t seed) {
  return {random_batch(m, tokens, seed), random_batch(m, 6, seed + 200), random_batch(m, tokens - 5, seed + 100)};
}

inline void append(std::vector<float>& all, Tensor piece) {
  visit_float(piece.dtype, [&]<class T>(T) { all.insert(all.end(), piece.get<T>(), piece.get<T>() + piece.count()); });
}

// Everything a short run leaves: losses, norms and the trained values, to be compared bit for bit.
struct Trace {
  std::vector<double> numbers;
  std::vector<float> values;
  bool operator==(const Trace&) const = default;
};

inline Trace run(const Setup& setup, const plan::Plan& plan, int64_t tokens, int steps, DType compute = DType::f32) {
  const DeviceSpec spec = plan.disk_layers ? f32_cpu_with_disk() : f32_cpu(compute);
  const auto outcome = Trainer::rehearse(spec, setup, plan);
  const auto device = device_under_test(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2], outcome.peak[3]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
  // B starts at zero, which would hide A's gradients: give both some values.
  trainer.load_adapters([](const store::ParamSpec& p, Tensor t) {
    for (int64_t i = 0; i < t.count(); ++i) t.get<float>()[i] = 0.1f * normal_at(3, uint64_t(p.layer) * 2 + (p.role == store::Role::lora_a), uint64_t(i));
  });
  Trace trace;
  for (int s = 0; s < steps; ++s) {
    const auto r = trainer.step(three_batches(setup.model, tokens, uint64_t(s)), 1e-2);
    trace.numbers.insert(trace.numbers.end(), {r.loss, r.grad_norm});
  }
  const auto eval = trainer.evaluate(std::vector<data::MicroBatch>{random_batch(setup.model, tokens, 77)});
  trace.numbers.push_back(eval.loss);
  trainer.save([&](const store::ParamSpec&, Tensor rows) { append(trace.values, rows); });
  return trace;
}

}  // namespace thimble::train
