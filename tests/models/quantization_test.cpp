// quantization_config: what is read, and every other method, code or size refused by name.
#include "models/quantization.h"

#include <gtest/gtest.h>

namespace thimble::models {
namespace {

const Json four = {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"bnb_4bit_quant_type", "nf4"}};
const Json eight = {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}};
const Json floats = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};

nn::StoredAs stored(const Json& q) { return read_stored({{"quantization_config", q}}, "some/config.json"); }
Json with(Json q, const char* key, const Json& value) {
  q[key] = value;
  return q;
}
void expect_refused(const Json& q, std::initializer_list<std::string_view> words) {
  try {
    stored(q);
    ADD_FAILURE() << "accepted: " << q.dump();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input);
    const std::string_view text = e.what();
    EXPECT_NE(text.find("some/config.json"), text.npos) << text;
    for (const auto w : words) EXPECT_NE(text.find(w), text.npos) << "'" << w << "' in: " << text;
  } catch (const std::exception& e) {
    ADD_FAILURE() << q.dump() << " is no Error: " << e.what();
  }
}

TEST(Quantization, WhatIsRead) {
  using quant::FormatId;
  EXPECT_EQ(read_stored({}, "x"), nn::StoredAs{});
  EXPECT_EQ(stored(nullptr), nn::StoredAs{});
  EXPECT_EQ(stored(four).format, FormatId::nf4);
  EXPECT_EQ(stored(with(four, "bnb_4bit_use_double_quant", true)).format, FormatId::nf4_dq);
  EXPECT_EQ(stored(eight).format, FormatId::int8);
  EXPECT_EQ(stored(floats), nn::StoredAs{});
  for (const FormatId id : {FormatId::nf4, FormatId::nf4_dq, FormatId::int8}) EXPECT_EQ(stored(quantization_config(id, "bfloat16", {"a", "b"})), (nn::StoredAs{id, {"a", "b"}}));
}

TEST(Quantization, ModulesThatStayPlain) {
  const auto kept = stored(with(four, "llm_int8_skip_modules", {"lm_head", "model.layers.1", "mlp.up_proj"}));
  for (const char* name : {"lm_head", "model.layers.1", "model.layers.1.mlp.down_proj", "model.layers.7.mlp.up_proj"}) EXPECT_TRUE(kept.keeps(name)) << name;
  for (const char* name : {"model.layers.11.mlp.down_proj", "model.layers.7.mlp.gate_proj", "model.layers.7"}) EXPECT_FALSE(kept.keeps(name)) << name;
}

TEST(Quantization, EverythingElseIsRefusedByName) {
  for (const Json& q : {Json(1), Json("nf4"), Json::array()}) expect_refused(q, {"quantization_config", "an object"});
  expect_refused(Json::object(), {"quant_method"});
  for (const char* method : {"gptq", "awq", "mxfp4", "compressed-tensors", ""}) expect_refused(with(four, "quant_method", method), {"bitsandbytes", "fp8", method});
  for (const Json& bits : {Json(0), Json(5), Json(64)}) expect_refused({{"quant_method", "gptq"}, {"bits", bits}, {"group_size", 0}, {"desc_act", true}}, {"gptq"});
  expect_refused(with(four, "load_in_8bit", true), {"load_in_4bit"});
  expect_refused({{"quant_method", "bitsandbytes"}}, {"load_in_4bit"});
  expect_refused(with(four, "load_in_4bit", 1), {"load_in_4bit"});
  expect_refused(with(four, "bnb_4bit_quant_type", "fp4"), {"bnb_4bit_quant_type", "nf4", "fp4"});
  expect_refused(with(four, "bnb_4bit_use_double_quant", "yes"), {"bnb_4bit_use_double_quant"});
  expect_refused(with(four, "llm_int8_skip_modules", "lm_head"), {"llm_int8_skip_modules"});
  for (const Json& name : {Json(1), Json(""), Json("model.layers.*"), Json("(a+)+$")}) expect_refused(with(four, "llm_int8_skip_modules", Json::array({name})), {"llm_int8_skip_modules"});
  expect_refused(with(eight, "llm_int8_threshold", 0.0), {"llm_int8_threshold", "6"});
  expect_refused(with(eight, "llm_int8_has_fp16_weight", true), {"llm_int8_has_fp16_weight"});
  for (const Json& size : {Json(nullptr), Json(128), Json{64, 64}, Json{0, 128}, Json{128, 128, 128}}) expect_refused(with(floats, "weight_block_size", size), {"weight_block_size", "[128, 128]"});
  expect_refused(with(floats, "fmt", "e5m2"), {"fmt", "e4m3"});
}

}  // namespace
}  // namespace thimble::models
