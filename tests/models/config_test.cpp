// config.json: every field absent, of another type and absurd gives one error that names it; both spellings of RoPE; what we write is read.
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "models/registry.h"

namespace thimble::models {
namespace {

const Json good = {{"architectures", {"LlamaForCausalLM"}},
                   {"vocab_size", 100},
                   {"hidden_size", 48},
                   {"intermediate_size", 96},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 6},
                   {"num_key_value_heads", 3},
                   {"rms_norm_eps", 1e-5},
                   {"rope_theta", 500.0},
                   {"max_position_embeddings", 64}};
const Json llama3 = {{"rope_type", "llama3"},
                     {"factor", 8.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 32}};

std::string error_of(const std::function<void()>& f, const std::string& of) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input) << of << ": " << e.what();
    EXPECT_FALSE(e.problem().where.empty() || (e.problem().expected.empty() && e.problem().found.empty())) << of << ": " << e.what();
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << of << " is no Error: " << e.what();
    return e.what();
  }
  ADD_FAILURE() << "accepted: " << of;
  return "";
}
void expect_refused(const Json& config, std::initializer_list<std::string_view> words) {
  const auto text = error_of([&] { parse_config(config, "some/config.json"); }, config.dump());
  EXPECT_NE(text.find("some/config.json"), text.npos) << text;
  for (const auto w : words) EXPECT_NE(text.find(w), text.npos) << "'" << w << "' in: " << text;
}
Json with(const Json& base, const char* key, const Json& value) {
  Json c = base;
  c[key] = value;
  return c;
}
Json without(Json c, const char* key) {
  c.erase(key);
  return c;
}

TEST(Config, AGoodOneIsRead) {
  const auto m = parse_config(good, "x");
  EXPECT_EQ(m.family, "llama");
  EXPECT_EQ(m.layers.size(), 2u);
  EXPECT_EQ(m.layers[1], (nn::LayerSpec{.heads = 6, .kv_heads = 3, .head_dim = 8, .ffn = 96}));
  EXPECT_EQ(m.rope, (nn::RopeSpec{.theta = 500}));
  EXPECT_EQ(m.dtype, "float32");
  EXPECT_FALSE(m.tied_head);
}

TEST(Config, ASizeThatIsNoSizeIsNamed) {
  const Json absurd[] = {0, -1, 4096.5, 1e18, uint64_t{1} << 63, int64_t{1} << 62, "48", true, Json::array({48}), Json::object()};
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const Json& value : absurd) expect_refused(with(good, key, value), {key, "expected:", "found:"});
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    expect_refused(without(good, key), {key, "nothing"});
    expect_refused(with(good, key, nullptr), {key});
  }
  for (const char* key : {"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"}) {
    EXPECT_NO_THROW(parse_config(without(good, key), "x")) << key;
    EXPECT_NO_THROW(parse_config(with(good, key, nullptr), "x")) << key;
  }
  EXPECT_EQ(parse_config(without(good, "num_key_value_heads"), "x").layers[0].kv_heads, 6);
}

TEST(Config, HeadsThatDoNotDivide) {
  expect_refused(with(good, "num_attention_heads", 5), {"num_attention_heads", "hidden_size 48"});
  expect_refused(with(good, "num_attention_heads", 49), {"num_attention_heads"});
  expect_refused(with(good, "num_key_value_heads", 4), {"num_key_value_heads", "6 heads"});
  expect_refused(with(good, "num_key_value_heads", 12), {"num_key_value_heads"});
  expect_refused(with(good, "head_dim", 7), {"head_dim", "even"});
  expect_refused(with(with(good, "hidden_size", 18), "head_dim", nullptr), {"head_dim", "even", "not 3"});
  EXPECT_EQ(parse_config(with(with(good, "num_attention_heads", 9), "head_dim", 6), "x").layers[0].head_dim, 6)
      << "head_dim frees the heads from hidden_size";
}

TEST(Config, NumbersThatAreNoRates) {
  for (const char* key : {"rms_norm_eps", "rope_theta"})
    for (const Json& value : {Json(0), Json(-1), Json(0.0), Json(1e300), Json("1e-5"), Json(true), Json::array()})
      expect_refused(with(good, key, value), {key});
}

