// The families' configs: what each reads beyond a Llama's, both spellings, what it refuses, and that what we write is read back.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "models/registry.h"
#include "nn/params.h"

namespace thimble::models {
namespace {

const Json sizes = {{"vocab_size", 100}, {"hidden_size", 48}, {"intermediate_size", 96}, {"num_hidden_layers", 4}, {"num_attention_heads", 6},
                    {"num_key_value_heads", 3}, {"rope_theta", 500.0}, {"max_position_embeddings", 64}};

Json config(const char* architecture, const Json& more = Json::object()) {
  Json c = sizes;
  c["architectures"] = {architecture};
  c.update(more);
  return c;
}
nn::ModelSpec read(const char* architecture, const Json& more = Json::object()) { return parse_config(config(architecture, more), "x"); }

void expect_refused(const char* architecture, const Json& more, std::initializer_list<std::string_view> words) {
  try {
    read(architecture, more);
    ADD_FAILURE() << "accepted: " << more.dump();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input);
    for (const auto w : words) EXPECT_NE(std::string_view(e.what()).find(w), std::string_view::npos) << "'" << w << "' in: " << e.what();
  }
}

std::vector<int64_t> windows(const nn::ModelSpec& m) {
  std::vector<int64_t> all;
  for (const auto& l : m.layers) all.push_back(l.window);
  return all;
}
using Windows = std::vector<int64_t>;

TEST(Families, BiasesOfLlama) {
  const auto m = read("LlamaForCausalLM", {{"attention_bias", true}, {"mlp_bias", true}});
  EXPECT_TRUE(m.layers[0].qkv_bias && m.layers[0].o_bias && m.layers[0].mlp_bias);
  const auto table = nn::parameters(m, quant::FormatId::nf4);
  EXPECT_EQ(table.layers[0].size(), 16u);
  EXPECT_EQ(nn::parameters(read("LlamaForCausalLM"), quant::FormatId::nf4).layers[0].size(), 9u);
  for (const auto& p : table.layers[1]) EXPECT_EQ(p.role == store::Role::bias, p.format == quant::FormatId::dense && p.name.ends_with(".bias")) << p.name;
}

TEST(Families, WindowsOfMistral) {
  EXPECT_EQ(windows(read("MistralForCausalLM", {{"sliding_window", 16}})), Windows(4, 16));
  EXPECT_EQ(windows(read("MistralForCausalLM", {{"sliding_window", nullptr}})), Windows(4, 0));
  EXPECT_EQ(windows(read("MistralForCausalLM")), Windows(4, 4096));
  EXPECT_EQ(read("MistralForCausalLM", {{"head_dim", 20}}).layers[0].head_dim, 20);
  for (const Json& bad : {Json(0), Json(-1), Json("4096"), Json(1.5), Json(true)}) expect_refused("MistralForCausalLM", {{"sliding_window", bad}}, {"sliding_window"});
}

TEST(Families, BiasesAndWindowsOfQwen2) {
  const auto m = read("Qwen2ForCausalLM", {{"sliding_window", 16}});
  EXPECT_TRUE(m.layers[0].qkv_bias && !m.layers[0].o_bias && !m.layers[0].mlp_bias && !m.layers[0].head_norms);
  EXPECT_EQ(windows(m), Windows(4, 0));
  EXPECT_EQ(windows(read("Qwen2ForCausalLM", {{"use_sliding_window", true}, {"sliding_window", 16}, {"max_window_layers", 3}})), (Windows{0, 0, 0, 16}));
  const Json types = {"full_attention", "sliding_attention", "full_attention", "full_attention"};
  EXPECT_EQ(windows(read("Qwen2ForCausalLM", {{"use_sliding_window", true}, {"sliding_window", 16}, {"layer_types", types}})), (Windows{0, 16, 0, 0}));
  for (const Json& bad : {Json("full_attention"), Json::array({"full_attention"}), Json::array({"full_attention", "full_attention", "linear_attention", 3})})
    expect_refused("Qwen2ForCausalLM", {{"use_sliding_window", true}, {"layer_types", bad}}, {"layer_types"});
}

TEST(Families, NormsOfHeadsOfQwen3) {
  const auto m = read("Qwen3ForCausalLM");
  EXPECT_TRUE(m.layers[0].head_norms && !m.layers[0].qkv_bias);
  EXPECT_EQ(m.layers[0].head_dim, 128) << "not hidden / heads";
  EXPECT_TRUE(read("Qwen3ForCausalLM", {{"attention_bias", true}}).layers[0].o_bias);
}

TEST(Families, Gemma2) {
  const auto m = read("Gemma2ForCausalLM", {{"sliding_window", 16}});
  EXPECT_EQ(windows(m), (Windows{16, 0, 16, 0}));
  EXPECT_TRUE(m.tied_head && m.scaled_embedding && m.layers[0].norms_after && !m.layers[0].head_norms && !m.layers[0].local_rope);
  EXPECT_EQ(std::tuple(m.norm_offset, m.attention_cap, m.logit_cap, m.query_scalar, m.layers[0].head_dim), std::tuple(1.0f, 50.0f, 30.0f, 256.0, int64_t{256}));
  EXPECT_EQ(read("Gemma2ForCausalLM", {{"attn_logit_softcapping", nullptr}}).attention_cap, 0);
  expect_refused("Gemma2ForCausalLM", {{"hidden_activation", "silu"}}, {"hidden_activation", "gelu_pytorch_tanh"});
  expect_refused("Gemma2ForCausalLM", {{"final_logit_softcapping", -1}}, {"final_logit_softcapping"});
  expect_refused("Gemma2ForCausalLM", {{"query_pre_attn_scalar", 0}}, {"query_pre_attn_scalar"});
  expect_refused("Gemma2ForCausalLM", {{"use_bidirectional_attention", true}}, {"use_bidirectional_attention"});
}

TEST(Families, TwoBasesOfGemma3InBothSpellings) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 8.0}};
  const auto old = read("Gemma3ForCausalLM", {{"rope_local_base_freq", 70.0}, {"rope_scaling", linear}, {"sliding_window", 16}, {"sliding_window_pattern", 3}});
  Json full = linear;
  full["rope_theta"] = 500.0;
  const Json ropes = {{"full_attention", full}, {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 70.0}}}};
  const Json types = {"sliding_attention", "sliding_attention", "full_attention", "sliding_attention"};
  const auto now = read("Gemma3ForCausalLM", {{"rope_theta", nullptr}, {"rope_parameters", ropes}, {"sliding_window", 16}, {"layer_types", types}});
  EXPECT_TRUE(old == now);
  EXPECT_EQ(windows(old), (Windows{16, 16, 0, 16}));
  EXPECT_TRUE(old.layers[0].local_rope && !old.layers[2].local_rope && old.layers[0].head_norms);
  EXPECT_EQ(old.local_rope, (nn::RopeSpec{.theta = 70}));
  EXPECT_EQ(old.rope, (nn::RopeSpec{.kind = nn::RopeSpec::Kind::linear, .theta = 500, .factor = 8}));
  expect_refused("Gemma3ForCausalLM", {{"rope_parameters", {{"full_attention", full}}}}, {"sliding_attention"});
  expect_refused("Gemma3ForCausalLM", {{"rope_local_base_freq", 0}}, {"rope_local_base_freq"});
}

