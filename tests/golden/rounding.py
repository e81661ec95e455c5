"""Stochastic rounding to bf16 by torchao (0.18), fed what Thimble draws (src/optim/stochastic_rounding.h): numbers of every kind, and ten steps of its AdamW
on bf16 weights, with the starts and gradients of optim.safetensors."""
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torchao.optim import adam, quant_utils

from drawn import philox
from golden_io import save_tensors

SEED, STEPS, RATE, DECAY = 0x123456789ABCDEF, 10, 1e-2, 0.01
PLACES = {"matrix": (1 << 31) + 5, "vector": 6, "large": (1 << 31) + 7}


def draws(step: int, place: int, count: int) -> np.ndarray:
    """16 bits for each element of a tensor, as int32."""
    e = np.arange(count)
    k = e % 2048 // 256
    words = philox(SEED, step << 32 | place, e // 2048 * 256 + e % 256)[e, k // 2]
    return (words >> np.where(k % 2, 16, 0).astype(np.uint32) & 0xFFFF).astype(np.int32)


def rounded(x: torch.Tensor, step: int, place: int) -> torch.Tensor:
    """torchao rounds up where its draw is below the fraction, Thimble where the sum of both carries."""
    ours = torch.from_numpy(65535 - draws(step, place, x.numel())).view(x.shape)
    randint = torch.randint
    torch.randint = lambda *_, **__: ours
    try:
        return quant_utils._fp32_to_bf16_sr(x)
    finally:
        torch.randint = randint


def make_rounding(out: Path) -> None:
    bits = np.random.default_rng(SEED).integers(0, 1 << 32, 5000, dtype=np.uint32)
    bits[:1000] &= np.uint32(0xFFFF0000)                              # representable ones
    bits[1000:1100] &= np.uint32(0x807FFFFF)                          # subnormal ones
    x = torch.from_numpy(bits.view(np.float32))
    x = x[x.isfinite() & (x.abs() < 3.3e38)]                          # beyond, torchao overflows into NaN
    tensors = {"x": x, "rounded": rounded(x, 3, 77)}
    from_optim = load_file(out / "optim.safetensors")
    for name, place in PLACES.items():
        p = from_optim[f"{name}.start"].bfloat16()
        m, v = torch.zeros_like(p, dtype=torch.float32), torch.zeros_like(p, dtype=torch.float32)
        for step in range(1, STEPS + 1):
            adam._fp32_to_bf16_sr = lambda x: rounded(x, step, place)
            adam.single_param_adam(p, from_optim[f"{name}.grads"][step - 1], torch.tensor(float(step)), m, v, None, torch.tensor(RATE), 0.9, 0.999, DECAY, 1e-8, True, True)
        tensors[f"{name}.adamw"] = p
    save_tensors(out / "rounding.safetensors", tensors, seed=SEED, rate=RATE, weight_decay=DECAY, torchao="0.18.0")
