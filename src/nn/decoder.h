// The one decoder: embedding, layers, final norm, head; forward, backward and generation for every family. Structure comes as data,
// weights from a Model, and what is saved for backward from the plan.
#pragma once
#include <functional>

#include "nn/attention.h"
#include "nn/kv_cache.h"
#include "nn/mlp.h"
#include "nn/model.h"
#include "nn/offload.h"
#include "nn/rope_tables.h"

namespace thimble::nn {

// One micro-batch on the device: T tokens of any number of documents, flat.
struct Tokens {
  Tensor ids, targets, positions, start;  // (T) i32; start: the document's first token; targets -1: no loss
  int64_t document = 0;                   // tokens of each where all documents are of one length, else 0
  int64_t length = 0;                     // the largest position and one: some kinds of RoPE depend on it, and the size of NEFTune's noise
  Tensor key = {};                        // (4) i32, ops/noise.h: of what a step draws; null: nothing is drawn
  int64_t count() const { return ids.shape[0]; }
};

// What a plan decides of the computation. Chunks add a gradient's parts in another order; nothing else changes a number.
struct Execution {
  std::vector<LayerSave> save;   // by layer
  int64_t head_chunk = 256;      // tokens whose logits exist at once
  int64_t token_chunk = 0;       // tokens at a time in the MLP and in attention's projections of its input; 0: all
  int64_t window = 1;            // micro-batches that a layer runs before the next one does
  bool unpack_layer = false;     // a layer's matrices once for all of these, not each for its product
  int64_t longest_document = 0;  // tokens; 0: no cap. As ops::AttentionShape::longest
};

// What the trainer does as a layer passes, where it does something. Each returns whether the layer's weights, which are acquired, were changed.
struct Turns {
  bool first = true;                             // pass of a step: gradients of streamed layers begin as zeros
  std::function<bool(int layer)> before_forward;  // before anything is computed with the layer
  std::function<bool(int layer)> after_backward;  // its gradients are open; once the weights were changed by them they are not kept
};

// Where a pass leaves its results: f32 (1), i32 (1), added to. scale: f32 (1), 1 / target tokens of the whole step.
struct LossOut {
  Tensor loss, correct, scale;
};

class Decoder {
 public:
  // Takes RoPE's tables and, where the plan offloads, rings and pinned homes for a window of micro-batches of `max_tokens` tokens.
  Decoder(comm::Rank&, Model&, const Execution&, int64_t max_tokens);
  void load();  // fills RoPE's tables

  // Loss and gradients of up to execution.window micro-batches, layer by layer, both added to: the same bits as one micro-batch after the other.
  void forward_backward(std::span<const Tokens> window, const LossOut&, const Turns& = {});
  // Loss alone.
  void forward(const Tokens&, const LossOut&);
  // Appends the tokens to one cache, or to each of as many caches one token; logits (n, V) f32 of the last n tokens, overwritten.
  void infer(const Tokens&, std::span<KvCache* const>, Tensor logits);

 private:
  struct LayerState { Saved saved; Tensor in = {}; };
  // One on its way through the layers. d: the gradient of the residual; last: what the head reads.
  struct MicroBatch { int index; const Tokens& tokens; Context context; Tensor d, last = {}; std::vector<LayerState> layers = {}; };
  Context context(const Tokens&);
  void embed(Tensor y, const Tokens&);
  float embedding_scale() const;  // 1: none
  Saved saved_of(int layer, int64_t tokens, const LayerSave&, Tensor key = {});
  // The work of one layer on one micro-batch: on a phantom once for all that are alike. `pass` is a literal.
  void once_a_kind(const char* pass, int layer, const LayerParams&, const Context&, Saved&, const std::function<void()>& work);
  void layer_forward(const LayerParams&, const Context&, Tensor y, Tensor x, Saved&);
  void layer_backward(const LayerParams&, const LayerGrads&, const Context&, Tensor d, Tensor x, Saved&, bool into_input);
  struct Residual { Tensor value, free; };     // (T, C) after a layer; the buffer that the next one writes
  // Embedding and the layers below the lowest one that is trained: nothing is saved. The result lands where out says, asked as late as can be.
  void run_frozen(std::span<MicroBatch>, const std::function<Tensor(MicroBatch&)>& out);
  Tensor hidden(const Tokens&, std::span<KvCache* const>);  // (T, C) after the last layer, nothing saved; without caches the tokens see each other alone
  void head_loss(Tensor x, Tensor d, const Tokens&, const LossOut&);  // d null: no gradient
  void head_loss_chunk(Tensor x, Tensor d, Tensor targets, const LossOut&);

  comm::Rank& rank_;
  Model& model_;
  Execution execution_;
  RopeTables rope_;
  std::vector<int> alike_;                   // by layer: the first of its kind, with its saves too
  std::vector<std::shared_ptr<const SavedShapes>> shapes_;  // by layer: of the last pass
  int lowest_;                               // layer that has a backward pass
  std::optional<Offload> inputs_, insides_;  // a layer's input is there before its turn, all else only during it
};

}  // namespace thimble::nn
