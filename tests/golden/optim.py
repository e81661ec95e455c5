"""Learning rates of every scheduler of transformers, and steps of the optimizers beside AdamW: torch's SGD, transformers' Adafactor,
lion-pytorch's Lion, and AdamW on moments that are rounded to bf16 between steps."""
import json
from pathlib import Path

import numpy as np
import torch
from lion_pytorch import Lion
from transformers import get_scheduler
from transformers.optimization import Adafactor

from golden_io import generator, save_tensors, versions

SEED, STEPS, RATE = 16, 10, 1e-2
SHAPES = {"matrix": (37, 65), "vector": (129,), "large": (65, 64)}   # the large one has more than 4,096 elements


# 1 - beta in f32, as Thimble computes it: a rounding to bf16 shows every last bit.
REST1, REST2 = (float(np.float32(1) - np.float32(beta)) for beta in (0.9, 0.999))


class Bf16AdamW(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.t = 0

    @torch.no_grad()
    def step(self):
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                kind = torch.bfloat16 if p.numel() >= 4096 else torch.float32
                s = self.state.setdefault(p, {"m": torch.zeros_like(p, dtype=kind), "v": torch.zeros_like(p, dtype=kind)})
                m, v = s["m"].float(), s["v"].float()
                s["m"] = (m + REST1 * (p.grad - m)).to(kind)
                s["v"] = (0.999 * v + REST2 * p.grad * p.grad).to(kind)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                root = s["v"].float().sqrt() / (1 - 0.999 ** self.t) ** 0.5 + 1e-8
                p.sub_(group["lr"] / (1 - 0.9 ** self.t) * s["m"].float() / root)


RULES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=0.01),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=RATE, weight_decay=0.01, momentum=0.9),
    "lion": lambda p: Lion(p, lr=RATE, betas=(0.9, 0.999), weight_decay=0.01),
    "adafactor": lambda p: Adafactor(p, lr=RATE, scale_parameter=False, relative_step=False, weight_decay=0.01),
    "adamw_bf16": lambda p: Bf16AdamW(p, RATE, 0.01),
}
SCHEDULES = [  # name, warmup, total, kwargs
    ("linear", 5, 40, {}), ("cosine", 5, 40, {}), ("cosine", 0, 40, {"num_cycles": 1.5}), ("cosine_with_restarts", 5, 40, {"num_cycles": 3}),
    ("cosine_with_min_lr", 5, 40, {"min_lr": 1e-5}), ("cosine_with_min_lr", 0, 40, {"min_lr_rate": 0.2, "num_cycles": 0.7}),
    ("cosine_warmup_with_min_lr", 5, 40, {"min_lr_rate": 0.1}), ("cosine_warmup_with_min_lr", 5, 40, {"min_lr": 2e-5, "warmup_lr_rate": 0.3}),
    ("constant", 5, 40, {}), ("constant_with_warmup", 5, 40, {}), ("polynomial", 5, 40, {}), ("polynomial", 5, 40, {"power": 2.0, "lr_end": 1e-6}),
    ("inverse_sqrt", 5, 40, {}), ("inverse_sqrt", 0, 40, {"timescale": 17}),
    ("warmup_stable_decay", 5, 40, {"num_decay_steps": 20}),
    ("warmup_stable_decay", 5, 40, {"num_stable_steps": 10, "num_decay_steps": 12, "decay_type": "1-sqrt", "warmup_type": "cosine", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", 6, 40, {"num_decay_steps": 30, "decay_type": "linear", "warmup_type": "1-sqrt"}),
]


def rates(name: str, warmup: int, total: int, kwargs: dict) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=kwargs)
    found = []
    for _ in range(total + 3):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def make_optim(out: Path) -> None:
    draw, tensors = generator(SEED), {}
    for name, shape in SHAPES.items():
        tensors[f"{name}.start"] = torch.randn(shape, generator=draw)
        tensors[f"{name}.grads"] = torch.randn((STEPS, *shape), generator=draw).to(torch.bfloat16) * torch.logspace(-3, 0, shape[-1]).to(torch.bfloat16)
    for rule, make in RULES.items():
        weights = {name: torch.nn.Parameter(tensors[f"{name}.start"].clone()) for name in SHAPES}
        optimizer = make(list(weights.values()))
        for step in range(STEPS):
            for name, weight in weights.items():
                weight.grad = tensors[f"{name}.grads"][step].float()
            optimizer.step()
        tensors |= {f"{name}.{rule}": weight for name, weight in weights.items()}
    save_tensors(out / "optim.safetensors", tensors, seed=SEED, rate=RATE, weight_decay=0.01, momentum=0.9, betas="0.9, 0.999")
    table = [{"name": n, "warmup": w, "total": t, "kwargs": k, "rates": rates(n, w, t, k)} for n, w, t, k in SCHEDULES]
    (out / "schedules.json").write_text(json.dumps({"versions": versions(), "peak": 3e-4, "cases": table}, indent=None, separators=(",", ":")) + "\n")
