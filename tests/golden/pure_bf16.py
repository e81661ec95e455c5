"""Full tuning with weights in bf16, ours and torchao's, beside f32 weights and beside bf16 that is rounded to the nearest: stories260K on three sets of small
texts (quality.py makes them), the same tokens in the same order, all products in f32, so that the weights' type is all that differs. See docs/quality.md.

    python tests/golden/pure_bf16.py --stories PATH/TO/stories260K --out out/pure-bf16"""
import argparse
import json
import subprocess
from pathlib import Path

import torch
from torchao.optim.adam import single_param_adam
from transformers import get_cosine_schedule_with_warmup
from transformers.utils.logging import disable_progress_bar

from quality import ROOT, batches_of, evaluate, load_base, make_texts, read_examples, sum_of_losses

STEPS, WARMUP, ROWS, CUTOFF = 320, 16, 8, 256
THEIRS = ("torch f32", "torchao bf16", "nearest bf16")


def train_theirs(kind: str, base: Path, training, evaluation, rate: float, seed: int) -> float:
    """torchao's step on each weight, its states in f32; the model computes in f32 with what the weights hold."""
    torch.manual_seed(seed)
    model = load_base(base, None)
    weights = [w for w in model.parameters() if w.requires_grad]
    with torch.no_grad():
        for w in weights:
            w.copy_(w.bfloat16())                     # all begin alike
    states = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    schedule = get_cosine_schedule_with_warmup(torch.optim.SGD(weights, lr=rate), WARMUP, STEPS)
    for step in range(1, STEPS + 1):
        model.train()
        loss, count = sum_of_losses(model, training[(step - 1) % len(training)])
        model.zero_grad(set_to_none=True)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=False)
        now = torch.tensor(schedule.get_last_lr()[0])
        with torch.no_grad():
            for w, (m, v) in zip(weights, states):
                p = w.detach().clone() if kind == "torch f32" else w.detach().bfloat16()
                grad = w.grad if kind == "torch f32" else w.grad.bfloat16()
                single_param_adam(p, grad, torch.tensor(float(step)), m, v, None, now, 0.9, 0.999, 0.0, 1e-8, True, kind == "torchao bf16")
                w.copy_(p)
        schedule.optimizer.step()
        schedule.step()
    return evaluate(model, evaluation)


def train_ours(pure: bool, base: Path, world: Path, rate: float, seed: int, args) -> float:
    out = args.out / f"{world.name}-{rate}-{'bf16' if pure else 'f32'}"
    command = [args.thimble, "train", f"model_name_or_path={base}", "finetuning_type=full", f"pure_bf16={str(pure).lower()}", "bf16=false",
               f"dataset={world / 'questions_train.jsonl'}", f"eval_dataset={world / 'questions_test.jsonl'}", f"cutoff_len={CUTOFF}", f"output_dir={out}", "overwrite_output_dir=true",
               "disable_shuffling=true", f"max_steps={STEPS}", "eval_strategy=steps", f"eval_steps={STEPS}", "save_strategy=no", f"per_device_train_batch_size={ROWS}",
               f"learning_rate={rate}", f"warmup_steps={WARMUP}", "lr_scheduler_type=cosine", f"seed={seed}", "threads=1", "device=cpu"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    lines = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line][-1]


def bf16_base(stories: Path, out: Path) -> Path:
    """The same folder, its numbers rounded once: where every run begins."""
    from safetensors.torch import load_file, save_file
    out.mkdir(parents=True, exist_ok=True)
    for file in stories.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file({name: value.bfloat16().float() for name, value in load_file(stories / "model.safetensors").items()}, out / "model.safetensors", metadata={"format": "pt"})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=Path, required=True, help="folder of stories260K")
    parser.add_argument("--thimble", type=Path, default=ROOT / "build/cpu/thimble")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 5e-5])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out = args.out.resolve()
    disable_progress_bar()
    torch.set_num_threads(1)
    base = bf16_base(args.stories, args.out / "base")
    print("| rate | texts | our f32 | our bf16 | " + " | ".join(THEIRS) + " |")
    print("|---" * 7 + "|")
    for rate in args.rates:
        for seed in (1, 2, 3):
            world = args.out / f"texts{seed}"
            make_texts(world, seed)
            training = batches_of(read_examples(base, world / "questions_train.jsonl", CUTOFF), ROWS)
            evaluation = batches_of(read_examples(base, world / "questions_test.jsonl", CUTOFF), ROWS)
            ours = [train_ours(pure, base, world, rate, seed, args) for pure in (False, True)]
            theirs = [train_theirs(kind, base, training, evaluation, rate, seed) for kind in THEIRS]
            print(f"| {rate} | {seed} | " + " | ".join(f"{loss:.5f}" for loss in ours + theirs) + " |", flush=True)


if __name__ == "__main__":
    main()
