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
  int64_t sequences = 1;        // at a time, each with a cache of its own
  bool all_logits = true;       // room for those of all tokens of a chunk, which logits() and score() read
  int resident_layers = -1;     // -1: all; the others lie in pinned memory and come over the link
  int processor_layers = 0;     // of these: for a few tokens the processor multiplies by them where they lie
  bool embedding_on_host = false;
};

struct Generated {
  std::vector<int32_t> ids;   // without the token that ended it
  bool stopped = false;       // at an end token; else at the limit
};

// A sequence to generate: an answer of at most `limit` tokens. `on_token` sees each as it comes; false from it stops. `on_end` gets all.
struct Request {
  std::vector<int32_t> prompt;
  int64_t limit = 0;
  Sampler* sampler = nullptr;
  std::function<bool(int32_t)> on_token = nullptr;
  std::function<void(Generated)> on_end = nullptr;
  bool fresh = false;  // all of the prompt is computed, as alone: what the cache holds of it was made in other pieces, whose sums may round otherwise
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
  // All that `next` gives until it gives none, as many at a time as the shape says: a step reads each weight once for all of them. Each that is fresh
  // gets the tokens that it gets alone, to the bit where most_few_tokens (quant/weight.h) and no adapter's product is exceeded; on cuda one token alone is multiplied
  // by kernels of its own, whose sums round otherwise.
  void generate(const std::function<std::optional<Request>()>& next, const std::vector<int32_t>& ends);
  // Logits (T, V) of every position of `ids`, as a fresh sequence; on the host until the next call.
  Tensor logits(const std::vector<int32_t>& ids);

  // Loss of a fresh sequence at every position with a target; targets (as many as ids): the id to predict there, or -1. Any length up to the
  // context. Throws Error (usage) beyond it.
  Score score(std::span<const int32_t> ids, std::span<const int32_t> targets);

  static plan::Outcome rehearse(const DeviceSpec&, const EngineShape&);
  nn::Model& model() { return model_; }

 private:
  struct Slot {
    nn::KvCache cache;
    Tensor text;                // device: prompt and answer, where there are penalties
    std::vector<int32_t> held;  // its tokens
    int64_t turned_for = 0;     // the length of a sequence that RoPE turned the cache's keys for
    bool free = true;
  };
  struct Active { Slot* slot; Request request; Generated out; };
  struct Next { Slot* slot; int32_t id; };
  void append(Slot&, std::span<const int32_t> ids, int64_t row = 0);  // the logits of the last token land in that row of logits_
  void decode(std::span<const Next>);                                 // a token of each; logits likewise, a row each
  void prefill(Slot&, const Request&);
  // One sequence: each token goes from step to step on the device, and the host reads it while a GPU makes the next.
  bool follows(const std::vector<Active>&) const;
  void follow(Active&, const std::vector<int32_t>& ends);
  // A step of the token in that row of drawn_; the next one lands in the other, and on the host: the one that the sampler takes so many after its next.
  Ticket hand_on(Slot&, int from, int to, const Request&, uint64_t later);
  void bring(std::span<const Active>);  // to the host: a token drawn of each row of logits_
  void penalize(int64_t row, const Slot&, const Request&, int64_t length, Tensor last);  // that row of logits_, by a text so long that ends in `last`
  bool goes_on(Active&, int64_t row, const std::vector<int32_t>& ends);  // takes a token from what was brought of that row
  void forget();  // what the first slot holds
  // Of at most prefill_chunk tokens of a sequence of `length`; the logits of all, on the host.
  Tensor append_chunk(std::span<const int32_t> ids, int64_t length);
  nn::Tokens upload(std::span<const int32_t> ids, const std::function<int64_t(int64_t)>& position, int64_t length);  // length: of the longest sequence

  comm::Rank& rank_;
  EngineShape shape_;
  nn::Model model_;
  nn::Decoder decoder_;
  std::vector<Slot> slots_;
  Tensor tokens_, logits_, drawn_, positions_, counts_;        // device; positions_: 0, 1, ...; counts_: of the vocabulary, zeros between steps
  Tensor host_tokens_, host_logits_, host_drawn_, host_text_;  // pinned; host_logits_: null without all_logits
};

}  // namespace thimble::serve
