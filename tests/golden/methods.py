"""Thirty steps of each tuning method with PEFT and torch on the odd Llamas, from the start and on the batches of train30:
losses, gradient norms, and the gradients of the first step. Dropout and NEFTune are fed the numbers that Thimble draws."""
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import get_linear_schedule_with_warmup

import families
from drawn import drawn
from golden_io import generator, save_tensors
from llama_odd import LINEARS, STEPS, WARMUP, forward_backward, load_model, save_adapter

SEED, DROP_SEED, SHARE, ALPHA, RATIO = 15, 42, 0.3, 5.0, 16.0
PLACES = {"q_proj": 1, "k_proj": 2, "v_proj": 3, "o_proj": 9, "gate_proj": 13, "up_proj": 14, "down_proj": 17,
          "qkv_proj": 1, "gate_up_proj": 13}  # nn::LayerParam; of several matrices the first


class DrawnDropout(torch.nn.Module):
    def __init__(self, name: str, clock: list[int]):
        super().__init__()
        parts = name.split(".")
        self.place = int(parts[parts.index("layers") + 1]) * 64 + PLACES[next(p for p in parts if p in PLACES)]
        self.clock = clock

    def forward(self, x):
        u = drawn(DROP_SEED, self.clock[0], self.place, x.shape[0] * x.shape[1], x.shape[2])
        keep = torch.from_numpy(u >= SHARE).reshape(x.shape)
        return x * keep * (1.0 / (1.0 - SHARE))


def train(model, groups, ids, targets, clock) -> dict[str, torch.Tensor]:
    weights = [w for group in groups for w in group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, foreach=False)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    rows, first = {"loss": [], "norm": []}, {}
    for step in range(STEPS):
        clock[0] = step + 1
        _, loss = forward_backward(model, ids[step], targets[step])
        if step == 0:
            first = {id(w): w.grad.clone() for w in weights}
        rows["loss"].append(float(loss))
        rows["norm"].append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=False)))
        optimizer.step()
        schedule.step()
    return {key: torch.tensor(values) for key, values in rows.items()} | {"first": first}


def named(model) -> dict[str, torch.nn.Parameter]:
    """Trainable tensors by their names in an adapter's file, or in a model's."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
            found[name.replace(".modules_to_save.default.", ".").replace(".default.", ".")] = weight
    return found


def adapted(base, start: dict[str, torch.Tensor], **config):
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, bias="none", task_type="CAUSAL_LM",
                                            **({"target_modules": LINEARS} | config)))
    with torch.no_grad():
        for name, weight in named(model).items():
            if name in start:
                weight.copy_(start[name])
    return model.eval()


class Cases:
    def __init__(self, ids: torch.Tensor, targets: torch.Tensor):
        self.ids, self.targets, self.clock = ids, targets, [1]
        self.tensors: dict[str, torch.Tensor] = {}

    def keep(self, case: str, model, groups=None, gradients=lambda name, grad: grad) -> None:
        weights = named(model)
        rows = train(model, groups(weights) if groups else [{"params": list(weights.values())}], self.ids, self.targets, self.clock)
        first = rows.pop("first")
        self.tensors.update({f"{case}.{key}": value for key, value in rows.items()})
        for name, weight in weights.items():
            if (grad := gradients(name, first[id(weight)])) is not None:
                self.tensors[f"{case}.grad.{name}"] = grad

    def with_dropout(self, model):
        for name, module in model.named_modules():
            if name.endswith("lora_dropout"):
                module["default"] = DrawnDropout(name, self.clock)
            if hasattr(module, "lora_dropout"):
                module.training = True  # else PEFT's DoRA passes by dropout
        return model


def make_peft_dora(out: Path) -> None:
    """An adapter as PEFT saves it: DoRA, rsLoRA, an expression of modules, another rank and alpha in places, a head of its own."""
    draw, folder = generator(SEED + 1), out / "peft_dora"
    model = get_peft_model(load_model(out / "llama_odd_untied"), LoraConfig(
        r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=r".*layers\.\d+\.(self_attn\.[qkv]_proj|mlp\.down_proj)",
        rank_pattern={r"layers\.1\.mlp\.down_proj": 2, "v_proj": 4}, alpha_pattern={"v_proj": 7}, modules_to_save=["lm_head"], task_type="CAUSAL_LM")).eval()
    with torch.no_grad():
        for weight in named(model).values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    save_adapter(model, folder, "llama_odd_untied", SEED + 1)
    ids = torch.randint(0, 1003, (1, 24), generator=draw)
    with torch.no_grad():
        save_tensors(folder / "reference.safetensors", {"ids": ids.to(torch.int32), "logits": model(input_ids=ids).logits[:, -4:]}, seed=SEED + 1)


def make_peft_fused(out: Path) -> None:
    """An adapter of PEFT's on modules that hold several matrices: one A for q, k and v, one for gate and up."""
    draw, base = generator(SEED + 2), out / "families" / "phi3"
    for name, dora in (("peft_fused", False), ("peft_fused_dora", True)):
        model = get_peft_model(families.load_model(base), LoraConfig(
            r=3, lora_alpha=5, use_dora=dora, target_modules="all-linear", rank_pattern={r"layers\.1\.mlp\.gate_up_proj": 2}, task_type="CAUSAL_LM")).eval()
        with torch.no_grad():
            for weight in named(model).values():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
        save_adapter(model, out / name, "families/phi3", SEED + 2)
        ids = torch.randint(0, families.VOCAB, (1, 24), generator=draw)
        with torch.no_grad():
            save_tensors(out / name / "reference.safetensors", {"ids": ids.to(torch.int32), "logits": model(input_ids=ids).logits}, seed=SEED + 2)
    batches = load_file(out / "train30.safetensors")
    targets = batches["targets"].long()
    cases = Cases(batches["ids"].long() % families.VOCAB, torch.where(targets < 0, targets, targets % families.VOCAB))
    for case, dora in (("fused", False), ("fused_dora", True)):
        model = cases.with_dropout(adapted(families.load_model(base), {}, use_dora=dora, target_modules=families.FUSED))
        with torch.no_grad():
            for name, weight in named(model).items():
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
                cases.tensors[f"{case}.start.{name}"] = weight.detach().clone()
        cases.keep(case, model)
    save_tensors(out / "methods_fused.safetensors", cases.tensors, seed=SEED + 2, dropout=SHARE, draw_seed=DROP_SEED)


