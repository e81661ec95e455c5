"""Two random 2-layer Llamas at odd shapes, with logits, loss, all gradients, PEFT LoRA and 30 optimizer steps.
Odd, so that a kernel which assumes multiples of 4, 8 or 64, or head_dim = hidden / heads, fails here first."""
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

from golden_io import generator, int32, save_json, save_tensors, scalar

VOCAB, HIDDEN, FFN, HEADS, KV_HEADS, LAYERS = 1003, 27, 52, 9, 3, 2
BATCH, TOKENS, STEPS, WARMUP = 2, 24, 30, 3
IGNORED = -100
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEEDS = {"llama_odd_tied": 11, "llama_odd_untied": 12, "lora": 13, "train30": 14}


def odd_config(tied: bool) -> LlamaConfig:
    """rope theta and original context are such that wavelengths fall into all branches of the llama3 rule."""
    head_dim, theta, original = (8, 10000.0, 16) if tied else (6, 100.0, 32)
    rope = {"rope_type": "llama3", "rope_theta": theta, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": original}
    return LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=head_dim, rope_parameters=rope,
        max_position_embeddings=256, rms_norm_eps=1e-5 if tied else 1e-6, tie_word_embeddings=tied,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=None, dtype="float32",
        architectures=["LlamaForCausalLM"])


def random_model(tied: bool, seed: int) -> LlamaForCausalLM:
    model = LlamaForCausalLM(odd_config(tied)).float().eval()
    draw = generator(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(1 + 0.3 * noise if "norm" in name else 0.2 * noise)
    return model


def legacy_config(config: dict) -> dict:
    """The same config as transformers 4 wrote it: rope_theta and rope_scaling beside each other, torch_dtype."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    return config


def save_model(model: LlamaForCausalLM, folder: Path, legacy: bool, seed: int) -> None:
    weights = {k: v for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and model.config.tie_word_embeddings)}
    save_tensors(folder / "model.safetensors", weights, seed=seed)
    config = json.loads(model.config.to_json_string())
    save_json(folder / "config.json", legacy_config(config) if legacy else config)


def load_model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def masked_targets(ids: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """targets[b, t] = ids[b, t + 1]; -100 at the last position, in a prompt of 0 to 7 tokens, at one in ten."""
    targets = torch.full_like(ids, IGNORED)
    targets[:, :-1] = ids[:, 1:]
    for row in targets:
        row[:int(torch.randint(0, 8, (1,), generator=draw))] = IGNORED
    targets[torch.rand(ids.shape, generator=draw) < 0.1] = IGNORED
    return targets


def token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=IGNORED)


def forward_backward(model, ids, targets) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids).logits
    loss = token_loss(logits, targets)
    loss.backward()
    return logits.detach(), loss.detach()


@torch.no_grad()
def greedy(model, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """The next `count` tokens by argmax, the whole sequence recomputed for each; and best minus second logit."""
    ids, margins = list(prompt), []
    for _ in range(count):
        best = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        ids.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return ids[len(prompt):], margins


def clear_prompt(model, seed: int) -> tuple[list[int], list[int], list[float]]:
    """Of 40 random prompts the one whose greedy tokens are the most various, none nearer to a tie than 0.02."""
    draw, best = generator(seed), None
    for _ in range(40):
        prompt = torch.randint(3, VOCAB, (5,), generator=draw).tolist()
        tokens, margins = greedy(model, prompt, 64)
        if min(margins) > 0.02 and (best is None or len(set(tokens)) > len(set(best[1]))):
            best = prompt, tokens, margins
    if best is None:
        raise RuntimeError("every prompt runs into a near tie: take another seed")
    return best


def make_model(out: Path, tied: bool) -> None:
    name = "llama_odd_tied" if tied else "llama_odd_untied"
    seed, folder = SEEDS[name], out / name
    save_model(random_model(tied, seed), folder, legacy=not tied, seed=seed)
    model, draw = load_model(folder), generator(seed + 100)
    ids = torch.randint(0, VOCAB, (BATCH, TOKENS), generator=draw)
    targets = masked_targets(ids, draw)
    logits, loss = forward_backward(model, ids, targets)
    save_tensors(folder / "gradients.safetensors",
                 {"grad." + key: weight.grad for key, weight in model.named_parameters()}, seed=seed)
    prompt, tokens, margins = clear_prompt(model, seed + 200)
    save_tensors(folder / "reference.safetensors",
                 {"ids": int32(ids), "targets": int32(targets), "logits": logits, "loss": scalar(loss),
                  "prompt": int32(prompt), "greedy": int32(tokens), "greedy_margin": torch.tensor(margins)},
                 seed=seed, loss="token mean over targets that are not -100; targets are already shifted")


def nf4_base(folder: Path) -> LlamaForCausalLM:
    """The model, every linear but the head as it comes back from bitsandbytes' NF4 (block 64, f32 absmax)."""
    model = load_model(folder)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] in LINEARS:
                packed, state = quantize_4bit(module.weight.data, blocksize=64, compress_statistics=False,
                                              quant_type="nf4")
                module.weight.copy_(dequantize_4bit(packed, state))
    return model


