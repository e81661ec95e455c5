// The levels of saving, in one list, and their words.
#include <algorithm>

#include "plan/plan.h"

namespace thimble::plan {
namespace {

using nn::LayerSave;
using nn::Save;

LayerSave with(LayerSave s, std::initializer_list<nn::SavedName> names, Save how) {
  for (const auto n : names) s[n] = how;
  return s;
}

}  // namespace

const std::vector<Level>& ladder() {
  using namespace nn;
  static const std::vector<Level> levels = [] {
    const auto cheap = with(all(Save::keep), {normed_attention, normed_mlp, act}, Save::recompute);
    const auto no_mlp = with(cheap, {gate, up, xa_gate_up, xa_down}, Save::recompute);
    const auto block = with(all(Save::recompute), {input, rstd_attention, rstd_q, rstd_k, rstd_attention_out, rstd_mlp, rstd_mlp_out}, Save::keep);
    const std::initializer_list<SavedName> of_attention{input, q_plain, k_plain, q, k, v, attended, attention_out, middle, mlp_out};
    std::vector<Level> l;
    l.push_back({"keep all", all(Save::keep)});
    l.push_back({"recompute norms and act", cheap});
    l.push_back({"recompute norms and act, offload gate and up", with(cheap, {gate, up}, Save::offload)});
    l.push_back({"recompute norms and act, offload the rest", with(with(cheap, {gate, up}, Save::offload), of_attention, Save::offload)});
    l.push_back({"recompute mlp", no_mlp});
    l.push_back({"recompute mlp, offload the rest", with(no_mlp, of_attention, Save::offload)});
    l.push_back({"recompute all but attention, offload its output and the input",
                 with(with(block, {lse}, Save::keep), {input, attended}, Save::offload)});
    l.push_back({"recompute block", block, true});
    l.push_back({"recompute block, offload input", with(all(Save::recompute), {input}, Save::offload), true});
    return l;
  }();
  return levels;
}

std::string describe_saves(const Plan& plan) {
  const auto name = [&](const LayerSave& s) -> std::string {
    for (const auto& level : ladder())
      if (level.save == s) return level.name;
    if (s == nn::all(Save::recompute)) return "recompute everything";
    if (s == nn::all(Save::offload)) return "offload everything";
    return "a choice of its own";
  };
  std::vector<std::pair<LayerSave, int>> kinds;
  for (const auto& s : plan.save) {
    auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == s; });
    if (it == kinds.end()) it = kinds.insert(kinds.end(), {s, 0});
    ++it->second;
  }
  std::string text;
  for (const auto& [save, count] : kinds)
    text += kinds.size() == 1 ? fmt::format("all layers: {}", name(save)) : fmt::format("{}{} of {} layers: {}", text.empty() ? "" : "; ", count, plan.save.size(), name(save));
  return text + (kinds.size() > 1 ? "; spread evenly" : "");
}

std::vector<Rung> rungs(const Space& space, const Plan& like, const DryRun& dry_run) {
  std::vector<Rung> all;
  for (const Level& level : ladder()) {
    Plan plan = like;
    plan.save.assign(size_t(space.layers), level.save);
    all.push_back({level.name, {plan, dry_run(plan)}});
  }
  return all;
}

}  // namespace thimble::plan
