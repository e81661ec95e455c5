// Generation: a model, its cache and the decode loop. Takes all its bytes when it is made, so that it too is planned on a phantom.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "nn/decoder.h"
#include "plan/plan.h"
#include "serve/sampler.h"

namespace thimble::serve {

struct EngineShape {
  nn::ModelSpec model;
  nn::Method method;
  int64_t context = 512;        // tokens of prompt and answer at most
  int64_t prefill_chunk = 128;  // prompt tokens at a time
  int resident_layers = -1;     // -1: all
  bool embedding_on_host = false;
};

struct Generated {
  std::vector<int32_t> ids;   // without the token that ended it
  bool stopped = false;       // at an end token; else at the limit
};

// How well a model says what a text says.
struct Score {
  double loss = 0;  // sum over the targets
  int64_t targets = 0, correct = 0;  // correct: the target is the likeliest token
};

class Engine {
 public:
  Engine(comm::Rank&, const EngineShape&);
  void load(const store::WeightSource*);
  // `read(spec, host f32 tensor)` fills each adapter tensor.
  void load_adapters(const std::function<void(const store::ParamSpec&, Tensor)>& read);

  // Continues `prompt` (what the cache already holds of it is not computed again) until an end token or `limit` new tokens.
  // `on_token` sees each as it comes; false from it stops. Throws Error (usage) where prompt and limit exceed the context.
  Generated generate(const std::vector<int32_t>& prompt, int64_t limit, const std::vector<int32_t>& ends, Sampler&,
                     const std::function<bool(int32_t)>& on_token = nullptr);
  // Logits (T, V) of every position of `ids`, as a fresh sequence; on the host until the next call.
  Tensor logits(const std::vector<int32_t>& ids);

  // Loss of a fresh sequence at every position with a target; targets (as many as ids): the id to predict there, or -1. Any length up to the
  // context. Throws Error (usage) beyond it.
  Score score(std::span<const int32_t> ids, std::span<const int32_t> targets);

  static plan::Outcome rehearse(const DeviceSpec&, const EngineShape&);
  nn::Model& model() { return model_; }

 private:
  void append(std::span<const int32_t> ids);  // logits of the last token land in host_logits_
  // Of at most prefill_chunk tokens of a sequence of `length`; the logits of all, on the host.
  Tensor append_chunk(std::span<const int32_t> ids, int64_t length);
  nn::Tokens upload(std::span<const int32_t> ids, int64_t length);  // length: of the sequence that they belong to

  comm::Rank& rank_;
  EngineShape shape_;
  nn::Model model_;
  nn::Decoder decoder_;
  nn::KvCache cache_;
  Tensor tokens_, logits_;             // device
  Tensor host_tokens_, host_logits_;   // pinned
  std::vector<int32_t> in_cache_;
  int64_t turned_for_ = 0;             // the length of a sequence that RoPE turned the cache's keys for
};

}  // namespace thimble::serve