TEST(Config, WhatTheDecoderDoesNotDo) {
  expect_refused(with(good, "hidden_act", "gelu"), {"hidden_act", "silu", "gelu"});
  for (const char* key : {"attention_bias", "mlp_bias"}) expect_refused(with(good, key, 1), {key});
  expect_refused(with(good, "partial_rotary_factor", 0.5), {"partial_rotary_factor"});
  expect_refused(with(good, "tie_word_embeddings", "yes"), {"tie_word_embeddings"});
  for (const char* key : {"torch_dtype", "dtype"}) {
    expect_refused(with(good, key, "float64"), {key, "bfloat16", "float64"});
    expect_refused(with(good, key, 16), {key});
  }
  expect_refused(with(with(good, "dtype", nullptr), "torch_dtype", "int8"), {"torch_dtype", "int8"});
  EXPECT_EQ(parse_config(with(with(good, "dtype", "float16"), "torch_dtype", "bfloat16"), "x").dtype, "float16");
  expect_refused(with(good, "quantization_config", {{"quant_method", "gptq"}}), {"quantization_config", "gptq"});
  expect_refused(with(good, "auto_map", {{"AutoModelForCausalLM", "modeling_x.X"}}), {"auto_map", "code of its own"});
}

TEST(Config, AnArchitectureThatIsNotKnownIsNamedBesideThoseThatAre) {
  expect_refused(with(good, "architectures", {"MambaForCausalLM"}), {"MambaForCausalLM", "LlamaForCausalLM", "not supported"});
  expect_refused(with(good, "architectures", {std::string(100000, 'x')}), {"LlamaForCausalLM"});
  expect_refused(with(good, "architectures", {"\x1b[2J"}), {"\\x1b[2J"});
  for (const Json& value : {Json(nullptr), Json("LlamaForCausalLM"), Json::array(), Json::array({1}), Json::object()})
    expect_refused(with(good, "architectures", value), {"architectures"});
  expect_refused(without(good, "architectures"), {"architectures", "nothing"});
  for (const Json& root : {Json(nullptr), Json::array(), Json(1), Json("x")}) expect_refused(root, {"an object"});
}

TEST(Config, NoConfigOverflowsWhatIsDerivedFromIt) {
  Json c = good;
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size"}) c[key] = 1 << 24;
  c["num_hidden_layers"] = 10000;
  c["num_attention_heads"] = 65536;
  c["num_key_value_heads"] = 65536;
  c["head_dim"] = 4096;
  expect_refused(c, {"larger than any machine"});
}

TEST(Rope, BothSpellingsSayTheSame) {
  const nn::RopeSpec expected{
      .kind = nn::RopeSpec::Kind::llama3, .theta = 500, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_positions = 32};
  EXPECT_EQ(parse_config(with(good, "rope_scaling", llama3), "x").rope, expected);
  EXPECT_EQ(parse_config(with(without(good, "rope_theta"), "rope_parameters", with(llama3, "rope_theta", 500.0)), "x").rope, expected);
  EXPECT_EQ(parse_config(with(good, "rope_scaling", with(without(llama3, "rope_type"), "type", "llama3")), "x").rope, expected);
  EXPECT_EQ(parse_config(with(with(good, "rope_parameters", nullptr), "rope_scaling", llama3), "x").rope, expected) << "null is not there";
  EXPECT_EQ(parse_config(with(with(good, "rope_parameters", llama3), "rope_scaling", {{"type", "linear"}, {"factor", 2}}), "x").rope,
            expected)
      << "the newer one counts";
  EXPECT_EQ(parse_config(with(good, "rope_scaling", without(llama3, "original_max_position_embeddings")), "x").rope.original_positions, 64);
  EXPECT_EQ(parse_config(with(good, "rope_parameters", {{"rope_type", "default"}, {"rope_theta", 7.0}}), "x").rope,
            (nn::RopeSpec{.theta = 7}));
  EXPECT_EQ(parse_config(with(good, "rope_scaling", Json::object()), "x").rope, (nn::RopeSpec{.theta = 500}));
  EXPECT_EQ(parse_config(with(good, "rope_scaling", {{"type", "linear"}, {"factor", 2}}), "x").rope,
            (nn::RopeSpec{.kind = nn::RopeSpec::Kind::linear, .theta = 500, .factor = 2}));
}

