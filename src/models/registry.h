// Architectures as data: config.json to ModelSpec, one row and one file a family; and the small files beside it.
#pragma once
#include <optional>
#include <span>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "nn/spec.h"

namespace thimble::models {

struct Family {
  std::string_view architecture, model_type;                         // as in config.json; a ModelSpec's family is its model_type
  nn::ModelSpec (*read)(const Json& config, const std::string& where);
  void (*write)(Json& config, const nn::ModelSpec&);                 // what it has beyond the keys that all families write
};
std::span<const Family> families();

// From a model folder, or a config.json alone. Throws Error (bad_input) naming the key.
nn::ModelSpec read_model(const fs::path& folder_or_config);
nn::ModelSpec parse_config(const Json&, const std::string& where);
Json config_of(const nn::ModelSpec&);  // what read_model reads back, and transformers loads

// Tokens at which generation ends: generation_config.json, else config.json. Throws Error (bad_input) on what is no id below `vocab`.
std::vector<int32_t> end_tokens(const fs::path& folder, int64_t vocab);

}  // namespace thimble::models
