// Adapters as PEFT writes them: what we write is read back, and what would change the model without our knowing is refused by its key.
#include "store/adapter_files.h"

#include "files.h"

namespace thimble::store {
namespace {

const Json good = {{"peft_type", "LORA"}, {"r", 2}, {"lora_alpha", 4}, {"target_modules", {"q_proj", "v_proj"}}};

std::vector<ParamSpec> adapters() {
  return {{"model.layers.0.self_attn.q_proj.weight", {2, 6}, Role::lora_a, 0},
          {"model.layers.0.self_attn.q_proj.weight", {8, 2}, Role::lora_b, 0}};
}
constexpr const char* name_a = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
constexpr const char* name_b = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";

TEST(AdapterConfig, EveryBadFieldIsNamed) {
  const Folder folder;
  const struct {
    const char* key;
    Json value;
  } bad[] = {
      {"peft_type", nullptr},
      {"peft_type", "IA3"},
      {"peft_type", "lora"},
      {"peft_type", 1},
      {"r", 0},
      {"r", -1},
      {"r", 65537},
      {"r", 8.5},
      {"r", "8"},
      {"r", nullptr},
      {"r", uint64_t{1} << 63},
      {"r", true},
      {"lora_alpha", "16"},
      {"lora_alpha", Json::array()},
      {"use_rslora", 1},
      {"use_rslora", "no"},
      {"base_model_name_or_path", 3},
      {"target_modules", nullptr},
      {"target_modules", Json::array()},
      {"target_modules", {1}},
      {"target_modules", {"q_proj", ""}},
      {"target_modules", {"self_attn."}},
      {"use_dora", 1},
      {"lora_bias", true},
      {"bias", "all"},
      {"bias", "lora_only"},
      {"fan_in_fan_out", true},
      {"use_qalora", true},
      {"modules_to_save", "lm_head"},
      {"layer_replication", {{0, 1}}},
      {"target_parameters", {"x"}},
      {"exclude_modules", "x"},
      {"trainable_token_indices", {1, 2}},
      {"alora_invocation_tokens", {1}},
      {"init_lora_weights", "pissa"},
      {"init_lora_weights", "loftq"},
  };
  folder.put("adapter_config.json", good.dump());
  EXPECT_EQ(read_adapter_config(folder.path).targets, (std::vector<std::string>{"q_proj", "v_proj"}));
  for (const auto& b : bad) {
    Json c = good;
    c[b.key] = b.value;
    folder.put("adapter_config.json", c.dump());
    expect_refused([&] { read_adapter_config(folder.path); }, {"adapter_config.json", fmt::format("'{}'", b.key)},
                   fmt::format("{}: {}", b.key, b.value.dump()));
    if (b.value.is_null()) {
      c.erase(b.key);
      folder.put("adapter_config.json", c.dump());
      expect_refused([&] { read_adapter_config(folder.path); }, {fmt::format("'{}'", b.key)}, fmt::format("no {}", b.key));
    }
  }
}

TEST(AdapterConfig, TextThatIsNoConfig) {
  const Folder folder;
  expect_refused([&] { read_adapter_config(folder.path); }, {"adapter_config.json", "No such file"});
  for (const char* text : {"", "[]", "null", "\"x\"", "{", R"({"r":NaN})", R"({"lora_alpha":1e999})", R"({"r":1,"r":2})"}) {
    folder.put("adapter_config.json", text);
    expect_refused([&] { read_adapter_config(folder.path); }, {"adapter_config.json"}, text);
  }
}

TEST(AdapterConfig, WhatChangesNothingIsAccepted) {
  const Folder folder;
  Json c = good;
  for (const char* key : {"modules_to_save", "layers_to_transform", "exclude_modules", "layer_replication", "use_bdlora", "lora_alpha"})
    c[key] = nullptr;
  c["rank_pattern"] = Json::object();
  c["init_lora_weights"] = "gaussian";
  c["a_key_of_tomorrow"] = 1;
  c["target_modules"] = {"self_attn.q_proj"};
  folder.put("adapter_config.json", c.dump());
  const auto a = read_adapter_config(folder.path);
  EXPECT_EQ(a.rank, 2);
  EXPECT_EQ(a.alpha, 2) << "the rank, where alpha is null";
  EXPECT_EQ(a.targets, std::vector<std::string>{"self_attn.q_proj"});
}

TEST(AdapterFile, FilesThatDoNotFitTheBase) {
  const Folder folder;
  const auto open = [&] { AdapterFile file(folder.path, adapters()); };
  expect_refused(open, {"adapter_model.safetensors", "No such file"});
  folder.put("adapter_model.bin", "x");
  expect_refused(open, {"pickle", "safe_serialization"});
  const auto file = folder.path / "adapter_model.safetensors";
  const struct {
    const char* of;
    std::vector<Named> tensors;
    std::vector<std::string_view> words;
  } lies[] = {
      {"nothing", {}, {"missing", name_a}},
      {"one of two", {{name_a, DType::f32, {2, 6}}}, {"missing", name_b}},
      {"another rank", {{name_a, DType::f32, {3, 6}}, {name_b, DType::f32, {8, 3}}}, {name_a, "(2, 6)", "(3, 6)"}},
      {"ranks that differ", {{name_a, DType::f32, {2, 6}}, {name_b, DType::f32, {8, 3}}}, {name_b, "(8, 2)", "(8, 3)"}},
      {"another base", {{name_a, DType::f32, {2, 7}}, {name_b, DType::f32, {8, 2}}}, {name_a, "(2, 7)", "the base"}},
      {"transposed", {{name_a, DType::f32, {6, 2}}, {name_b, DType::f32, {2, 8}}}, {name_a, "(6, 2)"}},
      {"one too many",
       {{name_a, DType::f32, {2, 6}}, {name_b, DType::f32, {8, 2}}, {"base_model.model.lm_head.weight", DType::f32, {3}}},
       {"lm_head", "does not announce"}},
  };
  for (const auto& lie : lies) {
    write_numbers(file, lie.tensors);
    expect_refused(open, lie.words, lie.of);
  }
  write_numbers(file, {{name_a, DType::f16, {2, 6}}, {name_b, DType::bf16, {8, 2}}});
  EXPECT_NO_THROW(open()) << "of whatever floating-point type";
  const std::string header = fmt::format(
      R"({{"{}":{{"dtype":"I32","shape":[2,6],"data_offsets":[0,48]}},"{}":{{"dtype":"F32","shape":[8,2],"data_offsets":[48,112]}}}})",
      name_a, name_b);
  write_atomically(file, file_of(header, 112));
  std::vector<float> to(12);
  expect_refused([&] { AdapterFile(folder.path, adapters()).read(adapters()[0], {to.data(), DType::f32, {2, 6}}); }, {name_a, "I32"});
}

TEST(AdapterFile, WhatIsWrittenIsReadBack) {
  const Folder folder;
  const auto specs = adapters();
  const AdapterConfig config{.rank = 2, .alpha = 3.5, .rslora = true, .targets = {"q_proj"}, .base_model = "a \"base\""};
  std::vector<float> values(16);
  write_adapter(folder.path / "new" / "folder", config, specs, [&](const auto& put) {
    for (size_t n = 0; n < specs.size(); ++n) {
      for (int64_t i = 0; i < specs[n].shape.count(); ++i) values[size_t(i)] = number(n, i);
      const Tensor whole{values.data(), DType::f32, specs[n].shape};
      put(specs[n], whole.rows(0, 1));
      put(specs[n], whole.rows(1, specs[n].shape[0] - 1));
    }
  });
  const auto back = read_adapter_config(folder.path / "new" / "folder");
  EXPECT_EQ(back.rank, 2);
  EXPECT_EQ(back.alpha, 3.5);
  EXPECT_TRUE(back.rslora);
  EXPECT_EQ(back.targets, config.targets);
  EXPECT_EQ(back.base_model, config.base_model);
  const AdapterFile file(folder.path / "new" / "folder", specs);
  for (size_t n = 0; n < specs.size(); ++n) {
    file.read(specs[n], {values.data(), DType::f32, specs[n].shape});
    for (int64_t i = 0; i < specs[n].shape.count(); ++i) ASSERT_EQ(values[size_t(i)], number(n, i));
  }
}

TEST(AdapterFile, APeftAdapterOpens) {
  const auto config = read_adapter_config(golden("peft_stories"));
  EXPECT_EQ(config.rank, 4);
  EXPECT_EQ(config.targets.size(), 7u);
}

}  // namespace
}  // namespace thimble::store