TEST(Families, FusedTensorsOfPhi3) {
  const auto m = read("Phi3ForCausalLM", {{"sliding_window", 16}});
  EXPECT_EQ(windows(m), Windows(4, 16));
  const auto table = nn::parameters(m, quant::FormatId::dense), files = store::as_files_hold(table);
  EXPECT_EQ(files.parameters(), table.parameters());
  ASSERT_EQ(files.layers[1].size(), 6u);
  EXPECT_EQ(files.layers[1][1].name, "model.layers.1.self_attn.qkv_proj.weight");
  EXPECT_EQ(files.layers[1][1].shape, (Shape{96, 48}));
  EXPECT_EQ(files.layers[1][4].name, "model.layers.1.mlp.gate_up_proj.weight");
  EXPECT_EQ(files.layers[1][4].shape, (Shape{192, 48}));
  const auto& v = table.layers[1][3];
  EXPECT_EQ(std::tuple(v.name, v.file_name(), v.shared_row), std::tuple(std::string("model.layers.1.self_attn.v_proj.weight"), files.layers[1][1].name, int64_t{72}));
}

TEST(Families, LongRopeOfPhi3) {
  const Json rope = {{"type", "su"}, {"short_factor", {1.0, 1.1, 1.2}}, {"long_factor", {1.0, 2.0, 3.0}}};
  const auto m = read("Phi3ForCausalLM", {{"rope_scaling", rope}, {"partial_rotary_factor", 0.75}, {"original_max_position_embeddings", 16}});
  EXPECT_EQ(m.rope.kind, nn::RopeSpec::Kind::longrope);
  EXPECT_EQ(m.rope.pairs(8), 3);
  EXPECT_NEAR(m.rope.attention_factor, std::sqrt(1 + std::log(4.0) / std::log(16.0)), 1e-12);
  expect_refused("Phi3ForCausalLM", {{"rope_scaling", rope}}, {"short_factor", "array of 4"});
  Json bad = rope;
  bad["long_factor"] = {1.0, -1.0, 2.0};
  expect_refused("Phi3ForCausalLM", {{"rope_scaling", bad}, {"partial_rotary_factor", 0.75}}, {"long_factor", "positive"});
  expect_refused("Phi3ForCausalLM", {{"partial_rotary_factor", 0.01}}, {"partial_rotary_factor"});
}

TEST(Families, WhatIsWrittenIsReadBack) {
  const fs::path goldens = fs::path(THIMBLE_SOURCE_DIR) / "tests/golden/families";
  std::set<std::string> known, seen;
  for (const Family& family : families()) known.emplace(family.model_type);
  for (const auto& entry : fs::directory_iterator(goldens)) {
    const auto m = read_model(entry.path());
    const Json written = config_of(m);
    EXPECT_TRUE(parse_config(parse_json(written.dump(), "y"), "y") == m) << written.dump(1);
    seen.insert(m.family);
  }
  EXPECT_EQ(seen, known) << "each family has a golden";
}

}  // namespace
}  // namespace thimble::models
