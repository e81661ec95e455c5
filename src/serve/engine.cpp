// Prefill in chunks, then one token at a time. A prompt that begins with what the cache holds keeps it: chat turns cost only what is new.
#include "serve/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace thimble::serve {
namespace {

constexpr int token_rows = 3;  // ids, positions, start

int resident(const EngineShape& s) { return s.resident_layers < 0 ? int(s.model.layers.size()) : s.resident_layers; }

}  // namespace

Engine::Engine(comm::Rank& rank, const EngineShape& shape)
    : rank_(rank), shape_(shape),
      model_(rank, shape.model, shape.method,
             {.layers = int(shape.model.layers.size()), .resident = resident(shape), .embedding_on_host = shape.embedding_on_host}),
      decoder_(rank, model_, {}, shape.prefill_chunk), cache_(rank, shape.model, shape.context) {
  tokens_ = rank.memory.take(Use::batch, "tokens", DType::i32, {token_rows, shape.prefill_chunk});
  logits_ = rank.memory.take(Use::batch, "logits", DType::f32, {shape.prefill_chunk, shape.model.vocab});
  host_tokens_ = rank.pinned.take(Use::batch, "tokens", DType::i32, {token_rows, shape.prefill_chunk});
  host_logits_ = rank.pinned.take(Use::batch, "logits", DType::f32, {shape.prefill_chunk, shape.model.vocab});
}

void Engine::load(const store::WeightSource* source) {
  model_.load(source);
  decoder_.load();
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

nn::Tokens Engine::upload(std::span<const int32_t> ids, int64_t length) {
  const auto n = int64_t(ids.size());
  const Tensor host{host_tokens_.data, DType::i32, {token_rows, n}}, device{tokens_.data, DType::i32, {token_rows, n}};
  if (!rank_.is_phantom()) {
    auto* at = host.get<int32_t>();
    for (int64_t i = 0; i < n; ++i) {
      check(ids[size_t(i)] >= 0 && ids[size_t(i)] < shape_.model.vocab, "token ids lie in the vocabulary");
      at[i] = ids[size_t(i)];
      at[n + i] = int32_t(cache_.length() + i);
      at[2 * n + i] = 0;
    }
  }
  rank_.upload("tokens", device, host);
  const auto row = [&](int i) { return device.rows(i, 1).view({n}); };
  turned_for_ = length;
  return {.ids = row(0), .targets = {}, .positions = row(1), .start = row(2), .length = length};
}

void Engine::append(std::span<const int32_t> ids) {
  const int64_t length = cache_.length() + int64_t(ids.size());
  if (const auto& rope = shape_.model.rope; rope.kind == nn::RopeSpec::Kind::longrope && cache_.length() > 0 && !rope.same_for(turned_for_, length)) {
    // LongRoPE's factors change once, beyond the original length: all keys are turned anew. Dynamic NTK's change with every token: there
    // keys keep the turn that they were made with, as in transformers' generate.
    std::vector<int32_t> all = std::exchange(in_cache_, {});
    cache_.cut_to(0);
    all.insert(all.end(), ids.begin(), ids.end());
    return append(all);
  }
  const Tensor last = logits_.rows(0, 1);
  for (size_t at = 0; at < ids.size(); at += size_t(shape_.prefill_chunk)) {
    const auto piece = ids.subspan(at, std::min(size_t(shape_.prefill_chunk), ids.size() - at));
    decoder_.infer(upload(piece, length), cache_, last);
    in_cache_.insert(in_cache_.end(), piece.begin(), piece.end());
  }
  rank_.download("logits", host_logits_.rows(0, 1), last);
}

Generated Engine::generate(const std::vector<int32_t>& prompt, int64_t limit, const std::vector<int32_t>& ends, Sampler& sampler,
                           const std::function<bool(int32_t)>& on_token) {
  if (prompt.empty()) throw Error(Fault::usage, {.what = "an empty prompt", .expected = "at least one token (this tokenizer adds none of its own)"});
  if (int64_t(prompt.size()) + limit > shape_.context)
    throw Error(Fault::usage, {.what = "prompt and answer do not fit the context", .expected = fmt::format("at most {} tokens", shape_.context),
                               .found = fmt::format("{} of the prompt and {} to generate", prompt.size(), limit),
                               .fix = "ask for fewer new tokens, or a longer --context"});
  size_t shared = 0;
  while (shared < std::min(prompt.size() - 1, in_cache_.size()) && prompt[shared] == in_cache_[shared]) ++shared;
  if (!shape_.model.rope.same_for(turned_for_, int64_t(prompt.size()))) shared = 0;
  cache_.cut_to(int64_t(shared));
  in_cache_.resize(shared);
  append(std::span(prompt).subspan(shared));
  sampler.begin(prompt);
  Generated g;
  for (int64_t i = 0; i < limit; ++i) {
    const int32_t id = sampler.next({host_logits_.get<float>(), size_t(shape_.model.vocab)});
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
      g.stopped = true;
      break;
    }
    g.ids.push_back(id);
    if (on_token && !on_token(id)) break;
    if (i + 1 < limit) append({&id, 1});
  }
  return g;
}

Tensor Engine::append_chunk(std::span<const int32_t> ids, int64_t length) {
  check(int64_t(ids.size()) <= shape_.prefill_chunk && !ids.empty(), "all logits are given of one chunk");
  const auto n = int64_t(ids.size());
  decoder_.infer(upload(ids, length), cache_, logits_.rows(0, n));
  in_cache_.insert(in_cache_.end(), ids.begin(), ids.end());
  rank_.download("logits", host_logits_.rows(0, n), logits_.rows(0, n));
  return host_logits_.rows(0, n);
}

Tensor Engine::logits(const std::vector<int32_t>& ids) {
  cache_.cut_to(0);
  in_cache_.clear();
  return append_chunk(ids, int64_t(ids.size()));
}

Score Engine::score(std::span<const int32_t> ids, std::span<const int32_t> targets) {
  check(ids.size() == targets.size(), "each token has a target, or -1");
  if (int64_t(ids.size()) > shape_.context)
    throw Error(Fault::usage, {.what = "a text does not fit the context", .expected = fmt::format("at most {} tokens", shape_.context),
                               .found = fmt::format("{} tokens", ids.size()), .fix = "a longer --context"});
  cache_.cut_to(0);
  in_cache_.clear();
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
  engine.append(chunk);
  engine.cache_.cut_to(shape.context - int64_t(chunk.size()));
  engine.append(chunk);  // the last chunk of a full context: the most that attention may take
  engine.cache_.cut_to(shape.context - int64_t(chunk.size()));
  engine.append_chunk(chunk, shape.context);  // and with the logits of all its tokens
  engine.cache_.cut_to(0);
  const size_t begin = rank.ledger.entries().size();
  engine.append(std::span(chunk).first(1));
  const auto& all = rank.ledger.entries();
  outcome.tokens = 1;
  outcome.window_seconds = plan::predicted_seconds(std::span(all).subspan(begin), spec);
  outcome.set_bytes(rank.ledger, spec);
  return outcome;
}

}  // namespace thimble::serve
