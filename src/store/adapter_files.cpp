// Keys and fields as PEFT writes them; a tensor that a file holds beyond ours is an error, since ignoring it would change the model.
#include "store/adapter_files.h"

#include <unordered_set>

namespace thimble::store {

std::string peft_name(const ParamSpec& p) {
  std::string module = p.name.substr(0, p.name.size() - std::string_view(".weight").size());
  return "base_model.model." + module + (p.role == Role::lora_a ? ".lora_A.weight" : ".lora_B.weight");
}

std::string name_in_file(const ParamSpec& p) { return p.role == Role::lora_a || p.role == Role::lora_b ? peft_name(p) : p.name; }

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
  refuse("use_dora", off);
  refuse("lora_bias", off);
  refuse("use_qalora", off);
  refuse("fan_in_fan_out", off);
  refuse("bias", [](const Json& v) { return v == "none"; });
  for (const char* key : {"modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform", "layer_replication",
                          "target_parameters", "exclude_modules", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
                          "use_bdlora", "kasa_config", "velora_config", "monteclora_config"})
    refuse(key, empty);
  // The others (pissa, olora, loftq, corda) change the base too.
  refuse("init_lora_weights", [](const Json& v) { return v.is_boolean() || v == "gaussian" || v == "eva" || v == "orthogonal"; });
  AdapterConfig a;
  a.rank = require<int64_t>(c, "r", where);
  if (a.rank < 1 || a.rank > 65536) fail_field(where, "r", "a rank from 1 to 65536", &c["r"]);
  a.alpha = value_or<double>(c, "lora_alpha", double(a.rank), where);
  a.rslora = value_or<bool>(c, "use_rslora", false, where);
  a.base_model = value_or<std::string>(c, "base_model_name_or_path", "", where);
  const auto targets = c.find("target_modules");
  if (targets == c.end() || !targets->is_array())
    fail_field(where, "target_modules", "an array of module names", targets == c.end() ? nullptr : &*targets);
  for (const Json& t : *targets) {
    const auto name = read_as<std::string>(t, "target_modules", where);
    a.targets.push_back(name.substr(name.rfind('.') == name.npos ? 0 : name.rfind('.') + 1));
    if (a.targets.back().empty()) fail_field(where, "target_modules", "names of modules", &t);
  }
  if (a.targets.empty()) fail_field(where, "target_modules", "at least one module", &*targets);
  return a;
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
    if (!announced.contains(t.name))
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
  for (const auto& p : adapters) declared.push_back({peft_name(p), DType::f32, p.shape});
  fs::create_directories(folder);
  SafetensorsWriter writer(folder / "adapter_model.safetensors", std::move(declared));
  fill([&](const ParamSpec&, Tensor piece) { writer.write(piece); });
  std::vector<WrittenFile> files{writer.commit()};
  const Json config = {{"peft_type", "LORA"},
                       {"task_type", "CAUSAL_LM"},
                       {"base_model_name_or_path", a.base_model},
                       {"r", a.rank},
                       {"lora_alpha", a.alpha},
                       {"lora_dropout", 0.0},
                       {"target_modules", a.targets},
                       {"bias", "none"},
                       {"use_rslora", a.rslora},
                       {"use_dora", false},
                       {"fan_in_fan_out", false},
                       {"init_lora_weights", true},
                       {"inference_mode", true},
                       {"modules_to_save", nullptr},
                       {"rank_pattern", Json::object()},
                       {"alpha_pattern", Json::object()},
                       {"layers_to_transform", nullptr},
                       {"layers_pattern", nullptr},
                       {"revision", nullptr}};
  files.push_back(write_atomically(folder / "adapter_config.json", config.dump(2) + "\n"));
  return files;
}

}  // namespace thimble::store
