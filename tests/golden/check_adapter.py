"""Loads an adapter with PEFT on a base, in f32 on the CPU, and compares the logits with stored ones: a third party
says whether what we export is what we computed. python check_adapter.py BASE ADAPTER LOGITS.safetensors"""
import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from golden_io import versions


@torch.no_grad()
def reference_logits(base: Path, adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return model(input_ids=ids).logits.float()


def same_positions(reference: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Stored logits are of all positions (B, T, V) or (T, V), or of the last one only (B, V) or (V)."""
    batch, tokens, vocab = reference.shape
    if stored.numel() == reference.numel():
        return reference
    if stored.numel() == batch * vocab:
        return reference[:, -1]
    raise SystemExit(f"logits {list(stored.shape)} fit neither {[batch, tokens, vocab]} nor {[batch, vocab]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("logits", type=Path, help="safetensors with ids, (B, T) or (T), and logits")
    parser.add_argument("--limit", type=float, default=1e-4, help="largest allowed max|d| / max|ref|")
    args = parser.parse_args()
    torch.set_num_threads(1)
    given = load_file(args.logits)
    ids = given["ids"].long()
    ids = ids[None] if ids.dim() == 1 else ids
    reference = same_positions(reference_logits(args.base, args.adapter, ids), given["logits"])
    plain = same_positions(reference_logits(args.base, None, ids), given["logits"])
    scale = reference.abs().max()
    difference = (given["logits"].float().reshape(reference.shape) - reference).abs().max() / scale
    effect = (plain - reference).abs().max() / scale
    print(" ".join(f"{name} {version}" for name, version in versions().items()))
    print(f"max|d|/max|ref| {difference:.3e}   (the adapter itself moves the logits by {effect:.3e})")
    sys.exit(0 if difference <= args.limit else 1)


if __name__ == "__main__":
    main()
