"""Others load what we write: `thimble quantize` and `thimble export` on the odd untied Llama and its adapter, then transformers, bitsandbytes and
PEFT on the CPU in f32 against our own logits of the same folder. python check_folders.py --out SCRATCH [--thimble ... --dump ...]"""
import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import quantised  # noqa: F401  (scales 8-bit sums by 1 / 127^2, as on a card)
from golden_io import HERE, versions

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
BASE, ADAPTER, TIED = HERE / "llama_odd_untied", HERE / "lora_odd_untied", HERE / "llama_odd_tied"
LIMITS = {"dense": 1e-5, "nf4": 1e-5, "nf4_dq": 1e-5, "int8": 2e-2}  # 8 bits: a sum's last bit may take an activation to the next code


def run(*command) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


@torch.no_grad()
def theirs(folder: Path, adapter: Path | None, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    return model(input_ids=ids).logits.float().flatten(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    build = HERE.parents[1] / "build/cpu"
    parser.add_argument("--thimble", type=Path, default=build / "thimble")
    parser.add_argument("--dump", type=Path, default=build / "tests/thimble-dump")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder; its `folders` is made anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out / "folders"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    given = load_file(BASE / "reference.safetensors")
    ids = given["ids"][:1]
    tokens = out / "tokens.safetensors"
    save_file({"ids": ids, "targets": given["targets"][:1].contiguous(), "lengths": torch.tensor([ids.shape[1]], dtype=torch.int32)}, tokens)

    def ours(folder: Path, form: str) -> torch.Tensor:
        file = out / "ours.safetensors"
        run(args.dump, folder, tokens, file, "--adapter", ADAPTER, "--format", form)
        return load_file(file)["logits"]

    print(" ".join(f"{name} {version}" for name, version in versions().items()))
    failed = False

    def compare(what: str, ours: torch.Tensor, theirs: torch.Tensor, limit: float) -> None:
        nonlocal failed
        by_token = (ours - theirs).abs().amax(1) / theirs.abs().max()
        distance = float(by_token.max())
        failed |= not distance <= limit
        print(f"{what:<64} max|d|/max|ref| {distance:.1e}, of the middle token {by_token.median():.1e}{'' if distance <= limit else '   TOO FAR'}")

    for form in ("nf4", "nf4_dq", "int8"):
        folder = out / form
        run(args.thimble, "quantize", BASE, "--out", folder, "--type", form)
        compare(f"quantize --type {form}, with the adapter on it", ours(folder, form), theirs(folder, ADAPTER, ids.long()), LIMITS[form])
    merged = ours(BASE, "dense")
    for form, more in (("dense", []), ("dense", ["--max-shard-size", "50KB"])):
        folder = out / f"merged{len(more)}"
        run(args.thimble, "export", BASE, "--adapter", ADAPTER, "--out", folder, *more)
        compare(f"export {' '.join(more)}: merged, beside base and adapter", merged, theirs(folder, None, ids.long()), LIMITS["dense"])
    for name in ("dora", "modules"):  # of train_tests --gtest_filter=MethodsRoundTrip.*, on a base that ties embedding and head
        folder, adapter = out / f"merged_{name}", build / "adapters_of_ours" / name
        run(args.thimble, "export", TIED, "--adapter", adapter, "--out", folder)
        compare(f"export of {name}: merged, beside PEFT on the base", theirs(folder, None, ids.long()), theirs(TIED, adapter, ids.long()), LIMITS["dense"])
    for form in ("nf4_dq", "int8"):
        folder = out / f"merged_{form}"
        said = run(args.thimble, "export", BASE, "--adapter", ADAPTER, "--out", folder, "--type", form).splitlines()[-1]
        distance = float((theirs(folder, None, ids.long()) - merged).abs().max() / merged.abs().max())
        print(f"export --type {form}: their logits of it beside base and adapter: {distance:.2e} of the largest; we say:\n    {said}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
