// One optimizer step: zero the gradients, run the micro-batches window by window, clip by the global norm, update.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/philox.h"
#include "ops/elementwise.h"
#include "optim/clip.h"

namespace thimble::train {
namespace {

constexpr int64_t staging_bytes = int64_t{1} << 20;
constexpr int token_rows = 4;  // ids, targets, positions, start
constexpr int key_size = 4;    // ops/noise.h

Tensor element(Tensor t, int i) { return t.rows(i, 1); }

// The length of every document of a batch, 0 where they differ. The first document ends where another start comes.
int64_t common_length(const data::MicroBatch& b) {
  const auto n = int64_t(b.start.size());
  const int64_t length = std::find_if(b.start.begin(), b.start.end(), [](int32_t s) { return s != 0; }) - b.start.begin();
  for (int64_t i = 0; i < n; ++i)
    if (b.start[size_t(i)] != i / length * length) return 0;
  return n % length == 0 ? length : 0;
}

}  // namespace

bool StepResult::finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }

Trainer::Trainer(comm::Rank& rank, const Setup& setup, const plan::Plan& plan)
    : rank_(rank), setup_(setup),
      model_(rank, setup.model, setup.method,
             {.layers = int(setup.model.layers.size()), .resident = plan.resident_layers, .embedding_on_host = plan.embedding_on_host,
              .unpacked = plan.unpacked_layers}),
      decoder_(rank, model_, {.save = plan.save, .head_chunk = plan.head_chunk, .window = plan.window, .unpack_layer = plan.unpack_layer,
                               .longest_document = setup.tokens_per_row},
               data::token_cap(plan.micro_batch, setup.tokens_per_row)),
      window_(plan.window) {
  model_.take_gradients(rank);
  const OptimizerState::Rates rates{setup.weight_decay, setup.decay_norms ? setup.weight_decay : 0, setup.lora_b_rate};
  optimizer_.emplace(rank, model_.trained(), setup.optimizer, plan.paged_optimizer, rates);
  const int64_t cap = data::token_cap(plan.micro_batch, setup.tokens_per_row);
  tokens_ = rank.memory.take(Use::batch, "tokens", DType::i32, {window_, token_rows, cap});
  if (setup.draws()) {
    keys_ = rank.memory.take(Use::batch, "keys", DType::i32, {window_, key_size});
    host_key_ = rank.pinned.take(Use::batch, "keys", DType::i32, {key_size});
  }
  scalars_ = rank.memory.take(Use::batch, "scalars", DType::f32, {scalar_total});
  results_ = rank.memory.take(Use::batch, "results", DType::f32, {result_count});
  correct_ = rank.memory.take(Use::batch, "correct", DType::i32, {1});
  host_tokens_ = rank.pinned.take(Use::batch, "tokens", DType::i32, {token_rows, cap});
  host_scalars_ = rank.pinned.take(Use::batch, "scalars", DType::f32, {scalar_total});
  host_results_ = rank.pinned.take(Use::batch, "results", DType::f32, {result_count});
  host_correct_ = rank.pinned.take(Use::batch, "correct", DType::i32, {1});
  int64_t largest = 0;
  for (const auto& t : model_.trained()) largest = std::max(largest, t.value.bytes());
  staging_ = rank.pinned.take(Use::scratch, "staging", DType::u8, {std::min(largest, staging_bytes)});
}

void Trainer::load(const store::WeightSource* source) {
  model_.load(source);
  decoder_.load();
  uint64_t stream = 0;
  load_adapters([&](const store::ParamSpec& spec, Tensor value) {
    ++stream;
    const float bound = spec.role == store::Role::lora_a ? 1.0f / std::sqrt(float(spec.shape[1])) : 0.0f;
    auto* v = value.get<float>();
    for (int64_t i = 0; i < value.count(); ++i) v[i] = bound * (2 * uniform_at(setup_.seed, stream, uint64_t(i)) - 1);
  });
  if (setup_.method.lora.dora) model_.start_magnitudes();
  optimizer_->reset();
}

void Trainer::load_adapters(const std::function<void(const store::ParamSpec&, Tensor)>& read) {
  for (const auto& t : model_.trained()) {
    if (!is_adapter(t.spec->role)) continue;
    const Scope scope(rank_.pinned);
    const Tensor staging = rank_.pinned.take(Use::scratch, "adapter", DType::f32, t.value.shape);
    if (!rank_.is_phantom()) read(*t.spec, staging);
    rank_.upload("adapter", t.value, staging);
  }
}

