// Of one token, whose tensors are small enough to lie there together.
#include "nn/chain.h"

#include "nn/attention.h"

namespace thimble::nn {

bool chains(const LayerParams& p, const SavedShapes& s) {
  return p.generating && s.tokens == 1 && !p.lora.a[o_group] && !p.lora.a[gate_up_group] && !p.lora.a[down_group];
}

void chained(comm::Rank& r, const LayerParams& p, const Context& c, Tensor y, Tensor x, Tensor mid, Saved& s) {
  const LayerSpec& layer = s.shapes().layer;
  const bool whole = !p.lora.a[qkv_group] && c.caches.size() == 1;
  if (whole) Attention::place(r, c, s);
  else Attention::attend(r, p, c, x, s);
  const bool after = layer.norms_after;
  const Tensor to_mid = after ? s.make(r, attention_out) : mid, to_y = after ? s.make(r, mlp_out) : y;
  const Tensor to_gate = s.make(r, gate), to_up = s.make(r, up), to_act = s.make(r, act);
  const auto product = [&](Tensor to, LayerParam w, Tensor plus = {}) { return quant::FewProduct{to, &p.weight[w], plus}; };
  const auto bias = [&](LayerParam b) { return p.weight[b].dense(); };
  const std::array qkv{product(s[q], q_proj), product(s[layer.head_norms ? k_plain : k], k_proj), product(s[v], v_proj)};
  const std::array out{product(to_mid, o_proj, after ? Tensor{} : x)}, down{product(to_y, down_proj, after ? Tensor{} : mid)};
  const std::array gate_up{product(to_gate, gate_proj), product(to_up, up_proj)};
  const ops::Join join = after ? ops::Join{to_mid, x, norm_by(c, p.weight[norm_after_attention])} : ops::Join{};
  const std::array chain{
      ops::Few{x, qkv, norm_by(c, p.weight[norm_attention]), {.bias = {bias(q_bias), bias(k_bias), bias(v_bias)}, .turn = layer.head_norms ? ops::Turn{} : Attention::turn(c, layer)}},
      ops::Few{.x = s[attended], .products = out, .after = {.bias = {bias(o_bias)}}, .attend = whole ? Attention::of_one(p, c, s) : ops::Attend{}},
      ops::Few{mid, gate_up, norm_by(c, p.weight[norm_mlp]), {.bias = {bias(gate_bias), bias(up_bias)}, .gated = to_act, .activation = c.model->activation}, join},
      ops::Few{.x = to_act, .products = down, .after = {.bias = {bias(down_bias)}}}};
  ops::linear_few(r.stream, std::span(chain).subspan(whole ? 0 : 1));
  if (after) norm(r, c, y, s.make(r, rstd_mlp_out), to_y, p.weight[norm_after_mlp], mid);
}

}  // namespace thimble::nn
