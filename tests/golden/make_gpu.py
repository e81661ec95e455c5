"""Makes nf4.safetensors and adam8bit.safetensors with bitsandbytes on a CUDA card, whose kernels are the reference.
Needs torch, numpy, safetensors, bitsandbytes: python make_gpu.py --out FOLDER (--device cpu only tries it)."""
import argparse
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.optim import AdamW8bit

from golden_io import generator, save_tensors

SEED = 31
BLOCK = 64
NF4_CASES = [("f32", 64, 128), ("f32", 33, 70), ("f32", 131, 127), ("bf16", 33, 70), ("bf16", 128, 192),
             ("f16", 33, 70), ("f16", 7, 65)]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
ADAM_SIZES = [4096, 5000, 300]           # 5000 ends in a part of a block; 300 < 4096 keeps f32 states
ADAM = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
STEPS = 10


def where(device: str) -> dict[str, str]:
    return {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "cuda": str(torch.version.cuda)}


def source(dtype: str, rows: int, columns: int, draw: torch.Generator) -> torch.Tensor:
    """Normal numbers like a weight's, blocks of different size. In 64 x 128 also an all-zero block (5), one of
    equal numbers (6), one with an outlier (7), and one with every midpoint of the code book exactly (8)."""
    flat = 0.05 * torch.randn(rows * columns, generator=draw)
    sizes = torch.exp(0.5 * torch.randn(-(-len(flat) // BLOCK), generator=draw))
    flat *= sizes.repeat_interleave(BLOCK)[:len(flat)]
    if (rows, columns) == (64, 128):
        blocks = flat.view(-1, BLOCK)
        blocks[5] = 0
        blocks[6] = -0.125
        blocks[7, 9] = 40.0
        blocks[8] = 0
        blocks[8, 0] = 1.0
        blocks[8, 1:16] = torch.tensor(midpoints())
    return flat.view(rows, columns).to(DTYPES[dtype])


def midpoints() -> list[float]:
    """bitsandbytes' thresholds between neighbouring NF4 codes, as its kernel has them."""
    return [0.8614784181118011, 0.6427869200706482, 0.5016634166240692, 0.3893125355243683,
            0.2920137718319893, 0.2035212516784668, 0.1202552504837513, 0.03979014977812767,
            -0.045525018125772476, -0.13791173323988914, -0.23460740596055984, -0.33967943489551544,
            -0.4599952697753906, -0.6106329262256622, -0.8480964004993439]


def nf4_case(weight: torch.Tensor, with_values: bool) -> dict[str, torch.Tensor]:
    """Codes and absmax; the absmax double quantised (`dq.`); the values which both give, in the weight's dtype."""
    codes, state = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    double_codes, double = quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    assert torch.equal(codes, double_codes)
    tensors = {"weight": weight, "codes": codes, "absmax": state.absmax, "dq.codes": double.absmax,
               "dq.absmax": double.state2.absmax, "dq.offset": double.offset.reshape(1), "dq.map": double.state2.code}
    if with_values:
        tensors |= {"values": dequantize_4bit(codes, state), "dq.values": dequantize_4bit(codes, double)}
    return tensors


def make_nf4(out: Path, device: str) -> None:
    tensors, draw = {}, generator(SEED)
    for dtype, rows, columns in NF4_CASES:
        weight = source(dtype, rows, columns, draw).to(device)
        case = nf4_case(weight, with_values=rows * columns < 4096)
        tensors["nested_map"] = case.pop("dq.map")      # the same for all
        tensors |= {f"{dtype}_{rows}x{columns}.{key}": value for key, value in case.items()}
    save_tensors(out / "nf4.safetensors", tensors, seed=SEED, blocksize=BLOCK, nested_blocksize=256, **where(device))


def gradients(size: int, draw: torch.Generator) -> torch.Tensor:
    """(STEPS, size): noise around a mean per element, sizes over four decades between blocks, one in 50 zero."""
    mean = torch.randn(size, generator=draw)
    scale = 10 ** (-4 * torch.rand(-(-size // 256), generator=draw)).repeat_interleave(256)[:size]
    noise = torch.randn(STEPS, size, generator=draw)
    return torch.where(torch.rand(STEPS, size, generator=draw) < 0.02, 0.0, scale * (mean + noise))


def states(optimizer, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    kept = optimizer.state[weight]
    shown = [key for key in ("state1", "state2", "absmax1", "absmax2") if key in kept]
    return {"param": weight.data, **{key: kept[key] for key in shown}}


def run(make_optimizer, start: torch.Tensor, grads: torch.Tensor, shown: tuple[int, ...]):
    """Yields (step, optimizer, copies of the parameter and its states) after each step named by `shown`."""
    weight = torch.nn.Parameter(start.clone())
    optimizer = make_optimizer([weight])
    for step, gradient in enumerate(grads, 1):
        weight.grad = gradient.clone()
        optimizer.step()
        if step in shown:
            yield step, optimizer, {key: value.clone() for key, value in states(optimizer, weight).items()}


def make_adam8bit(out: Path, device: str) -> None:
    tensors, draw = {}, generator(SEED + 1)
    for size in ADAM_SIZES:
        start = 0.1 * torch.randn(size, generator=draw)
        grads = gradients(size, draw)
        tensors |= {f"{size}.start": start, f"{size}.grads": grads}
        start, grads = start.to(device), grads.to(device)
        eight = lambda weights: AdamW8bit(weights, **ADAM, min_8bit_size=4096)
        for step, optimizer, shown in run(eight, start, grads, (1, STEPS)):
            tensors |= {f"{size}.step{step}.{key}": value for key, value in shown.items()}
            if "dynamic" in optimizer.name2qmap:
                tensors |= {"map1": optimizer.name2qmap["dynamic"], "map2": optimizer.name2qmap["udynamic"]}
        plain = lambda weights: torch.optim.AdamW(weights, **ADAM, foreach=False)
        for step, _, shown in run(plain, start, grads, (STEPS,)):
            tensors[f"{size}.torch{step}.param"] = shown["param"]
    save_tensors(out / "adam8bit.safetensors", tensors, seed=SEED + 1, blocksize=256, min_8bit_size=4096, **ADAM,
                 **where(device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make_nf4(args.out, args.device)
    make_adam8bit(args.out, args.device)


if __name__ == "__main__":
    main()