nn::Tokens Trainer::upload(const data::MicroBatch& batch, int64_t place) {
  const auto n = int64_t(batch.ids.size());
  check(n > 0 && n <= tokens_.shape[2], "a micro-batch has at most the planned tokens");
  const Shape shape{token_rows, n};
  const Tensor host{host_tokens_.data, DType::i32, shape}, device{tokens_.rows(place, 1).data, DType::i32, shape};
  if (!rank_.is_phantom()) {
    const std::vector<int32_t>* rows[token_rows] = {&batch.ids, &batch.targets, &batch.positions, &batch.start};
    for (int i = 0; i < token_rows; ++i) std::memcpy(host.rows(i, 1).data, rows[i]->data(), size_t(n) * sizeof(int32_t));
  }
  rank_.upload("tokens", device, host);
  const auto row = [&](int i) { return device.rows(i, 1).view({n}); };
  return {row(0), row(1), row(2), row(3), common_length(batch), 1 + *std::max_element(batch.positions.begin(), batch.positions.end())};
}

Tensor Trainer::upload_key(int64_t first_token, int64_t place) {
  if (!keys_) return {};
  if (!rank_.is_phantom()) {
    const int64_t key[key_size] = {int64_t(setup_.seed & 0xffffffffu), int64_t(setup_.seed >> 32), steps_, first_token};
    for (int i = 0; i < key_size; ++i) host_key_.get<int32_t>()[i] = int32_t(uint32_t(key[i]));
  }
  const Tensor there = keys_.rows(place, 1).view({key_size});
  rank_.upload("keys", there, host_key_);
  return there;
}

nn::LossOut Trainer::loss_out() const { return {element(results_, loss_sum), correct_, element(scalars_, loss_scale)}; }

void Trainer::fetch_results() {
  rank_.download("results", host_results_, results_);
  rank_.download("correct", host_correct_, correct_);
}

StepResult Trainer::step(std::span<const data::MicroBatch> batches, double learning_rate) {
  StepResult result;
  for (const auto& m : batches) {
    result.tokens += int64_t(m.ids.size());
    for (const int32_t t : m.targets) result.targets += t >= 0;
  }
  ++steps_;
  if (!rank_.is_phantom()) {
    auto* s = host_scalars_.get<float>();
    std::ranges::copy(optim::scalars_of(steps_, learning_rate, 1, setup_.hyper), s);
    s[loss_scale] = float(1.0 / double(std::max<int64_t>(1, result.targets)));
  }
  rank_.upload("scalars", scalars_, host_scalars_);
  ops::zero(rank_.stream, model_.all_gradients());
  ops::zero(rank_.stream, results_);
  ops::zero(rank_.stream, correct_);
  int64_t first_token = 0;
  for (size_t at = 0; at < batches.size(); at += size_t(window_)) {
    std::vector<nn::Tokens> window;
    for (const auto& m : batches.subspan(at, std::min(size_t(window_), batches.size() - at))) {
      const int64_t place = std::ssize(window);
      window.push_back(upload(m, place));
      window.back().key = upload_key(first_token, place);
      first_token += window.back().count();
    }
    decoder_.forward_backward(window, loss_out());
  }
  ops::sum_of_squares(rank_.stream, element(results_, squares), model_.all_gradients());
  optim::clip_scale(rank_.stream, element(scalars_, optim::grad_scale),
                     element(results_, squares), element(results_, loss_sum), setup_.max_grad_norm);
  optimizer_->update(scalars_.rows(0, optim::scalar_count), setup_.hyper);
  fetch_results();
  if (rank_.is_phantom()) return result;
  result.loss = host_results_.get<float>()[loss_sum];
  result.grad_norm = std::sqrt(double(host_results_.get<float>()[squares]));
  if (!result.finite()) --steps_;  // nothing was updated, so Adam's count stays too
  return result;
}