def lora_config(targets: list[str] = LINEARS) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", target_modules=targets,
                      task_type="CAUSAL_LM")


def randomise_adapter(model: PeftModel, seed: int, b_std: float) -> None:
    """A as PEFT draws it, U(-1, 1) / sqrt(in); B is not zero, so that A has gradients."""
    draw = generator(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name:
                weight.copy_((2 * torch.rand(weight.shape, generator=draw) - 1) / weight.shape[1] ** 0.5)
            elif "lora_B" in name:
                weight.copy_(b_std * torch.randn(weight.shape, generator=draw))


def save_adapter(model: PeftModel, folder: Path, base_name: str, seed: int) -> None:
    """As PEFT saves it, but with the base's name instead of its path and without the model card."""
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"] = sorted(config["target_modules"])   # PEFT keeps a set: its order changes
    save_json(folder / "adapter_config.json", config)
    weights = folder / "adapter_model.safetensors"
    save_tensors(weights, load_file(weights), seed=seed)


def adapter_tensors(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The trainable tensors by their keys in adapter_model.safetensors."""
    return {name.replace(".default.", "."): weight
            for name, weight in model.named_parameters() if weight.requires_grad}


def with_adapter(base: LlamaForCausalLM, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base, folder, is_trainable=True).eval()


def make_lora(out: Path) -> None:
    base_folder, folder, seed = out / "llama_odd_untied", out / "lora_odd_untied", SEEDS["lora"]
    fresh = get_peft_model(load_model(base_folder), lora_config())
    randomise_adapter(fresh, seed, b_std=0.1)
    save_adapter(fresh, folder, "llama_odd_untied", seed)
    given = load_file(base_folder / "reference.safetensors")
    ids, targets = given["ids"].long(), given["targets"].long()
    for base, load in (("f32", load_model), ("nf4", nf4_base)):
        model = with_adapter(load(base_folder), folder)
        logits, loss = forward_backward(model, ids, targets)
        tensors = {"ids": int32(ids), "targets": int32(targets), "logits": logits, "loss": scalar(loss)}
        tensors |= {"grad." + key: weight.grad for key, weight in adapter_tensors(model).items()}
        save_tensors(folder / f"reference_{base}.safetensors", tensors, seed=seed, base=base)


def training_batches(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids, targets (STEPS, BATCH, TOKENS): walks over 61 tokens where each has one usual successor."""
    draw = generator(seed)
    words = torch.randperm(VOCAB, generator=draw)[:61]
    place = torch.randint(0, 61, (STEPS, BATCH), generator=draw)
    ids = torch.empty(STEPS, BATCH, TOKENS, dtype=torch.long)
    for t in range(TOKENS):
        ids[:, :, t] = words[place]
        jump = torch.rand(place.shape, generator=draw) < 0.1
        place = torch.where(jump, torch.randint(0, 61, place.shape, generator=draw), (7 * place + 3) % 61)
    targets = torch.stack([masked_targets(batch, draw) for batch in ids])
    return ids, targets


def train(model, weights: list[torch.nn.Parameter], ids, targets) -> dict[str, torch.Tensor]:
    """STEPS steps of AdamW. One group: decay acts on every weight, norms too. lr of step 0 is 0, as in HF."""
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
                                  foreach=False)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    rows = {"loss": [], "norm": [], "lr": []}
    for step in range(STEPS):
        _, loss = forward_backward(model, ids[step], targets[step])
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=False)
        for key, value in zip(rows, (loss, norm, schedule.get_last_lr()[0])):
            rows[key].append(float(value))
        optimizer.step()
        schedule.step()
    return {key: torch.tensor(values, dtype=torch.float32) for key, values in rows.items()}


def make_train30(out: Path) -> None:
    seed, untied, adapter = SEEDS["train30"], out / "llama_odd_untied", out / "lora_odd_untied"
    ids, targets = training_batches(seed)
    tensors = {"ids": int32(ids), "targets": int32(targets)}
    for name, base in (("lora_f32", load_model(untied)), ("lora_nf4", nf4_base(untied))):
        model = with_adapter(base, adapter)
        trained = adapter_tensors(model)
        rows = train(model, list(trained.values()), ids, targets)
        tensors["lr"] = rows.pop("lr")
        tensors |= {f"{name}.{key}": value for key, value in rows.items()}
        tensors |= {f"{name}.final.{key}": value for key, value in trained.items()}
    model = load_model(out / "llama_odd_tied")
    rows = train(model, list(model.parameters()), ids, targets)
    tensors |= {f"full_tied.{key}": rows[key] for key in ("loss", "norm")}
    tensors |= {f"full_tied.final.{key}": value for key, value in model.named_parameters()
                if key.startswith("model.layers.1.") or key == "model.norm.weight"}
    save_tensors(out / "train30.safetensors", tensors, seed=seed,
                 norm="global gradient norm before clipping to 1.0; factor min(1, 1 / (norm + 1e-6))",
                 weight_decay="0.01 on every trained tensor", schedule="linear, warmup 3, total 30")
