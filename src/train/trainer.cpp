// One optimizer step: zero the gradients, run the micro-batches window by window, clip by the global norm, update.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/philox.h"
#include "device/timeline.h"
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
  if (length == 0 || n % length != 0) return 0;
  for (int64_t first = 0; first < n; first += length)
    if (std::any_of(b.start.begin() + first, b.start.begin() + first + length, [&](int32_t s) { return s != first; })) return 0;
  return length;
}

}  // namespace

bool StepResult::finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }

Trainer::Trainer(comm::Rank& rank, const Setup& setup, const plan::Plan& plan)
    : rank_(rank), setup_(setup),
      model_(rank, setup.model, setup.method,
             {.layers = int(setup.model.layers.size()), .resident = plan.resident_layers, .embedding_on_host = plan.embedding_on_host,
              .unpacked = plan.unpacked_layers, .on_disk = plan.disk_layers},
             setup.tables),
      decoder_(rank, model_, {.save = plan.save, .head_chunk = plan.head_chunk, .token_chunk = plan.token_chunk, .window = plan.window, .unpack_layer = plan.unpack_layer,
                               .longest_document = setup.tokens_per_row},
               data::token_cap(plan.micro_batch, setup.tokens_per_row)),
      window_(plan.window), accumulation_(plan.accumulation), loss_scale_(LossScale::of(rank.compute())) {
  model_.take_gradients(rank, plan.window < plan.accumulation ? store::Waits::as_sums : waits_for_norm() ? store::Waits::whole : store::Waits::never);
  const OptimizerState::Rates rates{setup.weight_decay, setup.decay_norms ? setup.weight_decay : 0, setup.lora_b_rate};
  optimizer_.emplace(rank, model_, setup.optimizer, plan.paged_optimizer, rates);
  const int64_t cap = data::token_cap(plan.micro_batch, setup.tokens_per_row);
  tokens_ = rank.memory.take(Use::batch, "tokens", DType::i32, {window_, token_rows, cap});
  if (setup.draws()) {
    keys_ = rank.memory.take(Use::batch, "keys", DType::i32, {window_, key_size});
    host_key_ = rank.pinned.take(Use::batch, "keys", DType::i32, {key_size});
  }
  scalars_ = rank.memory.take(Use::batch, "scalars", DType::f32, {scalar_total});
  if (model_.any_travels() && waits_for_norm()) pending_scalars_ = rank.memory.take(Use::batch, "scalars of the last step", DType::f32, {optim::scalar_count});
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
  const auto load = [&](const nn::Model::Trained& t) {
    const Scope scope(rank_.pinned);
    const Tensor staging = rank_.pinned.take(Use::scratch, "adapter", DType::f32, t.value.shape);
    if (!rank_.is_phantom()) read(*t.spec, staging);
    rank_.upload("adapter", t.value, staging);
  };
  const auto all = model_.trained();
  for (auto t = all.begin(); t != all.end();) {
    const int layer = t->spec->layer;
    const auto end = std::find_if(t, all.end(), [&](const auto& other) { return other.spec->layer != layer; });
    rank_.once_a_kind({"load adapters", {layer < 0 ? -1 : model_.alike(layer)}}, [&] {
      for (const auto& of : std::span(t, end))
        if (is_adapter(of.spec->role)) load(of);
      return 0;
    });
    t = end;
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

nn::LossOut Trainer::loss_out() const { return {element(results_, loss_sum), correct_, element(scalars_, token_weight)}; }

nn::Turns Trainer::turns(bool first, bool last) {
  nn::Turns t{.first = first};
  if (pending_) t.before_forward = [this](int l) { return update_pending(l, l + 1); };
  if (last && setup_.method.trains_weights())
    t.after_backward = [this](int l) {
      if (!model_.gradients().has(l)) return false;
      add_squares(model_.gradients().all(l));
      if (waits_for_norm() || !model_.travels(l)) return false;
      set_update_scale(0);  // what is not finite by now stops this update and all that follow
      update_layer(l, scalars_.rows(0, optim::scalar_count), l - 1);
      return true;
    };
  return t;
}

void Trainer::add_squares(Tensor gradients) { ops::sum_of_squares(rank_.stream, element(results_, squares), gradients); }

void Trainer::set_update_scale(float most) {
  optim::clip_scale(rank_.stream, element(scalars_, optim::grad_scale), element(results_, squares), element(results_, loss_sum), element(scalars_, unscale), most);
}

void Trainer::update_layer(int layer, Tensor scalars, int next) { optimizer_->update(layer, scalars, setup_.hyper, next); }

bool Trainer::update_pending(int layer, int next) {
  if (!model_.travels(layer)) return false;
  if (next == int(setup_.model.layers.size())) next = -1;
  model_.open_gradients(layer, false, next);
  update_layer(layer, pending_scalars_, next);
  model_.close_gradients(layer, false);
  return true;
}

void Trainer::finish_pending() {
  for (int l = 0; pending_ && l < int(setup_.model.layers.size()); ++l) {
    rank_.ledger.at_layer(l);
    model_.weights().acquire(l, l + 1);
    model_.weights().release(l, update_pending(l, l + 1));
  }
  rank_.ledger.at_layer(-1);
  pending_ = false;
  optimizer_->drain();
}

void Trainer::update_resident() {
  std::vector<int> resident;
  for (int l = -1; l < int(setup_.model.layers.size()); ++l)
    if (model_.gradients().has(l) && !(l >= 0 && model_.travels(l))) resident.push_back(l);
  resident.push_back(-1);  // none
  for (size_t i = 0; i + 1 < resident.size(); ++i) update_layer(resident[i], scalars_.rows(0, optim::scalar_count), resident[i + 1]);
  optimizer_->drain();
}

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
  check(std::ssize(batches) <= accumulation_, "a step has at most the planned micro-batches");
  ++steps_;
  if (!rank_.is_phantom()) {
    auto* s = host_scalars_.get<float>();
    std::ranges::copy(optim::scalars_of(steps_, learning_rate, 1, setup_.hyper, setup_.seed), s);
    s[token_weight] = float(loss_scale_.scale / double(std::max<int64_t>(1, result.targets)));
    s[unscale] = float(1 / loss_scale_.scale);
  }
  rank_.upload("scalars", scalars_, host_scalars_);
  ops::zero(rank_.stream, model_.gradients().resident());
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
    decoder_.forward_backward(window, loss_out(), turns(at == 0, at + size_t(window_) >= batches.size()));
    pending_ = false;
  }
  if (!setup_.method.trains_weights()) add_squares(model_.gradients().resident());
  else if (model_.gradients().has(-1)) add_squares(model_.gradients().all(-1));  // the layers' were added at their turns
  set_update_scale(setup_.max_grad_norm);
  update_resident();
  if (pending_scalars_ && !batches.empty()) {
    ops::convert(rank_.stream, pending_scalars_, scalars_.rows(0, optim::scalar_count));
    pending_ = true;
  }
  fetch_results();
  if (rank_.is_phantom()) return result;
  result.loss = host_results_.get<float>()[loss_sum] / loss_scale_.scale;
  result.grad_norm = std::sqrt(double(host_results_.get<float>()[squares])) / loss_scale_.scale;
  if (!result.finite()) --steps_;  // nothing was updated, so Adam's count stays too
  if (scales_loss()) loss_scale_.after(result.finite());
  return result;
}

