// Prefill in chunks, then one token at a time. A prompt that begins with what the cache holds keeps it: chat turns cost only what is new.
#include "serve/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "ops/argmax.h"
#include "ops/draw.h"
#include "ops/elementwise.h"

namespace thimble::serve {
namespace {

constexpr int token_rows = 3;  // ids, positions, start

int resident(const EngineShape& s) { return s.resident_layers < 0 ? int(s.model.layers.size()) : s.resident_layers; }

}  // namespace

Engine::Engine(comm::Rank& rank, const EngineShape& shape)
    : rank_(rank), shape_(shape),
      model_(rank, shape.model, shape.method,
             {.layers = int(shape.model.layers.size()), .resident = resident(shape), .embedding_on_host = shape.embedding_on_host, .on_processor = shape.processor_layers}),
      decoder_(rank, model_, {}, shape.prefill_chunk) {
  for (int64_t i = 0; i < shape.sequences; ++i)
    slots_.push_back({nn::KvCache(rank, shape.model, shape.context, shape.prefill_chunk), rank.memory.take(Use::batch, "text", DType::i32, {shape.context})});
  const int64_t tokens = std::max(shape.prefill_chunk, shape.sequences), rows = shape.all_logits ? tokens : shape.sequences;
  tokens_ = rank.memory.take(Use::batch, "tokens", DType::i32, {token_rows, tokens});
  logits_ = rank.memory.take(Use::batch, "logits", DType::f32, {rows, shape.model.vocab});
  const int64_t drawn = std::max<int64_t>(2, shape.sequences);
  drawn_ = rank.memory.take(Use::batch, "drawn tokens", DType::i32, {drawn});
  positions_ = rank.memory.take(Use::batch, "positions", DType::i32, {shape.context});
  counts_ = rank.memory.take(Use::batch, "counts of tokens", DType::i32, {shape.model.vocab});
  host_tokens_ = rank.pinned.take(Use::batch, "tokens", DType::i32, {token_rows, tokens});
  if (shape.all_logits) host_logits_ = rank.pinned.take(Use::batch, "logits", DType::f32, logits_.shape);
  host_drawn_ = rank.pinned.take(Use::batch, "drawn tokens", DType::i32, {drawn});
  host_text_ = rank.pinned.take(Use::batch, "text", DType::i32, {shape.context});
}

void Engine::load(const store::WeightSource* source) {
  model_.load(source);
  decoder_.load();
  const Scope scope(rank_.pinned);
  const Tensor staging = rank_.pinned.take(Use::scratch, "positions", DType::i32, positions_.shape);
  if (!rank_.is_phantom()) std::iota(staging.get<int32_t>(), staging.get<int32_t>() + staging.count(), 0);
  rank_.upload("positions", positions_, staging);
  ops::zero(rank_.stream, counts_);
}

void Engine::load_adapters(const std::function<void(const store::ParamSpec&, Tensor)>& read) {
  for (const auto& t : model_.trained()) {
    if (!is_adapter(t.spec->role)) continue;
    const Scope scope(rank_.pinned);
    const Tensor staging = rank_.pinned.take(Use::scratch, "adapter", DType::f32, t.value.shape);
    if (!rank_.is_phantom()) read(*t.spec, staging);
    rank_.upload("adapter", t.value, staging);
  }
}

nn::Tokens Engine::upload(std::span<const int32_t> ids, const std::function<int64_t(int64_t)>& position, int64_t length) {
  const auto n = int64_t(ids.size());
  const Tensor host{host_tokens_.data, DType::i32, {token_rows, n}}, device{tokens_.data, DType::i32, {token_rows, n}};
  if (!rank_.is_phantom()) {
    auto* at = host.get<int32_t>();
    for (int64_t i = 0; i < n; ++i) {
      check(ids[size_t(i)] >= 0 && ids[size_t(i)] < shape_.model.vocab, "token ids lie in the vocabulary");
      at[i] = ids[size_t(i)];
      at[n + i] = int32_t(position(i));
      at[2 * n + i] = 0;
    }
  }
  rank_.upload("tokens", device, host);
  const auto row = [&](int i) { return device.rows(i, 1).view({n}); };
  return {.ids = row(0), .targets = {}, .positions = row(1), .start = row(2), .length = length};
}

void Engine::append(Slot& slot, std::span<const int32_t> ids, int64_t row) {
  const int64_t length = slot.cache.length() + int64_t(ids.size());
  if (const auto& rope = shape_.model.rope;
      rope.kind == nn::RopeSpec::Kind::longrope && slot.cache.length() > 0 && !rope.same_for(slot.turned_for, length)) {
    // LongRoPE's factors change once, beyond the original length: all keys are turned anew. Dynamic NTK's change with every token: there
    // keys keep the turn that they were made with, as in transformers' generate.
    std::vector<int32_t> all = std::exchange(slot.held, {});
    slot.cache.cut_to(0);
    all.insert(all.end(), ids.begin(), ids.end());
    return append(slot, all, row);
  }
  for (size_t at = 0; at < ids.size(); at += size_t(shape_.prefill_chunk)) {
    const auto piece = ids.subspan(at, std::min(size_t(shape_.prefill_chunk), ids.size() - at));
    const auto tokens = upload(piece, [&](int64_t i) { return slot.cache.length() + i; }, length);
    decoder_.infer(tokens, std::array{&slot.cache}, logits_.rows(row, 1));
    slot.held.insert(slot.held.end(), piece.begin(), piece.end());
  }
  slot.turned_for = length;
}

void Engine::decode(std::span<const Next> next) {
  const auto n = int64_t(next.size());
  if (n == 1 || shape_.model.rope_follows_length()) {  // whose tables are those of one length
    for (int64_t i = 0; i < n; ++i) append(*next[size_t(i)].slot, {&next[size_t(i)].id, 1}, i);
    return;
  }
  std::vector<int32_t> ids;
  std::vector<nn::KvCache*> caches;
  int64_t longest = 0;
  for (const auto& [slot, id] : next) {
    ids.push_back(id);
    caches.push_back(&slot->cache);
    longest = std::max(longest, slot->turned_for = slot->cache.length() + 1);
  }
  decoder_.infer(upload(ids, [&](int64_t i) { return caches[size_t(i)]->length(); }, longest), caches, logits_.rows(0, n));
  for (const auto& [slot, id] : next) slot->held.push_back(id);
}

void Engine::bring(std::span<const Active> active) {
  const auto rows = std::ssize(active);
  const auto ids = [&](const Tensor& t) { return Tensor{t.data, DType::i32, {rows}}; };
  if (std::any_of(active.begin(), active.end(), [](const Active& a) { return a.request.sampler->penalties().any(); })) {
    for (int64_t i = 0; i < rows && !rank_.is_phantom(); ++i) {
      const auto& [slot, request, out] = active[size_t(i)];
      host_drawn_.get<int32_t>()[i] = out.ids.empty() ? request.prompt.back() : out.ids.back();
    }
    rank_.upload("last tokens", ids(drawn_), ids(host_drawn_));
    for (int64_t i = 0; i < rows; ++i) {
      const auto& [slot, request, out] = active[size_t(i)];
      penalize(i, *slot, request, std::ssize(request.prompt) + std::ssize(out.ids), drawn_.rows(i, 1));
    }
  }
  const auto greedy = [](const Active& a) { return !a.request.sampler->drawing(); };
  if (std::any_of(active.begin(), active.end(), greedy)) ops::argmax(rank_.stream, ids(drawn_), logits_.rows(0, rows));
  if (!std::all_of(active.begin(), active.end(), greedy)) {
    std::vector<std::optional<ops::Drawing>> how;
    for (const Active& a : active) how.push_back(a.request.sampler->drawing());
    ops::draw(rank_.stream, ids(drawn_), logits_.rows(0, rows), how);
  }
  rank_.download("drawn tokens", ids(host_drawn_), ids(drawn_));
}

void Engine::penalize(int64_t row, const Slot& slot, const Request& request, int64_t length, Tensor last) {
  if (const auto by = request.sampler->penalties(); by.any()) ops::penalize(rank_.stream, logits_.rows(row, 1), slot.text.rows(0, length), std::ssize(request.prompt), last, counts_, by);
}

Ticket Engine::hand_on(Slot& slot, int from, int to, const Request& request, uint64_t later) {
  const int64_t position = slot.cache.length();
  const Tensor logits = logits_.rows(0, 1), id = drawn_.rows(from, 1);
  slot.turned_for = position + 1;
  decoder_.infer({.ids = id, .targets = {}, .positions = positions_.rows(position, 1), .start = positions_.rows(0, 1), .length = slot.turned_for}, std::array{&slot.cache}, logits);
  penalize(0, slot, request, position + 1, id);
  if (const auto how = request.sampler->drawing(later)) ops::draw(rank_.stream, drawn_.rows(to, 1), logits, *how);
  else ops::argmax(rank_.stream, drawn_.rows(to, 1), logits);
  return rank_.begin_download("drawn tokens", host_drawn_.rows(to, 1), drawn_.rows(to, 1));
}

bool Engine::follows(const std::vector<Active>& active) const {
  const auto& model = shape_.model;  // RoPE whose tables change with the length goes by append()
  return slots_.size() == 1 && active.size() == 1 && !model.rope_follows_length() && model.rope.kind != nn::RopeSpec::Kind::longrope;
}

void Engine::follow(Active& a, const std::vector<int32_t>& ends) {
  Slot& slot = *a.slot;
  const bool ahead = rank_.device.kind() == DeviceKind::cuda && shape_.processor_layers == 0;  // elsewhere a step that nobody asked for costs what it saves
  int now = 1;
  for (Ticket made = hand_on(slot, 0, now, a.request, 0);; now ^= 1) {
    slot.held.push_back(a.out.ids.back());
    const Ticket read = made;
    if (ahead && int64_t(a.out.ids.size()) + 1 < a.request.limit) made = hand_on(slot, now, now ^ 1, a.request, 1);
    rank_.device.host_wait(read);
    if (!goes_on(a, now, ends)) {
      rank_.device.wait(made);
      break;
    }
    if (!ahead) made = hand_on(slot, now, now ^ 1, a.request, 0);
  }
  slot.cache.cut_to(int64_t(slot.held.size()));  // of a step that went too far
  slot.held.resize(size_t(slot.cache.length()));
}

void Engine::prefill(Slot& slot, const Request& request) {
  const auto& prompt = request.prompt;
  if (prompt.empty()) throw Error(Fault::usage, {.what = "an empty prompt", .expected = "at least one token (this tokenizer adds none of its own)"});
  if (int64_t(prompt.size()) + request.limit > shape_.context)
    throw Error(Fault::usage, {.what = "prompt and answer do not fit the context", .expected = fmt::format("at most {} tokens", shape_.context),
                               .found = fmt::format("{} of the prompt and {} to generate", prompt.size(), request.limit),
                               .fix = "ask for fewer new tokens, or a longer --context"});
  size_t shared = 0;
  while (!request.fresh && shared < std::min(prompt.size() - 1, slot.held.size()) && prompt[shared] == slot.held[shared]) ++shared;
  if (!shape_.model.rope.same_for(slot.turned_for, int64_t(prompt.size()))) shared = 0;
  slot.cache.cut_to(int64_t(shared));
  shared = size_t(slot.cache.length());
  slot.held.resize(shared);
  append(slot, std::span(prompt).subspan(shared));
  if (!request.sampler->penalties().any()) return;
  const Tensor text = host_text_.rows(0, std::ssize(prompt));
  std::copy(prompt.begin(), prompt.end(), text.get<int32_t>());
  rank_.upload("text", slot.text.rows(0, text.count()), text);
}

bool Engine::goes_on(Active& a, int64_t row, const std::vector<int32_t>& ends) {
  const int32_t id = a.request.sampler->take(host_drawn_.get<int32_t>()[row]);
  if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
    a.out.stopped = true;
    return false;
  }
  a.out.ids.push_back(id);
  if (a.request.on_token && !a.request.on_token(id)) return false;
  return int64_t(a.out.ids.size()) < a.request.limit;
}

