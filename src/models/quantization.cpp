// Only what the reader of files understands is let through: 4-bit NF4, LLM.int8 at its threshold, 8-bit floats in blocks of 128 x 128.
#include "models/quantization.h"

#include "models/config.h"

namespace thimble::models {
namespace {

std::vector<std::string> names(const Json& q, const char* key, const std::string& where) {
  std::vector<std::string> all;
  if (!given(q, key)) return all;
  if (!q[key].is_array()) fail_field(where, key, "an array of modules' names", &q[key]);
  for (const Json& v : q[key]) {
    all.push_back(read_as<std::string>(v, key, where));
    if (all.back().empty() || all.back().find_first_of("*?[](){}|+^$\\") != std::string::npos) fail_field(where, key, "modules' names, no patterns", &v);
  }
  return all;
}

nn::StoredAs read_bitsandbytes(const Json& q, const std::string& where) {
  const bool four = value_or<bool>(q, "load_in_4bit", value_or<bool>(q, "_load_in_4bit", false, where), where);
  const bool eight = value_or<bool>(q, "load_in_8bit", value_or<bool>(q, "_load_in_8bit", false, where), where);
  if (four == eight) fail_field(where, "load_in_4bit", "either load_in_4bit or load_in_8bit", given(q, "load_in_4bit") ? &q["load_in_4bit"] : nullptr);
  nn::StoredAs stored{.kept = names(q, "llm_int8_skip_modules", where)};
  if (eight) {
    stored.format = quant::FormatId::int8;
    if (value_or<double>(q, "llm_int8_threshold", 6, where) != 6) fail_field(where, "llm_int8_threshold", "6, the one that LLM.int8 has here", &q["llm_int8_threshold"]);
    if (value_or<bool>(q, "llm_int8_has_fp16_weight", false, where)) fail_field(where, "llm_int8_has_fp16_weight", "false: 8-bit codes in the files", &q["llm_int8_has_fp16_weight"]);
    return stored;
  }
  if (value_or<std::string>(q, "bnb_4bit_quant_type", "fp4", where) != "nf4")
    fail_field(where, "bnb_4bit_quant_type", "nf4", given(q, "bnb_4bit_quant_type") ? &q["bnb_4bit_quant_type"] : nullptr);
  stored.format = value_or<bool>(q, "bnb_4bit_use_double_quant", false, where) ? quant::FormatId::nf4_dq : quant::FormatId::nf4;
  return stored;
}

nn::StoredAs read_fp8(const Json& q, const std::string& where) {
  if (!given(q, "weight_block_size") || q["weight_block_size"] != Json{128, 128})
    fail_field(where, "weight_block_size", "[128, 128]", given(q, "weight_block_size") ? &q["weight_block_size"] : nullptr);
  if (value_or<std::string>(q, "fmt", "e4m3", where) != "e4m3") fail_field(where, "fmt", "e4m3", &q["fmt"]);
  return {};
}

}  // namespace

nn::StoredAs read_stored(const Json& config, const std::string& in) {
  if (!given(config, "quantization_config")) return {};
  const Json& q = config["quantization_config"];
  if (!q.is_object()) fail_field(in, "quantization_config", "an object", &q);
  const std::string where = in + ", quantization_config";
  const auto method = require<std::string>(q, "quant_method", where);
  if (method == "bitsandbytes") return read_bitsandbytes(q, where);
  if (method == "fp8") return read_fp8(q, where);
  throw Error(Fault::bad_input, {.what = "a model folder quantised by a method that is not read here", .where = where, .expected = "bitsandbytes (nf4, int8) or fp8",
                                 .found = method.substr(0, 80), .fix = "name the 16-bit model; `quantization_bit: 4` quantises it while loading"});
}

Json quantization_config(quant::FormatId format, const std::string& dtype, const std::vector<std::string>& kept) {
  const bool eight = format == quant::FormatId::int8;
  return {{"quant_method", "bitsandbytes"}, {"load_in_4bit", !eight}, {"load_in_8bit", eight}, {"_load_in_4bit", !eight}, {"_load_in_8bit", eight},
          {"bnb_4bit_quant_type", "nf4"}, {"bnb_4bit_use_double_quant", format == quant::FormatId::nf4_dq}, {"bnb_4bit_compute_dtype", dtype},
          {"bnb_4bit_quant_storage", "uint8"}, {"llm_int8_threshold", 6.0}, {"llm_int8_skip_modules", kept.empty() ? Json(nullptr) : Json(kept)},
          {"llm_int8_enable_fp32_cpu_offload", false}, {"llm_int8_has_fp16_weight", false}};
}

}  // namespace thimble::models
