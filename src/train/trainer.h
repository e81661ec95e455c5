// The step, and all that a run does besides: load, evaluate, save. Everything takes its bytes in the constructor or from the step's stack, so
// a rehearsal on a phantom is the plan of a run.
#pragma once
#include <span>

#include "data/batches.h"
#include "nn/decoder.h"
#include "plan/plan.h"
#include "store/adapter_files.h"
#include "train/loss_scale.h"
#include "train/optimizer_state.h"

namespace thimble::train {

// What is trained and how: everything of a run that changes its numbers, but the data.
struct Setup {
  nn::ModelSpec model;
  nn::Method method;
  std::shared_ptr<const nn::Tables> tables{};  // of these two, once for many dry runs; null: made for each
  store::AdapterConfig adapter;  // of LoRA: as it is written
  optim::OptimizerId optimizer = optim::OptimizerId::adamw;
  optim::Hyper hyper;
  float weight_decay = 0;
  bool decay_norms = false;   // transformers' Trainer leaves norms alone; torch.optim.AdamW over all parameters does not
  float lora_b_rate = 1;      // LoRA+: of the B of adapters, times the learning rate
  float max_grad_norm = 1;    // 0: no clipping
  int64_t tokens_per_row = 0; // cutoff_len
  uint64_t seed = 42;         // of new adapters, and of what steps draw
  bool draws() const { return method.lora.dropout > 0 || method.embedding_noise > 0; }
};

struct StepResult {
  double loss = 0;        // mean over the targets of the step
  double grad_norm = 0;   // before clipping
  int64_t targets = 0, tokens = 0;
  bool finite() const;    // else nothing was updated
};

struct EvalResult {
  double loss = 0;         // mean over the targets
  int64_t targets = 0, correct = 0;
};

class Trainer {
 public:
  Trainer(comm::Rank&, const Setup&, const plan::Plan&);

  // Weights from `source` (null on a phantom), new adapters by the seed: A as PEFT's kaiming_uniform(sqrt 5), B zero.
  void load(const store::WeightSource* source);
  // Adapters from a PEFT folder instead of new ones. `read(spec, host f32 tensor)` fills one. Weights beside them come with load's source.
  void load_adapters(const std::function<void(const store::ParamSpec&, Tensor)>& read);
  StepResult step(std::span<const data::MicroBatch>, double learning_rate);
  EvalResult evaluate(std::span<const data::MicroBatch>);
  // Hands every trained tensor, brought to host memory, to `write`, piece by piece where it is large: (spec, its next elements).
  void save(const std::function<void(const store::ParamSpec&, Tensor piece)>& write);
  // The same of the optimizer's states, packed as they are; states() lists them in this order.
  void save_states(const std::function<void(Tensor piece)>& write);
  std::vector<OptimizerState::State> states() const { return optimizer_->states(); }
  // The run as it was after `steps` updates, from what save and save_states gave: each fills a host piece, which begins at element `first`.
  void restore(int64_t steps, const LossScale&, const std::function<void(const store::ParamSpec&, int64_t first, Tensor piece)>& read,
               const std::function<void(const std::string& state, int64_t first, Tensor piece)>& read_state);

  // Load, a window of a step and evaluate, all at their caps: what a plan is made of. Returns the dry run's outcome.
  static plan::Outcome rehearse(const DeviceSpec&, const Setup&, const plan::Plan&);
  // The entries of the same dry run: set-up, load, and a step of one window, whose entries begin at `step`.
  struct Rehearsed { Ledger ledger; size_t step; };
  static Rehearsed rehearse_a_step(const DeviceSpec&, const Setup&, const plan::Plan&);

  nn::Model& model() { return model_; }
  nn::Decoder& decoder() { return decoder_; }
  int64_t steps() const { return steps_; }  // that updated something
  const LossScale& loss_scale() const { return loss_scale_; }
  bool scales_loss() const { return rank_.compute() == DType::f16; }  // and leaves out a step that overflows

 private:
  // f32 values of the step, on the device; the first ones are optim's.
  enum Scalar { token_weight = optim::scalar_count, unscale, scalar_total };  // the loss scale over the step's targets; its reciprocal
  enum Result { loss_sum, squares, result_count };

  nn::Tokens upload(const data::MicroBatch&, int64_t place = 0);  // of a window
  Tensor upload_key(int64_t first_token, int64_t place);          // of what is drawn of a micro-batch; null where nothing is
  nn::LossOut loss_out() const;
  // What is trained is updated as soon as its gradients are whole and, where they are clipped, their norm is known: all that is resident at the end of
  // the step, a streamed layer at its turn: in backward where nothing is clipped, else before the next forward reads it.
  nn::Turns turns(bool first, bool last);
  bool waits_for_norm() const { return setup_.max_grad_norm > 0 || scales_loss(); }  // which says whether there is an update
  void add_squares(Tensor gradients);
  void set_update_scale(float most);
  void update_layer(int layer, Tensor scalars, int next);  // acquired, its gradients open
  bool update_pending(int layer, int next);
  void finish_pending();
  void update_resident();
  void fetch_results();
  // Calls f(first element, piece, a host tensor of its type and size) from the first to the last.
  template <class F> void by_pieces(Tensor, F&&);

  comm::Rank& rank_;
  Setup setup_;
  nn::Model model_;
  nn::Decoder decoder_;
  std::optional<OptimizerState> optimizer_;
  int64_t window_, accumulation_;
  Tensor tokens_, keys_, scalars_, results_, correct_;                // on the device; keys_ (window, 4): ops/noise.h
  Tensor host_tokens_, host_key_, host_scalars_, host_results_, host_correct_;   // pinned
  Tensor staging_;                                                    // pinned: pieces of adapters, trained tensors and states
  Tensor pending_scalars_;                                            // on the device: of updates that wait for the next forward
  bool pending_ = false;
  LossScale loss_scale_;
  int64_t steps_ = 0;
};

}  // namespace thimble::train