void Engine::generate(const std::function<std::optional<Request>()>& next, const std::vector<int32_t>& ends) {
  std::vector<Active> active;
  for (Slot& slot : slots_) slot.free = true;
  const auto end = [](Active& a) {
    a.slot->free = true;
    if (a.request.on_end) a.request.on_end(std::move(a.out));
  };
  for (bool more = true;;) {
    for (Slot& slot : slots_) {
      while (more && slot.free) {  // again, where an answer ends with its first token
        auto request = next();
        if (!(more = request.has_value())) break;
        Active a{&slot, std::move(*request), {}};
        prefill(slot, a.request);
        bring(std::span(&a, 1));
        if (a.request.limit < 1 || !goes_on(a, 0, ends)) end(a);
        else slot.free = false, active.push_back(std::move(a));
      }
    }
    if (active.empty()) return;
    if (follows(active)) {  // the token that the prompt gave lies in the first row
      follow(active[0], ends);
      end(active[0]);
      active.clear();
      continue;
    }
    std::vector<Next> tokens;
    for (const Active& a : active) tokens.push_back({a.slot, a.out.ids.back()});
    decode(tokens);
    bring(active);
    std::vector<Active> rest;
    for (size_t i = 0; i < active.size(); ++i) {
      if (goes_on(active[i], int64_t(i), ends)) rest.push_back(std::move(active[i]));
      else end(active[i]);
    }
    active = std::move(rest);
  }
}