TEST(Rope, EveryBadFieldIsNamedInBothSpellings) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    for (const Json& value : {Json("linear"), Json(2), Json::array({2}), Json(true)})
      expect_refused(with(good, key, value), {key, "an object"});
    for (const char* type : {"proportional", "", "LLAMA3"})
      expect_refused(with(good, key, {{"rope_type", type}, {"factor", 2}}), {key, "rope_type", "default, linear, dynamic, llama3, yarn or longrope"});
    expect_refused(with(good, key, {{"type", "su"}}), {key, "'type'", "su"});
    expect_refused(with(good, key, {{"rope_type", 3}}), {key, "rope_type"});
    expect_refused(with(good, key, {{"rope_type", "linear"}}), {key, "'factor'", "nothing"});
    expect_refused(with(good, key, with(llama3, "partial_rotary_factor", 0.25)), {key, "partial_rotary_factor"});
    for (const char* field : {"factor", "low_freq_factor", "high_freq_factor"}) {
      expect_refused(with(good, key, without(llama3, field)), {key, field, "nothing"});
      for (const Json& value : {Json(0), Json(-8.0), Json(1e300), Json("8"), Json(nullptr), Json::array({8})})
        expect_refused(with(good, key, with(llama3, field, value)), {key, field});
    }
    for (const Json& value : {Json(0), Json(-1), Json(1.5), Json("32"), Json(1e18)})
      expect_refused(with(good, key, with(llama3, "original_max_position_embeddings", value)), {key, "original_max_position_embeddings"});
    for (const Json& value : {Json(0), Json(-1), Json("1e4")})
      expect_refused(with(good, key, with(llama3, "rope_theta", value)), {key, "rope_theta"});
    expect_refused(with(good, key, with(llama3, "high_freq_factor", 1.0)), {key, "high_freq_factor", "more than low_freq_factor"});
  }
}

TEST(Config, WhatIsWrittenIsReadBack) {
  for (const Json& rope : {Json(nullptr), llama3, Json{{"rope_type", "linear"}, {"factor", 2.5}}, Json{{"rope_type", "dynamic"}, {"factor", 4}},
                           Json{{"rope_type", "yarn"}, {"factor", 4}, {"mscale", 0.7}, {"mscale_all_dim", 0.4}, {"beta_fast", 16}, {"truncate", false}},
                           Json{{"rope_type", "longrope"}, {"short_factor", {1, 1, 1, 2}}, {"long_factor", {1, 2, 3, 4.5}}, {"original_max_position_embeddings", 16}}}) {
    auto c = with(with(with(good, "rope_scaling", rope), "torch_dtype", "bfloat16"), "tie_word_embeddings", true);
    const auto m = parse_config(c, "x"), back = parse_config(parse_json(config_of(m).dump(), "y"), "y");
    EXPECT_TRUE(back == m) << config_of(m).dump();
  }
}

class Files : public testing::Test {
 protected:
  Files() : dir(fs::temp_directory_path() / ("thimble-models-" + std::to_string(::getpid()))) { fs::create_directories(dir); }
  ~Files() override { fs::remove_all(dir); }
  void put(const char* name, std::string_view text) const { write_atomically(dir / name, text); }
  fs::path dir;
};

TEST_F(Files, AFolderOrItsConfig) {
  EXPECT_NE(error_of([&] { read_model(dir); }, "no config").find("config.json"), std::string::npos);
  put("config.json", good.dump());
  EXPECT_EQ(read_model(dir).hidden, 48);
  EXPECT_EQ(read_model(dir / "config.json").hidden, 48);
  for (const std::string text : {"", "{", "// c\n{}", "\xef\xbb\xbf{}", R"({"a":1,"a":1})", R"({"vocab_size":NaN})",
                                 R"({"rope_theta":1e999})", R"({"rope_theta":Infinity})"}) {
    put("config.json", text);
    EXPECT_NE(error_of([&] { read_model(dir); }, text).find("config.json"), std::string::npos);
  }
}

TEST_F(Files, EndTokens) {
  EXPECT_TRUE(end_tokens(dir, 100).empty());
  put("config.json", R"({"eos_token_id":2})");
  EXPECT_EQ(end_tokens(dir, 100), std::vector<int32_t>{2});
  put("generation_config.json", R"({"eos_token_id":null})");
  EXPECT_EQ(end_tokens(dir, 100), std::vector<int32_t>{2});
  put("generation_config.json", R"({"eos_token_id":[5,7]})");
  EXPECT_EQ(end_tokens(dir, 100), (std::vector<int32_t>{5, 7}));
  for (const char* bad :
       {"[]", "1", R"({"eos_token_id":-1})", R"({"eos_token_id":2147483648})", R"({"eos_token_id":"2"})", R"({"eos_token_id":[1,null]})",
        R"({"eos_token_id":{}})", R"({"eos_token_id":1.0})", R"({"eos_token_id":true})", R"({"eos_token_id":100})", R"({"eos_token_id":[5,1000000]})"}) {
    put("generation_config.json", bad);
    EXPECT_NE(error_of([&] { end_tokens(dir, 100); }, bad).find("generation_config.json"), std::string::npos);
  }
}

}  // namespace
}  // namespace thimble::models
