// Keys and fields as PEFT writes them; a tensor that a file holds beyond ours is an error, since ignoring it would change the model.
#include "store/adapter_files.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "base/log.h"

namespace thimble::store {

std::string peft_name(const ParamSpec& p) {
  const std::string module = "base_model.model." + p.name.substr(0, p.name.size() - std::string_view(".weight").size());
  switch (p.role) {
    case Role::lora_a: return module + ".lora_A.weight";
    case Role::lora_b: return module + ".lora_B.weight";
    case Role::lora_magnitude: return module + ".lora_magnitude_vector";
    default: return "base_model.model." + p.name;
  }
}

std::string name_in_file(const ParamSpec& p) { return is_adapter(p.role) ? peft_name(p) : p.name; }

namespace {

std::vector<std::string> names_in(const Json& list, const char* key, const std::string& where) {
  if (!list.is_array()) fail_field(where, key, "an array of module names", &list);
  std::vector<std::string> names;
  for (const Json& t : list) {
    names.push_back(read_as<std::string>(t, key, where));
    if (names.back().empty() || names.back().back() == '.') fail_field(where, key, "names of modules", &t);
  }
  return names;
}

// "embed_tokens" of "model.embed_tokens.weight"
bool is_module(const ParamSpec& p, const std::string& module) {
  const std::string end = module + ".weight";
  return p.name == end || p.name.ends_with("." + end);
}

class AdaptedWeights final : public WeightSource {
 public:
  AdaptedWeights(const WeightSource& base, const AdapterFile* adapter) : base_(base), adapter_(adapter) {}
  bool has(const std::string& name) const override { return saved(name) || base_.has(in_base(name)); }
  void read(const std::string& name, int64_t row, Tensor to) const override {
    if (const TensorInfo* t = saved(name)) adapter_->file().read(*t, row * t->shape.row(), to);
    else base_.read(in_base(name), row, to);
  }
  void read_part(const std::string& name, int part, int64_t first, Tensor to) const override { base_.read_part(in_base(name), part, first, to); }
  void check_table(const ParamTable& table) const override {  // those that were saved were checked as the adapter's
    const auto of_base = [&](const std::vector<ParamSpec>& specs) {
      std::vector<ParamSpec> kept;
      for (const ParamSpec& p : specs) {
        if (saved(p.file_name())) continue;
        kept.push_back(p);
        kept.back().name = in_base(p.name);
      }
      return kept;
    };
    ParamTable kept{.outside = of_base(table.outside), .layers = {}};
    for (const auto& layer : table.layers) kept.layers.push_back(of_base(layer));
    base_.check_table(kept);
  }

 private:
  const TensorInfo* saved(const std::string& name) const { return adapter_ ? adapter_->file().find("base_model.model." + name) : nullptr; }
  std::string in_base(const std::string& name) const { return name == "lm_head.weight" && !base_.has(name) ? "model.embed_tokens.weight" : name; }
  const WeightSource& base_;
  const AdapterFile* adapter_;
};

}  // namespace

std::unique_ptr<WeightSource> adapted_weights(const WeightSource& base, const AdapterFile* adapter) { return std::make_unique<AdaptedWeights>(base, adapter); }

std::vector<ParamSpec> tensors_of_adapter(const std::vector<ParamSpec>& adapters, const ParamTable& base, const std::vector<std::string>& modules_to_save) {
  std::vector<ParamSpec> all;
  base.for_each([&](const ParamSpec& p) {
    if (std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const auto& module) { return is_module(p, module); })) all.push_back(p);
  });
  all.insert(all.end(), adapters.begin(), adapters.end());
  return all;
}