Generated Engine::generate(const std::vector<int32_t>& prompt, int64_t limit, const std::vector<int32_t>& ends, Sampler& sampler,
                           const std::function<bool(int32_t)>& on_token) {
  Generated out;
  bool asked = false;
  generate([&]() -> std::optional<Request> {
    if (std::exchange(asked, true)) return std::nullopt;
    return Request{prompt, limit, &sampler, on_token, [&](Generated g) { out = std::move(g); }};
  }, ends);
  return out;
}

Tensor Engine::append_chunk(std::span<const int32_t> ids, int64_t length) {
  check(shape_.all_logits && int64_t(ids.size()) <= shape_.prefill_chunk && !ids.empty(), "all logits are given of one chunk, where there is room for them");
  const auto n = int64_t(ids.size());
  Slot& slot = slots_.front();
  const auto tokens = upload(ids, [&](int64_t i) { return slot.cache.length() + i; }, length);
  decoder_.infer(tokens, std::array{&slot.cache}, logits_.rows(0, n));
  slot.held.insert(slot.held.end(), ids.begin(), ids.end());
  slot.turned_for = length;
  rank_.download("logits", host_logits_.rows(0, n), logits_.rows(0, n));
  return host_logits_.rows(0, n);
}

Tensor Engine::logits(const std::vector<int32_t>& ids) {
  forget();
  return append_chunk(ids, int64_t(ids.size()));
}

