// Names match as PEFT matches them (tuners_utils.check_target_module_exists): a name of the list is a module's whole name or its end after a dot,
// an expression matches the whole name.
#include "train/tuning.h"

#include <algorithm>
#include <cmath>

#include "data/pattern.h"

namespace thimble::train {
namespace {

bool is_name(std::string_view s) {
  return s.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") == s.npos && s.find("..") == s.npos && !s.starts_with(".") && !s.ends_with(".");
}
bool ends_with_name(std::string_view module, std::string_view name) {
  return module == name || (module.size() > name.size() && module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
}

class Expression {
 public:
  Expression(const std::string& text, Fault fault, std::string_view where, bool of_the_end = false) try
      : pattern_(data::Pattern::regex((of_the_end ? "\\A(?:.*\\.)?(?:" : "\\A(?:") + text + ")\\z", where)) {
  } catch (const Error& e) {
    throw Error(fault, {.what = "a name of modules is no regular expression", .where = std::string(where), .expected = e.problem().expected, .found = text.substr(0, 200)});
  }
  bool fits(const std::string& module) const { return !pattern_.find_all(module).empty(); }

 private:
  data::Pattern pattern_;
};

// The first number whose expression fits the module, else `otherwise`.
class Pattern {
 public:
  Pattern(const std::vector<std::pair<std::string, double>>& list, Fault fault, std::string_view where) {
    for (const auto& [text, number] : list) list_.emplace_back(Expression(text, fault, where, true), number);
  }
  double of(const std::string& module, double otherwise) const {
    for (const auto& [expression, number] : list_)
      if (expression.fits(module)) return number;
    return otherwise;
  }

 private:
  std::vector<std::pair<Expression, double>> list_;
};

Error no_such(const nn::ModelSpec& m, Fault fault, std::string what, std::string where, const std::string& found) {
  return Error(fault, {.what = std::move(what), .where = std::move(where),
                       .expected = m.fused_files ? "modules of qkv_proj, o_proj, gate_up_proj or down_proj" : "modules of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj",
                       .found = found.substr(0, 80), .fix = "name these modules, or all"});
}

// Adapters on every matrix that an entry fits; `entries` then names them: by their ends where all layers have one, else each by its whole name.
nn::ByLayer<nn::LayerLora> lora_layers(const nn::ModelSpec& m, store::AdapterConfig& a, Fault fault, const std::string& where) {
  const Pattern ranks(a.rank_pattern, fault, where), alphas(a.alpha_pattern, fault, where);
  std::vector<Expression> expressions;
  const bool all = a.target_pattern == "all-linear";
  if (!a.target_pattern.empty() && !all) expressions.emplace_back(a.target_pattern, fault, where);
  std::vector<std::string> names;
  for (const auto& t : a.targets)
    if (is_name(t)) names.push_back(t);
    else expressions.emplace_back(t, fault, where);
  std::vector<bool> used(names.size() + expressions.size());
  nn::ByLayer<nn::LayerLora> layers;
  std::array<int, nn::layer_param_count> counts{};
  std::vector<std::pair<int, std::string>> found;
  for (int l = 0; l < int(m.layers.size()); ++l) {
    nn::LayerLora row{.fused = m.fused_files};
    const bool may = a.layers_to_transform.empty() || std::find(a.layers_to_transform.begin(), a.layers_to_transform.end(), l) != a.layers_to_transform.end();
    for (int p = 0; p < nn::layer_param_count; ++p) {
      if (!nn::is_matrix(p)) continue;
      const std::string module = nn::module_of(m, l, p);
      bool fits = all;
      for (size_t i = 0; i < names.size(); ++i)
        if (ends_with_name(module, names[i])) fits = used[i] = true;
      for (size_t i = 0; i < expressions.size(); ++i)
        if (expressions[i].fits(module)) fits = used[names.size() + i] = true;
      if (!fits || !may) continue;
      const auto rank = int64_t(ranks.of(module, double(a.rank)));
      const double alpha = alphas.of(module, a.alpha);
      row.of[size_t(p)] = {rank, float(alpha / (a.rslora ? std::sqrt(double(rank)) : double(rank)))};
      found.emplace_back(p, module), ++counts[size_t(p)];
    }
    layers.add(row);
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i]) throw no_such(m, fault, "a target of adapters fits no matrix of the model", where, i < names.size() ? names[i] : "an expression that fits none");
  if (found.empty()) throw no_such(m, fault, "adapters of nothing", where, "no module");
  a.targets.clear();
  a.target_pattern.clear();
  for (const auto& [p, module] : found) {
    const bool everywhere = counts[size_t(p)] == int(m.layers.size());
    const std::string name = everywhere ? module.substr(module.rfind('.') + 1) : module;
    if (std::find(a.targets.begin(), a.targets.end(), name) == a.targets.end()) a.targets.push_back(name);
  }
  a.layers_to_transform.clear();
  return layers;
}

void save_modules(Tuning& t, Fault fault, const std::string& where, bool frozen) {
  for (const auto& module : t.adapter.modules_to_save) {
    const bool embedding = module == "embed_tokens" || module == "model.embed_tokens", head = module == "lm_head";
    if (!embedding && !head)
      throw Error(fault, {.what = "a module that cannot be trained whole beside adapters", .where = where, .expected = "embed_tokens or lm_head", .found = module.substr(0, 80)});
    if (frozen) continue;
    t.method.weights.embedding |= embedding;
    t.method.weights.head |= head;
  }
  if (!t.adapter.modules_to_save.empty()) t.model.tied_head = false;
}

// LLaMA-Factory's freeze tuning: the last n layers, or the first -n; of these all, or parts such as mlp and self_attn.
nn::TrainedWeights thawed(const nn::ModelSpec& m, const TrainOptions& o) {
  const auto layers = int64_t(m.layers.size()), n = o.freeze_trainable_layers;
  const int64_t begin = n > 0 ? std::max<int64_t>(0, layers - n) : 0, end = n > 0 ? layers : std::min(-n, layers);
  nn::TrainedWeights w;
  std::vector<bool> used(o.freeze_trainable_modules.size());
  for (int l = 0; l < int(layers); ++l) {
    nn::TrainedWeights::Layer row;
    for (const nn::LayerParam p : nn::layer_params(m.layers[size_t(l)])) {
      if (l < begin || l >= end) continue;
      const std::string name = nn::layer_param_name(m.layers[size_t(l)], l, p), inside = name.substr(name.find('.', std::string_view("model.layers.").size()) + 1);
      for (size_t i = 0; i < used.size(); ++i)
        if (const auto& part = o.freeze_trainable_modules[i]; part == "all" || inside.starts_with(part + ".")) row.of[p] = used[i] = true;
    }
    w.layers.add(row);
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i])
      throw Error(Fault::usage, {.what = "freeze_trainable_modules names no part of a layer", .where = "freeze_trainable_modules",
                                 .expected = "all, or parts such as self_attn, mlp, input_layernorm, post_attention_layernorm", .found = o.freeze_trainable_modules[i]});
  for (const auto& extra : o.freeze_extra_modules) {
    if (extra == "embed_tokens") w.embedding = true;
    else if (extra == "norm") w.final_norm = true;
    else if (extra == "lm_head" && !m.tied_head) w.head = true;
    else
      throw Error(Fault::usage, {.what = "freeze_extra_modules names no module outside the layers", .where = "freeze_extra_modules",
                                 .expected = m.tied_head ? "embed_tokens (the head is the same table) or norm" : "embed_tokens, norm or lm_head", .found = extra});
  }
  return w;
}

store::AdapterConfig asked_for(const TrainOptions& o) {
  store::AdapterConfig a{.rank = o.lora_rank, .alpha = o.lora_alpha.value_or(2.0 * double(o.lora_rank)), .dropout = o.lora_dropout, .rslora = o.use_rslora, .dora = o.use_dora,
                         .targets = o.lora_target, .modules_to_save = o.additional_target, .base_model = o.model_name_or_path};
  if (a.targets.size() == 1 && a.targets[0] == "all") a.targets.clear(), a.target_pattern = "all-linear";
  return a;
}

Tuning with_adapters(const nn::ModelSpec& m, store::AdapterConfig a, quant::FormatId format, bool frozen, Fault fault, const std::string& where) {
  Tuning t{.model = m, .adapter = std::move(a)};
  t.method.format = format;
  t.method.lora = {.layers = lora_layers(m, t.adapter, fault, where), .dora = t.adapter.dora, .dropout = frozen ? 0 : float(t.adapter.dropout)};
  save_modules(t, fault, where, frozen);
  return t;
}

// What the frozen matrices lie in: as the folder has them, or as they are packed when they are read.
quant::FormatId format_of_base(const nn::ModelSpec& m, const TrainOptions& o) {
  using quant::FormatId;
  auto format = m.stored.format;
  if (o.quantization_bit && format == FormatId::dense) format = *o.quantization_bit == 8 ? FormatId::int8 : o.double_quantization ? FormatId::nf4_dq : FormatId::nf4;
  if (o.quantization_bit && (*o.quantization_bit == 8) != (format == FormatId::int8))
    throw Error(Fault::usage, {.what = "the folder is quantised already, to other bits", .where = o.model_name_or_path, .expected = fmt::format("quantization_bit: {}", *o.quantization_bit),
                               .found = std::string(quant::format(format).name), .fix = "leave out quantization_bit, or name the 16-bit model"});
  return format;
}

}  // namespace