AdapterConfig read_adapter_config(const fs::path& folder) {
  const auto path = folder / "adapter_config.json";
  const std::string where = path.string();
  const Json c = parse_json(read_text(path, int64_t{1} << 20), where, 16);
  if (!c.is_object()) fail_field(where, "adapter_config", "an object", &c);
  const auto refuse = [&](const char* key, auto allowed) {
    const auto it = c.find(key);
    if (it != c.end() && !it->is_null() && !allowed(*it)) fail_field(where, key, "not supported yet", &*it);
  };
  const auto empty = [](const Json& v) { return (v.is_array() || v.is_object()) && v.empty(); };
  const auto off = [](const Json& v) { return v == false; };
  if (require<std::string>(c, "peft_type", where) != "LORA") fail_field(where, "peft_type", "LORA", &c["peft_type"]);
  refuse("lora_bias", off);
  refuse("use_qalora", off);
  refuse("fan_in_fan_out", off);
  refuse("bias", [](const Json& v) { return v == "none"; });
  for (const char* key : {"layer_replication", "layers_pattern", "target_parameters", "exclude_modules", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
                          "use_bdlora", "kasa_config", "velora_config", "monteclora_config"})
    refuse(key, empty);
  // The others (pissa, olora, loftq, corda) change the base too.
  refuse("init_lora_weights", [](const Json& v) { return v.is_boolean() || v == "gaussian" || v == "eva" || v == "orthogonal"; });
  AdapterConfig a;
  a.rank = require<int64_t>(c, "r", where);
  if (a.rank < 1 || a.rank > 65536) fail_field(where, "r", "a rank from 1 to 65536", &c["r"]);
  a.alpha = value_or<double>(c, "lora_alpha", double(a.rank), where);
  a.rslora = value_or<bool>(c, "use_rslora", false, where);
  a.dora = value_or<bool>(c, "use_dora", false, where);
  a.dropout = value_or<double>(c, "lora_dropout", 0.0, where);
  if (!(a.dropout >= 0 && a.dropout < 1)) fail_field(where, "lora_dropout", "a share from 0 to below 1", &c["lora_dropout"]);
  a.base_model = value_or<std::string>(c, "base_model_name_or_path", "", where);
  const auto targets = c.find("target_modules");
  if (targets == c.end() || (!targets->is_array() && !targets->is_string()))
    fail_field(where, "target_modules", "an array of module names, or an expression", targets == c.end() ? nullptr : &*targets);
  if (targets->is_string()) a.target_pattern = targets->get<std::string>();
  else a.targets = names_in(*targets, "target_modules", where);
  if (a.targets.empty() && a.target_pattern.empty()) fail_field(where, "target_modules", "at least one module", &*targets);
  const auto each_of = [&](const char* key, auto&& read) {
    const auto it = c.find(key);
    if (it != c.end() && !it->is_null()) read(*it);
  };
  each_of("modules_to_save", [&](const Json& v) { a.modules_to_save = names_in(v, "modules_to_save", where); });
  each_of("layers_to_transform", [&](const Json& v) {
    for (const Json& l : v.is_array() ? v : Json::array({v})) a.layers_to_transform.push_back(read_as<int64_t>(l, "layers_to_transform", where));
  });
  for (auto [key, pattern] : {std::pair{"rank_pattern", &a.rank_pattern}, {"alpha_pattern", &a.alpha_pattern}})
    each_of(key, [&, key = key, pattern = pattern](const Json& v) {
      if (!v.is_object()) fail_field(where, key, "an object from a module's name to a number", &v);
      for (const auto& [name, number] : v.items()) pattern->emplace_back(name, read_as<double>(number, key, where));
    });
  for (const auto& [name, rank] : a.rank_pattern)
    if (!(rank >= 1 && rank <= 65536 && rank == std::floor(rank))) fail_field(where, "rank_pattern", "ranks from 1 to 65536", &c["rank_pattern"]);
  return a;
}

// By the last word of its name, which a folder's path holds somewhere: Llama-3-8B, /data/Llama-3-8B, models--meta--Llama-3-8B/snapshots/1a2b.
void warn_of_other_base(const AdapterConfig& a, const fs::path& model) {
  const fs::path said = fs::path(a.base_model + "/").parent_path().filename();
  std::error_code none;
  if (said.empty() || fs::weakly_canonical(model, none).string().find(said.string()) != std::string::npos) return;
  if (fs::equivalent(a.base_model, model, none)) return;
  log_warning("the adapter was trained on {}, and the base is {}; if that is another model, what comes out means nothing", a.base_model, model.string());
}