void Engine::forget() {
  slots_.front().cache.cut_to(0);
  slots_.front().held.clear();
}

Score Engine::score(std::span<const int32_t> ids, std::span<const int32_t> targets) {
  check(ids.size() == targets.size(), "each token has a target, or -1");
  if (int64_t(ids.size()) > shape_.context)
    throw Error(Fault::usage, {.what = "a text does not fit the context", .expected = fmt::format("at most {} tokens", shape_.context),
                               .found = fmt::format("{} tokens", ids.size()), .fix = "a longer --context"});
  forget();
  Score score;
  for (size_t at = 0; at < ids.size(); at += size_t(shape_.prefill_chunk)) {
    const size_t n = std::min(size_t(shape_.prefill_chunk), ids.size() - at);
    const float* row = append_chunk(ids.subspan(at, n), int64_t(ids.size())).get<float>();
    for (size_t i = 0; i < n; ++i, row += shape_.model.vocab) {
      const int32_t target = targets[at + i];
      if (target < 0) continue;
      check(target < shape_.model.vocab, "targets lie in the vocabulary");
      const float* best = std::max_element(row, row + shape_.model.vocab);
      double sum = 0;
      for (const float* x = row; x < row + shape_.model.vocab; ++x) sum += std::exp(double(*x) - double(*best));
      score.loss += std::log(sum) + double(*best) - double(row[target]);
      score.correct += best - row == target;
      ++score.targets;
    }
  }
  return score;
}

plan::Outcome Engine::rehearse(const DeviceSpec& spec, const EngineShape& shape) {
  const auto device = phantom_device(spec);
  comm::Rank rank(*device, comm::boundless);
  Engine engine(rank, shape);
  engine.load(nullptr);
  engine.load_adapters(nullptr);
  plan::Outcome outcome;
  const std::vector<int32_t> chunk(size_t(std::min(shape.prefill_chunk, shape.context)));
  Slot& slot = engine.slots_.front();
  engine.append(slot, chunk);
  const auto few = std::span(chunk).first(std::min(chunk.size(), size_t(quant::most_few_tokens)));  // what is multiplied otherwise takes other scratch
  const auto again_at = [&](Slot& of, int64_t length) { of.cache.pretend(length), of.held.clear(), of.turned_for = shape.context; };
  again_at(slot, shape.context - int64_t(chunk.size()));
  engine.append(slot, chunk);  // the last chunk of a full context: the most that attention may take
  again_at(slot, shape.context - int64_t(few.size()));
  engine.append(slot, few);
  if (shape.all_logits) {
    again_at(slot, shape.context - int64_t(chunk.size()));
    engine.append_chunk(chunk, shape.context);  // and with the logits of all its tokens
  }
  std::vector<Next> one_each;
  for (Slot& each : engine.slots_) again_at(each, shape.context - 1), one_each.push_back({&each, 0});
  engine.decode(one_each);
  Sampler greedy({}), repeats_less({.repetition_penalty = 1.1});
  const auto active = [&](Sampler& sampler) { return std::vector<Active>(engine.slots_.size(), {&slot, {.prompt = {0}, .sampler = &sampler}, {}}); };
  engine.bring(active(repeats_less));
  for (Slot& each : engine.slots_) again_at(each, 0);
  const size_t begin = rank.ledger.entries().size();
  if (engine.follows(active(greedy))) {
    engine.hand_on(slot, 0, 1, {.sampler = &greedy}, 0);
  } else {
    engine.decode(one_each);
    engine.bring(active(greedy));
  }
  const auto& all = rank.ledger.entries();
  outcome.tokens = shape.sequences;
  outcome.window_seconds = plan::predicted_seconds(std::span(all).subspan(begin), spec);
  outcome.set_bytes(rank.ledger, spec);
  return outcome;
}

}  // namespace thimble::serve
