// Adapters in PEFT's layout (src/peft/utils/save_and_load.py): adapter_config.json and adapter_model.safetensors.
#pragma once
#include <functional>

#include "base/json.h"
#include "store/param_table.h"
#include "store/safetensors.h"
#include "store/weight_source.h"

namespace thimble::store {

struct AdapterConfig {
  int64_t rank = 8;
  double alpha = 16, dropout = 0;
  bool rslora = false, dora = false;
  std::vector<std::string> targets;          // ends of module names: "q_proj", "layers.3.mlp.up_proj"
  std::string target_pattern;                // instead of these: an expression that whole module names match, or "all-linear"
  std::vector<int64_t> layers_to_transform;  // the layers that may carry an adapter; empty: all
  std::vector<std::pair<std::string, double>> rank_pattern, alpha_pattern;  // expression of a name's end: another rank or alpha there
  std::vector<std::string> modules_to_save;  // trained whole, beside the adapters: "embed_tokens", "lm_head"
  std::string base_model;
};

// What PEFT's LoraConfig has and we do not is refused by name. Throws Error (bad_input).
AdapterConfig read_adapter_config(const fs::path& folder);
void warn_of_other_base(const AdapterConfig&, const fs::path& model);  // where the adapter names another model than this folder's

// Opens the tensors and checks them against what a model's adapter has (store/param_table.h: names of the base's weights; their roles tell the
// matrices of adapters from weights that were trained whole).
class AdapterFile {
 public:
  AdapterFile(const fs::path& folder, const std::vector<ParamSpec>& adapters);
  void read(const ParamSpec&, Tensor to) const;  // f32, host
  const SafetensorsFile& file() const { return file_; }

 private:
  const TensorInfo& info(const ParamSpec&) const;
  SafetensorsFile file_;
};

// What an adapter's file holds: its matrices and, of the base's table, the modules that were trained whole.
std::vector<ParamSpec> tensors_of_adapter(const std::vector<ParamSpec>& adapters, const ParamTable& base, const std::vector<std::string>& modules_to_save);

// A base as adapters see it: modules that an adapter was saved with (null: none) stand in for the base's, and a head that the base ties to its
// embedding is read from there. All are kept by reference.
std::unique_ptr<WeightSource> adapted_weights(const WeightSource& base, const AdapterFile*);

// Writes both files. `fill` is called once with a function that takes each tensor's elements, piece by piece, in the order of `adapters`.
std::vector<WrittenFile> write_adapter(const fs::path& folder, const AdapterConfig&, const std::vector<ParamSpec>& adapters,
                                       const std::function<void(const std::function<void(const ParamSpec&, Tensor piece)>& put)>& fill);

// "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", "base_model.model.lm_head.weight"
std::string peft_name(const ParamSpec&);
// What a trained parameter is called in a checkpoint's states: PEFT's name of an adapter, its own otherwise.
std::string name_in_file(const ParamSpec&);

}  // namespace thimble::store