def make_methods(out: Path) -> None:
    make_peft_dora(out)
    untied, tied = out / "llama_odd_untied", out / "llama_odd_tied"
    batches, start = load_file(out / "train30.safetensors"), load_file(out / "lora_odd_untied" / "adapter_model.safetensors")
    draw, cases = generator(SEED), Cases(batches["ids"].long(), batches["targets"].long())
    keep, with_dropout, tensors, clock = cases.keep, cases.with_dropout, cases.tensors, cases.clock

    model = adapted(load_model(untied), start, use_dora=True, use_rslora=True)
    for name, weight in named(model).items():
        if name.endswith("lora_magnitude_vector"):
            weight.data *= 1 + 0.1 * torch.randn(weight.shape, generator=draw)
            tensors["dora.start." + name] = weight.detach().clone()
    keep("dora", model)

    keep("dropout", with_dropout(adapted(load_model(untied), start)))

    model = with_dropout(adapted(load_model(untied), start, use_dora=True, use_rslora=True))
    with torch.no_grad():
        for name, weight in named(model).items():
            if name.endswith("lora_magnitude_vector"):
                weight.copy_(tensors["dora.start." + name])
                tensors["dora_dropout.start." + name] = weight.detach().clone()
    keep("dora_dropout", model)

    model = adapted(load_model(untied), start)
    keep("loraplus", model, lambda weights: [
        {"params": [w for n, w in weights.items() if "lora_A" in n]},
        {"params": [w for n, w in weights.items() if "lora_B" in n], "lr": 1e-3 * RATIO}], lambda name, grad: None)

    model = adapted(load_model(untied), start)
    def noisy(module, inputs, y):
        size = ALPHA / (y.shape[1] * y.shape[2]) ** 0.5
        u = torch.from_numpy(drawn(DROP_SEED, clock[0], 0xFFFFFFFF, y.shape[0] * y.shape[1], y.shape[2])).reshape(y.shape)
        return y + size * (2 * u - 1)
    model.get_input_embeddings().register_forward_hook(noisy)
    keep("neftune", model, gradients=lambda name, grad: grad if ".1." in name else None)

    # On tied tables PEFT trains a copy of each; here a list of full names, and another rank and alpha in places.
    model = adapted(load_model(tied), {}, target_modules=["layers.0.self_attn.q_proj", "down_proj"], modules_to_save=["embed_tokens", "lm_head"],
                    rank_pattern={"down_proj": 3}, alpha_pattern={r"layers\.1\.mlp\.down_proj": 5})
    with torch.no_grad():
        for name, weight in named(model).items():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
                tensors["saved.start." + name] = weight.detach().clone()
    keep("saved", model, gradients=lambda name, grad: grad if "lora_" in name else grad[:100])

    for case, base, trained in (("freeze", untied, lambda n: n.startswith("model.layers.1.mlp.") or n in ("model.norm.weight", "lm_head.weight")),
                                ("freeze_last", untied, lambda n: n.startswith("model.layers.1.")),
                                ("freeze_first", tied, lambda n: n.startswith("model.layers.0.") or n == "model.embed_tokens.weight")):
        model = load_model(base)
        for name, weight in model.named_parameters():
            weight.requires_grad_(trained(name))
        keep(case, model, gradients=lambda name, grad: None if name == "lm_head.weight" else grad[:100])

    save_tensors(out / "methods.safetensors", tensors, seed=SEED, dropout=SHARE, draw_seed=DROP_SEED, neftune=ALPHA, loraplus=RATIO,
                 dora="rslora, magnitudes moved from their norms", rows="gradients of large tensors: the first 100 rows")
