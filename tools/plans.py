"""Prints docs/plans.md: what `thimble plan` says of known models on cards of 8 to 80 GiB, from config.json alone.
usage: plans.py THIMBLE"""
import json
import os
import re
import resource
import subprocess
import sys

MODELS = ["llama-3.1-8b", "qwen3-32b", "llama-3.3-70b", "qwen2.5-72b"]
SIZES = [8, 12, 16, 24, 48, 80]
RUN = "gpu=h200 ram=64GiB quantization_bit=4 lora_rank=16 optim=adamw_8bit cutoff_len=2048 per_device_train_batch_size=1 threads=1".split()


def plan(thimble: str, model: str, more: list[str], run: list[str] = RUN) -> tuple[dict | None, float, str]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([thimble, "plan", f"examples/configs/{model}", "--json", *run, *more], capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return (json.loads(done.stdout) if done.returncode == 0 else None), seconds, done.stderr


def cell(found: dict | None) -> str:
    if not found:
        return "no"
    p, gib = found["plan"], found["total"]["device_bytes"] / 2**30
    how = f"{p['resident_layers']}/{p['layers']} resident" + (f", window {p['window']}" if p["window"] > 1 else "")
    return f"{found['predicted']['tokens_per_second']:.0f} tok/s, {gib:.1f} GiB, {how}"


def table(thimble: str, accumulation: int) -> tuple[str, list[str]]:
    lines, times = ["| | " + " | ".join(f"{n} GiB" for n in SIZES) + " |", "|---" * (len(SIZES) + 1) + "|"], []
    for model in MODELS:
        cells = []
        for size in SIZES:
            found, seconds, _ = plan(thimble, model, [f"vram={size}GiB", f"gradient_accumulation_steps={accumulation}"])
            cells.append(cell(found))
            times.append(seconds)
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines), times


def known(thimble: str) -> str:
    """Sizes that are published or follow from the format: asserted here, so that a table of wrong sizes is never written. A layer of 70B is 420.95 MiB
    of matrices and 32 KiB of norms."""
    lines = []
    for model, layers, each in [("llama-3.3-70b", "32.89 GiB", "421.0 MiB"), ("llama-3.1-8b", "3.35 GiB", None)]:
        text = subprocess.run([thimble, "inspect", f"examples/configs/{model}"], capture_output=True, text=True, check=True).stdout
        row = re.search(r"^nf4_dq .*$", text, re.M)[0]
        assert layers in row and (each is None or each in row), row
        lines.append(f"- {model}: {' '.join(row.split())}")
    return "\n".join(lines)


# What others measured and published for one card, and ours planned for as much of the same.
PUBLISHED = [
    ("torchtune README", "Llama-3.1-8B, LoRA rank 8, 2 x 2,048, RTX 4090", "3,083 in 16.2 GiB", "llama-3.1-8b", "gpu=rtx4090 lora_rank=8 per_device_train_batch_size=2"),
    ("torchtune README", "Llama-3.1-8B, QLoRA rank 8, 2 x 2,048, RTX 4090", "2,413 in 7.4 GiB", "llama-3.1-8b", "gpu=rtx4090 quantization_bit=4 lora_rank=8 per_device_train_batch_size=2"),
    ("fsdp_qlora, March 2024", "Llama-2-70B, QLoRA, 2 x 2,048 a card, two RTX 4090, host offload", "238 a card in 14.9 GiB", "llama-3.3-70b",
     "gpu=rtx4090 quantization_bit=4 lora_rank=64 per_device_train_batch_size=2"),
    ("fsdp_qlora, March 2024", "the same, two RTX 3090", "89 a card in 14.9 GiB", "llama-3.3-70b", "gpu=rtx3090 quantization_bit=4 lora_rank=64 per_device_train_batch_size=2"),
]


def published(thimble: str) -> str:
    lines = ["| published | | tokens/s | ours on one such card, predicted |", "|---|---|---|---|"]
    for source, what, theirs, model, keys in PUBLISHED:
        found, _, _ = plan(thimble, model, [*keys.split()], "ram=128GiB optim=adamw_8bit cutoff_len=2048 threads=1".split())
        lines.append(f"| {source} | {what} | {theirs} | {cell(found)} |")
    return "\n".join(lines)


def main() -> None:
    thimble = sys.argv[1]
    sizes = known(thimble)
    one, times_one = table(thimble, 1)
    eight, times_eight = table(thimble, 8)
    everything = times_one + times_eight
    print(f"""# Plans of known models

Made by `tools/plans.py build/cpu/thimble`, from `examples/configs` alone: no weights, no GPU. QLoRA (NF4 with double quantisation, rank 16 on all matrices, 8-bit AdamW),
one sequence of 2,048 tokens a micro-batch, 64 GiB of RAM; a card with an H200's rates of which the plan may take so much. Predicted, not measured
([benchmarks/h200.md](../benchmarks/h200.md) has what was); how to read a plan: [planning.md](planning.md). The search took {max(everything):.1f} s of one core at most, {sorted(everything)[len(everything) // 2]:.1f} s in the median.

One micro-batch a step:

{one}

Eight micro-batches a step:

{eight}

## Beside what others published

Their figures were measured by them; ours are predictions for a card that was not at hand (its maker's figures, times the shares that an H200 was measured to reach), with 128 GiB of RAM, and take what the
card has.

{published(thimble)}

## Sizes that must come out

{sizes}""")


if __name__ == "__main__":
    main()