Tuning tuning_of(const nn::ModelSpec& m, const TrainOptions& o) {
  const auto tuned = [&](Tuning t) {
    t.method.embedding_noise = float(o.neftune_noise_alpha.value_or(0));
    if (o.pure_bf16.value_or(false)) t.method.weights.dtype = DType::bf16;
    return t;
  };
  if (o.finetuning_type == Finetuning::full) {
    if (m.stored.format != quant::FormatId::dense)
      throw Error(Fault::usage, {.what = "full tuning of a folder whose matrices are packed", .where = o.model_name_or_path, .expected = "16-bit weights",
                                 .found = std::string(quant::format(m.stored.format).name), .fix = "finetuning_type: lora; or write 16-bit weights first: thimble export"});
    return tuned({.model = m, .method = {.weights = nn::all_weights()}});
  }
  const auto format = format_of_base(m, o);
  if (o.finetuning_type == Finetuning::freeze) return tuned({.model = m, .method = {.weights = thawed(m, o), .format = format}});
  if (!o.adapter_name_or_path) return tuned(with_adapters(m, asked_for(o), format, false, Fault::usage, "lora_target"));
  auto a = store::read_adapter_config(*o.adapter_name_or_path);
  store::warn_of_other_base(a, o.model_name_or_path);
  a.base_model = o.model_name_or_path;
  return tuned(with_adapters(m, a, format, false, Fault::bad_input, *o.adapter_name_or_path));
}

Tuning tuning_of(const nn::ModelSpec& m, const store::AdapterConfig& a, quant::FormatId format, bool frozen) {
  return with_adapters(m, a, format, frozen, Fault::bad_input, "the adapter's adapter_config.json");
}

}  // namespace thimble::train
