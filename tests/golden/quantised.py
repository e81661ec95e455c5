"""Model folders as others quantise them (bitsandbytes 4-bit and 8-bit through transformers, block-scaled FP8), with the logits that
their programs compute from them; LLM.int8's product by itself; and 30 steps of PEFT on an 8-bit base."""
import json
import logging
from pathlib import Path

import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from bitsandbytes.functional import int8_vectorwise_quant
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from golden_io import generator, int32, save_json, save_tensors
from llama_odd import adapter_tensors, train, with_adapter

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)   # says for each product that it goes through f16
SEED, VOCAB, SKIPPED = 41, 67, "model.layers.1.mlp.down_proj"


@torch.library.impl("bitsandbytes::int8_mm_dequant", "CPU")
def scaled_sums(sums, row_stats, col_stats, dtype=None, bias=None):
    """As bitsandbytes' CUDA code has it. Its code for other devices multiplies by 6.200124e-05 where 1 / 127^2 is 6.200012e-05: enough to round
    some activations of the next layer to the next code, and to move logits of such small models by 2%."""
    y = sums * (row_stats.reshape(-1, 1) * col_stats.reshape(1, -1)) * (1 / 127 ** 2)
    return (y if bias is None else y + bias).to(dtype or torch.float16)


def small_model(hidden: int, ffn: int, layers: int, dtype: torch.dtype, std: float = 0.2) -> LlamaForCausalLM:
    """head_dim is not hidden / heads; the rows of some matrices begin inside a block of 64."""
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=3, num_key_value_heads=1,
        head_dim=12, max_position_embeddings=64, rope_theta=100.0, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=None,
        dtype=str(dtype).removeprefix("torch."), architectures=["LlamaForCausalLM"])).to(dtype).eval()
    draw = generator(SEED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(1 + 0.3 * noise if "norm" in name else std * noise)
    return model


def loaded(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder).eval()


def save_reference(folder: Path, model: LlamaForCausalLM, **more) -> None:
    ids = torch.randint(0, VOCAB, (1, 24), generator=generator(SEED + 1))
    with torch.no_grad():
        logits = model(input_ids=ids).logits.float()
    save_tensors(folder / "reference.safetensors", {"ids": int32(ids), "logits": logits}, seed=SEED, **more)


def tidy(folder: Path) -> None:
    """The weights again without a date of their own, the config indented as the other goldens' are."""
    weights = folder / "model.safetensors"
    save_tensors(weights, load_file(weights), seed=SEED)
    save_json(folder / "config.json", json.loads((folder / "config.json").read_text()))
    (folder / "generation_config.json").unlink(missing_ok=True)


def make_bitsandbytes(out: Path) -> None:
    plain = out / "plain.tmp"
    small_model(36, 52, 2, torch.float32).save_pretrained(plain)
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    for name, config in {
            "nf4": BitsAndBytesConfig(**four, llm_int8_skip_modules=["lm_head", SKIPPED]),
            "nf4_dq": BitsAndBytesConfig(**four, bnb_4bit_use_double_quant=True),
            "nf4_bf16_storage": BitsAndBytesConfig(**four, bnb_4bit_use_double_quant=True, bnb_4bit_quant_storage=torch.bfloat16),
            "int8": BitsAndBytesConfig(load_in_8bit=True)}.items():
        folder = out / "quantised" / name
        LlamaForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32).save_pretrained(folder)
        tidy(folder)
        save_reference(folder, loaded(folder))
    for file in plain.iterdir():
        file.unlink()
    plain.rmdir()


def make_fp8(out: Path) -> None:
    """As DeepSeek and Qwen publish: weight e4m3, weight_scale_inv f32 for blocks of 128 x 128, the last ones cut off."""
    folder, model = out / "quantised" / "fp8", small_model(144, 150, 1, torch.bfloat16, std=0.05)
    tensors = {}
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            tensors[name] = weight
            if "_proj" not in name:
                continue
            rows, columns = weight.shape
            blocks = -(-rows // 128), -(-columns // 128)
            scales = torch.empty(blocks)
            codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
            for i in range(blocks[0]):
                for j in range(blocks[1]):
                    part = weight[128 * i:128 * i + 128, 128 * j:128 * j + 128].float()
                    scales[i, j] = part.abs().max() / 448 * (1 + i + 2 * j)     # not all blocks reach the largest code
                    codes[128 * i:128 * i + 128, 128 * j:128 * j + 128] = (part / scales[i, j]).to(torch.float8_e4m3fn)
            tensors[name], tensors[name + "_scale_inv"] = codes, scales
            whole = scales.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
            weight.copy_((codes.float() * whole).to(weight.dtype))
    save_tensors(folder / "model.safetensors", tensors, seed=SEED)
    config = json.loads(model.config.to_json_string())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    save_json(folder / "config.json", config)
    dequantised = {"weight." + k: v for k, v in model.state_dict().items() if k.endswith(("q_proj.weight", "down_proj.weight"))}
    wide = small_model(144, 150, 1, torch.float32)   # a model that was bf16 once keeps RoPE's frequencies rounded
    wide.load_state_dict(model.state_dict())
    save_reference(folder, wide, weights="as they are after dequantisation to bf16")
    given = load_file(folder / "reference.safetensors")
    save_tensors(folder / "reference.safetensors", given | dequantised, seed=SEED, weights="bf16(code * scale)")


def make_product(out: Path) -> None:
    """bitsandbytes' MatMul8bitLt on inputs that f16 holds exactly: no outliers, some, and one token."""
    tensors, draw = {}, generator(SEED + 2)
    for name, tokens, columns, rows, outliers in (("none", 11, 33, 7, []), ("some", 13, 70, 20, [3, 41, 69]), ("many", 40, 96, 33, list(range(0, 96, 7)))):
        weight = (0.1 * torch.randn(rows, columns, generator=draw)).half()
        weight[rows // 2] = 0
        x = torch.randn(tokens, columns, generator=draw).clamp(-5.9, 5.9).half().float()
        for k in outliers:
            x[k % tokens, k] = 6 + (k % 3)
            x[(k + 5) % tokens, k] = -20
        codes, absmax, _ = int8_vectorwise_quant(weight.clone())
        state = MatmulLtState()
        state.CB, state.SCB, state.threshold, state.has_fp16_weights, state.is_training = codes, absmax, 6.0, False, False
        x.requires_grad_()
        y = MatMul8bitLt.apply(x, codes, None, None, state)
        dy = torch.randn(y.shape, generator=draw)
        y.backward(dy)
        tensors |= {f"{name}.{key}": value for key, value in
                    {"weight": weight, "codes": codes, "absmax": absmax, "x": x, "y": y, "dy": dy, "dx": x.grad}.items()}
    save_tensors(out / "llm_int8.safetensors", tensors, seed=SEED + 2)


def make_train30(out: Path) -> None:
    """llama_odd's 30 steps (train30.safetensors has the batches) on its untied model in 8 bits."""
    given = load_file(out / "train30.safetensors")
    base = LlamaForCausalLM.from_pretrained(out / "llama_odd_untied", quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float32)
    model = with_adapter(base.eval(), out / "lora_odd_untied")
    trained = adapter_tensors(model)
    rows = train(model, list(trained.values()), given["ids"].long(), given["targets"].long())
    save_tensors(out / "train30_int8.safetensors", {f"lora_int8.{key}": rows[key] for key in ("loss", "norm")}, seed=SEED)


def make_quantised(out: Path) -> None:
    make_bitsandbytes(out)
    make_fp8(out)
    make_product(out)
    make_train30(out)