AdapterFile::AdapterFile(const fs::path& folder, const std::vector<ParamSpec>& adapters)
    : file_([&] {
        const auto path = folder / "adapter_model.safetensors";
        if (!fs::exists(path) && fs::exists(folder / "adapter_model.bin"))
          throw Error(Fault::bad_input, {.what = "an adapter in a pickle file, which can run code when opened",
                                         .where = folder.string(),
                                         .expected = "adapter_model.safetensors",
                                         .fix = "save it again with PEFT's save_pretrained(..., safe_serialization=True)"});
        return SafetensorsFile(path);
      }()) {
  for (const auto& p : adapters) {
    const TensorInfo& t = info(p);
    if (!(t.shape == p.shape))
      throw Error(Fault::bad_input, {.what = "an adapter does not fit the base model",
                                     .where = file_.where(t.name),
                                     .expected = to_string(p.shape),
                                     .found = to_string(t.shape),
                                     .fix = "name the base that the adapter was trained on"});
  }
  std::unordered_set<std::string> announced;
  for (const auto& p : adapters) announced.insert(peft_name(p));
  for (const auto& t : file_.tensors())
    if (!announced.contains(std::string(t.name)))
      throw Error(Fault::bad_input, {.what = "an adapter holds a tensor that its config does not announce",
                                     .where = file_.where(t.name),
                                     .expected = fmt::format("the {} tensors of target_modules", adapters.size()),
                                     .found = fmt::format("{} tensors", file_.tensors().size()),
                                     .fix = "name the base that the adapter was trained on"});
}

const TensorInfo& AdapterFile::info(const ParamSpec& p) const {
  const TensorInfo* t = file_.find(peft_name(p));
  if (!t)
    throw Error(Fault::bad_input, {.what = "a tensor of an adapter is missing",
                                   .where = file_.file().path().string(),
                                   .expected = peft_name(p),
                                   .found = file_.tensors().empty()
                                                ? "no tensors"
                                                : fmt::format("{} tensors, such as '{}'", file_.tensors().size(), file_.tensors()[0].name),
                                   .fix = "name the base that the adapter was trained on"});
  return *t;
}

void AdapterFile::read(const ParamSpec& p, Tensor to) const { file_.read(info(p), 0, to); }

std::vector<WrittenFile> write_adapter(const fs::path& folder, const AdapterConfig& a, const std::vector<ParamSpec>& adapters,
                                       const std::function<void(const std::function<void(const ParamSpec&, Tensor piece)>& put)>& fill) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const auto& p : adapters) declared.push_back({peft_name(p), p.dtype, p.shape});
  fs::create_directories(folder);
  SafetensorsWriter writer(folder / "adapter_model.safetensors", std::move(declared));
  fill([&](const ParamSpec&, Tensor piece) { writer.write(piece); });
  std::vector<WrittenFile> files{writer.commit()};
  const auto object = [](const auto& pattern, auto number) {
    Json o = Json::object();
    for (const auto& [name, value] : pattern) o[name] = decltype(number)(value);
    return o;
  };
  const Json config = {{"peft_type", "LORA"},
                       {"task_type", "CAUSAL_LM"},
                       {"base_model_name_or_path", a.base_model},
                       {"r", a.rank},
                       {"lora_alpha", a.alpha},
                       {"lora_dropout", a.dropout},
                       {"target_modules", a.targets},
                       {"bias", "none"},
                       {"use_rslora", a.rslora},
                       {"use_dora", a.dora},
                       {"fan_in_fan_out", false},
                       {"init_lora_weights", true},
                       {"inference_mode", true},
                       {"modules_to_save", a.modules_to_save.empty() ? Json(nullptr) : Json(a.modules_to_save)},
                       {"rank_pattern", object(a.rank_pattern, int64_t{})},
                       {"alpha_pattern", object(a.alpha_pattern, double{})},
                       {"layers_to_transform", nullptr},
                       {"layers_pattern", nullptr},
                       {"revision", nullptr}};
  files.push_back(write_atomically(folder / "adapter_config.json", config.dump(2) + "\n"));
  return files;
}

}  // namespace thimble::store