EvalResult Trainer::evaluate(std::span<const data::MicroBatch> batches) {
  EvalResult result;
  double sum = 0;
  for (const auto& m : batches) {
    if (!rank_.is_phantom()) host_scalars_.get<float>()[loss_scale] = 1;
    rank_.upload("scalars", scalars_, host_scalars_);
    ops::zero(rank_.stream, results_);
    ops::zero(rank_.stream, correct_);
    decoder_.forward(upload(m), loss_out());
    fetch_results();
    if (rank_.is_phantom()) continue;
    sum += host_results_.get<float>()[loss_sum];
    result.correct += *host_correct_.get<int32_t>();
    for (const int32_t t : m.targets) result.targets += t >= 0;
  }
  result.loss = result.targets ? sum / double(result.targets) : 0;
  return result;
}

template <class F>
void Trainer::by_pieces(Tensor t, F&& f) {
  const Tensor all = t.view({t.count()});
  const int64_t step = staging_.bytes() / size_of(t.dtype);
  for (int64_t first = 0; first < all.count(); first += step) {
    const Tensor piece = all.rows(first, std::min(step, all.count() - first));
    f(first, piece, Tensor{staging_.data, piece.dtype, piece.shape});
  }
}

void Trainer::save(const std::function<void(const store::ParamSpec&, Tensor piece)>& write) {
  for (const auto& t : model_.trained())
    by_pieces(t.value, [&](int64_t, Tensor piece, Tensor host) {
      rank_.download("saving", host, piece);
      if (!rank_.is_phantom()) write(*t.spec, host);
    });
}

void Trainer::save_states(const std::function<void(Tensor piece)>& write) {
  rank_.device.synchronize();  // states that are paged have come home
  for (const auto& s : optimizer_->states())
    by_pieces(s.home, [&](int64_t, Tensor piece, Tensor host) {
      if (!optimizer_->paged()) rank_.download("saving", host, piece);
      if (!rank_.is_phantom()) write(optimizer_->paged() ? piece : host);
    });
}

void Trainer::restore(int64_t steps, const std::function<void(const store::ParamSpec&, int64_t first, Tensor piece)>& read,
                      const std::function<void(const std::string& state, int64_t first, Tensor piece)>& read_state) {
  for (const auto& t : model_.trained())
    by_pieces(t.value, [&](int64_t first, Tensor piece, Tensor host) {
      if (!rank_.is_phantom()) read(*t.spec, first, host);
      rank_.upload("resuming", piece, host);
    });
  optimizer_->changed();
  rank_.device.synchronize();  // nothing is on its way home any more
  for (const auto& s : optimizer_->states())
    by_pieces(s.home, [&](int64_t first, Tensor piece, Tensor host) {
      if (!rank_.is_phantom()) read_state(s.name, first, optimizer_->paged() ? piece : host);
      if (!optimizer_->paged()) rank_.upload("resuming", piece, host);
    });
  steps_ = steps;
}

plan::Outcome Trainer::rehearse(const DeviceSpec& spec, const Setup& setup, const plan::Plan& plan) {
  const auto device = phantom_device(spec);
  comm::Rank rank(*device, comm::boundless);
  rank.ledger.record(false);  // but for what is timed: a load has more entries than a step
  Trainer trainer(rank, setup, plan);
  trainer.load(nullptr);
  plan::Outcome outcome;
  outcome.tokens = plan.micro_batch * setup.tokens_per_row;
  const auto cap = size_t(data::token_cap(plan.micro_batch, setup.tokens_per_row));
  const std::vector<int32_t> zeros(cap);
  const data::MicroBatch batch{zeros, zeros, zeros, zeros};
  const auto timed = [&](int64_t micro_batches) {
    rank.ledger.clear_entries();
    rank.ledger.record(true);
    trainer.step(std::vector<data::MicroBatch>(size_t(micro_batches), batch), 1e-4);
    rank.ledger.record(false);
    return plan::predicted_seconds(rank.ledger.entries(), spec);
  };
  timed(0);  // a step finds in the rings what the one before left there
  outcome.update_seconds = timed(0);
  outcome.window_seconds = std::max(0.0, timed(plan.window) - outcome.update_seconds);
  if (const int64_t rest = plan.accumulation % plan.window) outcome.rest_seconds = std::max(0.0, timed(rest) - outcome.update_seconds);
  trainer.evaluate({&batch, 1});
  rank.ledger.record(false);  // saving and resuming take nothing, in many copies
  trainer.save(nullptr);
  trainer.save_states(nullptr);
  trainer.restore(0, nullptr, nullptr);
  outcome.set_bytes(rank.ledger, spec);
  return outcome;
}

}  // namespace thimble::train