EvalResult Trainer::evaluate(std::span<const data::MicroBatch> batches) {
  finish_pending();
  EvalResult result;
  double sum = 0;
  for (const auto& m : batches) {
    if (!rank_.is_phantom()) host_scalars_.get<float>()[token_weight] = 1;
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
  finish_pending();
  model_.weights().settle();
  for (const auto& t : model_.trained())
    by_pieces(t.value, [&](int64_t, Tensor piece, Tensor host) {
      if (!t.on_host) rank_.download("saving", host, piece);
      if (!rank_.is_phantom()) write(*t.spec, t.on_host ? piece : host);
    });
}

void Trainer::save_states(const std::function<void(Tensor piece)>& write) {
  finish_pending();
  rank_.device.synchronize();  // states that are paged have come home
  for (const auto& s : optimizer_->states())
    by_pieces(s.home, [&](int64_t, Tensor piece, Tensor host) {
      if (!optimizer_->paged()) rank_.download("saving", host, piece);
      if (!rank_.is_phantom()) write(optimizer_->paged() ? piece : host);
    });
}

void Trainer::restore(int64_t steps, const LossScale& loss_scale, const std::function<void(const store::ParamSpec&, int64_t first, Tensor piece)>& read,
                      const std::function<void(const std::string& state, int64_t first, Tensor piece)>& read_state) {
  pending_ = false;
  model_.weights().settle();
  for (const auto& t : model_.trained())
    by_pieces(t.value, [&](int64_t first, Tensor piece, Tensor host) {
      if (!rank_.is_phantom()) read(*t.spec, first, t.on_host ? piece : host);
      if (!t.on_host) rank_.upload("resuming", piece, host);
    });
  model_.weights().changed_at_home();
  optimizer_->changed();
  rank_.device.synchronize();  // nothing is on its way home any more
  for (const auto& s : optimizer_->states())
    by_pieces(s.home, [&](int64_t first, Tensor piece, Tensor host) {
      if (!rank_.is_phantom()) read_state(s.name(), first, optimizer_->paged() ? piece : host);
      if (!optimizer_->paged()) rank_.upload("resuming", piece, host);
    });
  steps_ = steps;
  loss_scale_ = loss_scale.in(rank_.compute());
}

namespace {

data::MicroBatch empty_batch(const Setup& setup, const plan::Plan& plan) {
  const std::vector<int32_t> zeros(size_t(data::token_cap(plan.micro_batch, setup.tokens_per_row)));
  return {zeros, zeros, zeros, zeros};
}

}  // namespace

plan::Outcome Trainer::rehearse(const DeviceSpec& spec, const Setup& setup, const plan::Plan& plan) {
  const auto device = phantom_device(spec);
  comm::Rank rank(*device, comm::boundless);
  rank.ledger.record(false);  // its peaks are enough
  Trainer trainer(rank, setup, plan);
  trainer.load(nullptr);
  plan::Outcome outcome;
  outcome.tokens = plan.micro_batch * setup.tokens_per_row;
  const std::vector<data::MicroBatch> batches(size_t(plan.window), empty_batch(setup, plan));
  struct Took { double seconds; std::array<double, 1 + lane_count> busy; };
  const auto timed = [&](int64_t micro_batches) {
    Timeline timeline(spec);
    rank.ledger.follow(&timeline);
    trainer.step(std::span(batches).first(size_t(micro_batches)), 1e-4);
    rank.ledger.follow(nullptr);
    return Took{timeline.end(), {timeline.busy(), timeline.lane(Lane::in), timeline.lane(Lane::out), timeline.lane(Lane::disk)}};
  };
  timed(0);  // a step finds in the rings what the one before left there
  const Took update = timed(0);
  outcome.update_seconds = update.seconds;
  outcome.busy = update.busy;
  if (trainer.model().any_travels()) timed(plan.window);  // whose updates are the next step's
  // Of one window beside the update's, as often as a step has it.
  const auto add = [&](int64_t micro_batches, double times) {
    const Took took = timed(micro_batches);
    for (size_t i = 0; i < took.busy.size(); ++i) outcome.busy[i] += times * (took.busy[i] - update.busy[i]);
    return std::max(0.0, took.seconds - update.seconds);
  };
  outcome.window_seconds = add(plan.window, double(plan.accumulation / plan.window));
  if (const int64_t rest = plan.accumulation % plan.window) outcome.rest_seconds = add(rest, 1);
  trainer.evaluate(std::span(batches).first(1));
  // Saving and resuming take nothing: they go through the trainer's staging.
  outcome.set_bytes(rank.ledger, spec);
  return outcome;
}

Trainer::Rehearsed Trainer::rehearse_a_step(const DeviceSpec& spec, const Setup& setup, const plan::Plan& plan) {
  const auto device = phantom_device(spec);
  comm::Rank rank(*device, comm::boundless);
  Trainer trainer(rank, setup, plan);
  trainer.load(nullptr);
  trainer.step({}, 1e-4);
  const size_t begin = rank.ledger.entries().size();
  trainer.step(std::vector<data::MicroBatch>(size_t(plan.window), empty_batch(setup, plan)), 1e-4);
  return {std::move(rank.ledger), begin};
}

}  // namespace thimble::train
