// Published shapes of other families, planned from the text of their config.json: parameters as published, and a plan that fits a card.
#include <gtest/gtest.h>

#include "models/registry.h"
#include "train/trainer.h"

namespace thimble::plan {
namespace {

struct Known {
  const char* name;
  const char* config;
  int64_t parameters;
};

constexpr Known models_known[] = {
    {"Qwen2.5-72B-Instruct", R"({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
      "hidden_act": "silu", "hidden_size": 8192, "initializer_range": 0.02, "intermediate_size": 29568, "max_position_embeddings": 32768,
      "max_window_layers": 70, "model_type": "qwen2", "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8,
      "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "use_cache": true, "use_sliding_window": false, "vocab_size": 152064})", 72706203648},
    {"Qwen3-32B", R"({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
      "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 25600, "max_position_embeddings": 40960, "max_window_layers": 64,
      "model_type": "qwen3", "num_attention_heads": 64, "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
      "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
      "use_cache": true, "use_sliding_window": false, "vocab_size": 151936})", 32762123264},
    {"Mistral-7B-v0.1", R"({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
      "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral",
      "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
      "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 32000})", 7241732096},
    {"gemma-2-9b", R"({"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
      "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 256,
      "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584, "initializer_range": 0.02,
      "intermediate_size": 14336, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 16, "num_hidden_layers": 42,
      "num_key_value_heads": 8, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
      "torch_dtype": "float32", "use_cache": true, "vocab_size": 256000})", 9241705984},
    {"gemma-3-1b-it", R"({"architectures": ["Gemma3ForCausalLM"], "attention_bias": false, "attn_logit_softcapping": null,
      "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
      "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
      "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
      "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16", "vocab_size": 262144})", 999885952},
    {"Phi-3-mini-4k-instruct", R"({"architectures": ["Phi3ForCausalLM"], "attention_bias": false, "hidden_act": "silu", "hidden_size": 3072,
      "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32,
      "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 10000.0,
      "sliding_window": 2047, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32064})", 3821079552},
};

TEST(KnownFamilies, ParametersAsPublishedAndAPlan) {
  for (const Known& known : models_known) {
    SCOPED_TRACE(known.name);
    train::Setup setup{.model = models::parse_config(parse_json(known.config, known.name), known.name),
                       .method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 1024};
    EXPECT_EQ(nn::parameters(setup.model, quant::FormatId::dense).parameters(), known.parameters);
    DeviceSpec spec;
    spec.compute = DType::bf16;
    const Space space{.layers = int(setup.model.layers.size()), .can_stream = true, .can_window = true, .save = nn::Save::recompute, .tokens_per_row = setup.tokens_per_row, .vocab = setup.model.vocab};
    const auto choice = choose({int64_t{48} << 30, int64_t{64} << 30}, space, [&](const Plan& p) { return train::Trainer::rehearse(spec, setup, p); });
    ASSERT_TRUE(choice.best.has_value());
    EXPECT_GT(choice.best->outcome.tokens_per_second(choice.best->plan), 0);
  }
}

}  // namespace
}  // namespace thimble::plan
