"""Random 2-layer models of each family at odd shapes: logits, loss, greedy tokens, all gradients, and those of a LoRA adapter.
Small vocabularies and one tensor file a model keep each golden under 300 KB; shapes are odd as in llama_odd.py, on whose parts this stands."""
import json
from pathlib import Path

import torch
import transformers as hf
from peft import get_peft_model
from safetensors.torch import load_file

import llama_odd
from golden_io import generator, int32, save_json, save_tensors, scalar

VOCAB, HIDDEN, FFN, BATCH, TOKENS = 203, 30, 44, 2, 24


def rope(kind: str, **more) -> dict:
    return {"rope_type": kind, "rope_theta": 1000.0, **more}


def sizes(heads: int, kv_heads: int, head_dim: int | None, tied: bool, **more) -> dict:
    head = {} if head_dim is None else {"head_dim": head_dim}
    return dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=2, num_attention_heads=heads,
                num_key_value_heads=kv_heads, **head, tie_word_embeddings=tied, max_position_embeddings=256, rms_norm_eps=1e-6,
                initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=None, dtype="float32", **more)


FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
PLAIN = rope("default")
LOCAL = {**PLAIN, "rope_theta": 100.0}
# name: (seed, architecture, config, spelled as transformers 4 did)
MODELS = {
    "llama_bias": (31, "LlamaForCausalLM", lambda: hf.LlamaConfig(**sizes(
        3, 1, 6, False, attention_bias=True, mlp_bias=True, rope_parameters=rope("linear", factor=2.5))), True),
    "mistral_window": (32, "MistralForCausalLM", lambda: hf.MistralConfig(**sizes(
        6, 3, 10, True, sliding_window=7, rope_parameters=dict(PLAIN))), True),
    "mistral_full": (33, "MistralForCausalLM", lambda: hf.MistralConfig(**sizes(
        3, 1, 6, False, sliding_window=None,
        rope_parameters=YARN | {"mscale": 0.7, "mscale_all_dim": 0.3, "beta_fast": 4.0, "beta_slow": 1.5, "truncate": False})), False),
    "qwen2": (34, "Qwen2ForCausalLM", lambda: hf.Qwen2Config(**sizes(5, 1, None, True, use_sliding_window=False, rope_parameters=dict(YARN))), True),
    "qwen2_window": (35, "Qwen2ForCausalLM", lambda: hf.Qwen2Config(**sizes(
        5, 1, None, False, use_sliding_window=True, sliding_window=5, max_window_layers=1,
        rope_parameters=YARN | {"attention_factor": 1.25})), False),
    "qwen3": (36, "Qwen3ForCausalLM", lambda: hf.Qwen3Config(**sizes(6, 3, 10, True, rope_parameters=dict(PLAIN))), True),
    "qwen3_dynamic": (37, "Qwen3ForCausalLM", lambda: hf.Qwen3Config(**sizes(
        3, 1, 6, False, attention_bias=True, rope_parameters=rope("dynamic", factor=2.0)) | {"max_position_embeddings": 16}), False),
    "gemma2": (38, "Gemma2ForCausalLM", lambda: hf.Gemma2Config(**sizes(
        6, 3, 10, True, sliding_window=7, query_pre_attn_scalar=17, attn_logit_softcapping=1.5, final_logit_softcapping=3.0,
        hidden_activation="gelu_pytorch_tanh", rope_parameters=dict(PLAIN))), True),
    "gemma2_untied": (39, "Gemma2ForCausalLM", lambda: hf.Gemma2Config(**sizes(
        3, 1, 6, False, sliding_window=7, query_pre_attn_scalar=6, attn_logit_softcapping=None, final_logit_softcapping=None,
        attention_bias=True, rope_parameters=dict(PLAIN))), False),
    "gemma3": (40, "Gemma3ForCausalLM", lambda: hf.Gemma3TextConfig(**sizes(
        6, 3, 10, True, sliding_window=7, sliding_window_pattern=2, query_pre_attn_scalar=17,
        rope_parameters={"full_attention": rope("linear", factor=8.0), "sliding_attention": dict(LOCAL)})), True),
    # attn_logit_softcapping is there to show that modeling_gemma3 does not use it
    "gemma3_capped": (41, "Gemma3ForCausalLM", lambda: hf.Gemma3TextConfig(**sizes(
        3, 1, 6, False, sliding_window=5, layer_types=["full_attention", "sliding_attention"], query_pre_attn_scalar=5,
        attn_logit_softcapping=2.0, final_logit_softcapping=4.0,
        rope_parameters={"full_attention": dict(PLAIN), "sliding_attention": dict(LOCAL)})), False),
    "phi3": (42, "Phi3ForCausalLM", lambda: hf.Phi3Config(**sizes(5, 1, None, False, sliding_window=7, rope_parameters=dict(PLAIN))), True),
    "phi3_longrope": (43, "Phi3ForCausalLM", lambda: hf.Phi3Config(**sizes(
        3, 3, None, True, sliding_window=None, original_max_position_embeddings=32,
        rope_parameters=rope("longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 2.0, 3.5, 6.0], partial_rotary_factor=0.8))), True),
    "seed_oss": (44, "SeedOssForCausalLM", lambda: hf.SeedOssConfig(**sizes(
        6, 3, 10, False, attention_bias=True, attention_out_bias=False, attention_dropout=0.1, residual_dropout=0.1, rope_parameters=dict(PLAIN))), True),
}


def random_model(name: str):
    """Norms about 1, or about 0 where a family adds 1 itself; biases as large as what they are added to."""
    seed, architecture, make, _ = MODELS[name]
    config = make()
    config.architectures = [architecture]
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    draw, about = generator(seed), 0.0 if "Gemma" in architecture else 1.0
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(about + 0.3 * noise if "norm" in key else 0.5 * noise if "bias" in key else 0.2 * noise)
    return model


def load_model(folder: Path):
    return hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def greedy(model, prompt: list[int], count: int, cached: bool) -> tuple[list[int], list[float]]:
    """With a cache where frequencies move with every token: keys keep the turn they were made with, as in generate."""
    if not cached:
        return llama_odd.greedy(model, prompt, count)
    ids, margins, feed, past = list(prompt), [], list(prompt), None
    for _ in range(count):
        out = model(input_ids=torch.tensor([feed]), past_key_values=past, use_cache=True)
        past, best = out.past_key_values, out.logits[0, -1].topk(2)
        feed = [int(best.indices[0])]
        ids += feed
        margins.append(float(best.values[0] - best.values[1]))
    return ids[len(prompt):], margins


def clear_prompt(load, seed: int, cached: bool) -> tuple[list[int], list[int], list[float]]:
    """As in llama_odd, with vocabularies so small that ties are rarer and greedy text shorter of variety."""
    draw, best = generator(seed), None
    for _ in range(12):
        prompt = torch.randint(3, VOCAB, (5,), generator=draw).tolist()
        tokens, margins = greedy(load(), prompt, 64, cached)
        if min(margins) > 0.005 and (best is None or len(set(tokens)) > len(set(best[1]))):
            best = prompt, tokens, margins
    if best is None:
        raise RuntimeError("every prompt runs into a near tie: take another seed")
    return best


def adapter_gradients(folder: Path, seed: int, ids, targets) -> dict[str, torch.Tensor]:
    """Of a fresh adapter on the model: its tensors, and their gradients."""
    base = load_model(folder)
    targets_of = FUSED if hasattr(base.model.layers[0].self_attn, "qkv_proj") else llama_odd.LINEARS
    model = get_peft_model(base, llama_odd.lora_config(targets_of)).eval()
    llama_odd.randomise_adapter(model, seed, b_std=0.1)
    _, loss = llama_odd.forward_backward(model, ids, targets)
    found = {"lora.loss": scalar(loss)}
    for key, weight in llama_odd.adapter_tensors(model).items():
        found |= {"lora." + key: weight, "lora.grad." + key: weight.grad}
    return found


def config_text(model, legacy: bool) -> dict:
    """As transformers 5 writes it; or as 4 did, which named no layer types, and RoPE of local layers by its base alone."""
    config = json.loads(model.config.to_json_string())
    if not legacy:
        return config
    config.pop("layer_types", None)
    if local := config["rope_parameters"].get("sliding_attention"):
        config["rope_local_base_freq"] = local["rope_theta"]
        config["sliding_window_pattern"] = 2
        config["rope_parameters"] = config["rope_parameters"]["full_attention"]
    return llama_odd.legacy_config(config)


def make_family(out: Path, name: str) -> None:
    seed, _, _, legacy = MODELS[name]
    folder, model = out / "families" / name, random_model(name)
    save_json(folder / "config.json", config_text(model, legacy))
    weights = {k: v for k, v in model.state_dict().items() if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    save_tensors(folder / "model.safetensors", weights, seed=seed)
    cached = "dynamic" in name
    model, draw = load_model(folder), generator(seed + 100)
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=draw)
    targets = llama_odd.masked_targets(ids, draw)
    logits, loss = llama_odd.forward_backward(model, ids, targets)
    prompt, tokens, margins = clear_prompt(lambda: load_model(folder) if cached else model, seed + 200, cached)
    tensors = {"ids": int32(ids), "targets": int32(targets), "logits": logits, "loss": scalar(loss), "prompt": int32(prompt),
               "greedy": int32(tokens), "greedy_margin": torch.tensor(margins)}
    tensors |= {"grad." + key: weight.grad for key, weight in model.named_parameters()}
    tensors |= adapter_gradients(folder, seed + 300, ids, targets)
    save_tensors(folder / "reference.safetensors", tensors, seed=seed)


def make_families(out: Path, only: str | None = None) -> None:
    for name in MODELS:
        if only in (None, name):
            make_family(out, name)
