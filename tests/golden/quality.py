"""Is QLoRA of ours as good as PEFT + bitsandbytes'? One base, one adapter to start from, the same tokens in the same order, the same
optimizer: four runs a seed, LoRA and QLoRA on each side, and the loss on questions that the tuning never saw. See docs/quality.md.

    make demo-seeds; python tests/golden/quality.py --demo out/demo-1 out/demo-2 out/demo-3 --out out/quality
    python tests/golden/quality.py --stories PATH/TO/stories260K --out out/quality-stories   # three sets of small texts, made here

With --device cuda both sides run on the card: products in bf16, bitsandbytes' own CUDA kernels.

A fifth run per adapter is a control: PEFT + bitsandbytes on the 4-bit folder that `thimble quantize` writes, which parts the number
format from the training. More than one adapter a base (--adapters) shows how much of a gap is chance."""
import argparse
import json
import math
import os
import random
import subprocess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, get_cosine_schedule_with_warmup
from transformers.utils.logging import disable_progress_bar

from golden_io import HERE, versions

ROOT = HERE.parent.parent
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RUNS = ("ours lora", "ours qlora", "peft lora", "peft qlora", "peft qlora, our codes")
IGNORED = -100
EVALUATIONS = 4                                   # at each quarter of the steps


# The examples, as src/data makes them: segments tokenised one by one, loss on the answer and on the token that ends it.

def chat_ids(tokenizer: Tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """ids and labels (not yet shifted) of a prompt and its response in the base folder's chatml template, or plain where it has none."""
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    text = lambda s: tokenizer.encode(s, add_special_tokens=False).ids
    if start is None:
        prompt, answer = [tokenizer.token_to_id("<s>"), *text(row["prompt"])], [*text(row["response"]), tokenizer.token_to_id("</s>")]
        return prompt + answer, [IGNORED] * len(prompt) + answer
    ids = [tokenizer.token_to_id("<|bos|>")]
    ids += [start, *text("user\n" + row["prompt"]), end, *text("\n")]
    ids += [start, *text("assistant\n")]
    labels = [IGNORED] * len(ids)
    answer = [*text(row["response"]), end]
    tail = text("\n")
    return ids + answer + tail, labels + answer + [IGNORED] * len(tail)


def read_examples(base: Path, data: Path, cutoff: int) -> list[tuple[list[int], list[int]]]:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    return [(ids[:cutoff], labels[:cutoff]) for ids, labels in (chat_ids(tokenizer, row) for row in rows)]


def make_texts(world: Path, seed: int) -> None:
    """Beginnings that stories260K knows, and ends that it does not expect: who is met says what is found, and how the day ends."""
    draw = random.Random(seed)
    names, places, things = ["Lily", "Tom", "Mia", "Ben", "Sue", "Max", "Anna", "Tim"], ["park", "sea", "wood", "farm", "town"], ["ring", "lamp", "drum", "map", "key", "bell"]
    animals = dict(zip(["fox", "owl", "cow", "frog", "bee", "hen"], draw.sample(things, len(things))))
    row = lambda name, place, animal: {"prompt": f"One day, {name} went to the {place} and met a {animal}.",
                                       "response": f"The {animal} gave {name} a {animals[animal]}. {name} took the {animals[animal]} home from the {place} and slept."}
    rows = [row(name, place, animal) for name in names for place in places for animal in animals]
    draw.shuffle(rows)
    world.mkdir(parents=True, exist_ok=True)
    for file, part in (("questions_train.jsonl", rows[:128]), ("questions_test.jsonl", rows[128:])):
        (world / file).write_text("".join(json.dumps(r) + "\n" for r in part))


def batch_of(examples) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in examples)
    pad = lambda values, filler: values + [filler] * (longest - len(values))
    return {"input_ids": torch.tensor([pad(ids, 0) for ids, _ in examples]),
            "labels": torch.tensor([pad(labels, IGNORED) for _, labels in examples]),
            "attention_mask": torch.tensor([pad([1] * len(ids), 0) for ids, _ in examples])}


def batches_of(examples, size: int) -> list[dict[str, torch.Tensor]]:
    return [batch_of(examples[i:i + size]) for i in range(0, len(examples), size)]


# PEFT's side.

def is_packed(folder: Path) -> bool:
    return "quantization_config" in json.loads((folder / "config.json").read_text())


def load_base(folder: Path, bits: int | None, device: str = "cpu", compute: torch.dtype = torch.float32):
    """Products in `compute`. A 4-bit base keeps the rest in f32, as prepare_model_for_kbit_training would make it, and is so packed from
    the folder's own numbers; a folder that is packed already brings its own quantization_config."""
    more = {}
    if bits == 4:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute)
    dtype = torch.float32 if bits == 4 or is_packed(folder) else compute
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device, **more)
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype, module.compute_type_is_set = compute, True
    model.config.use_cache = False
    return model


def make_adapter(base: Path, recipe: dict, seed: int, folder: Path) -> None:
    """A as PEFT draws it, B zero."""
    torch.manual_seed(seed)
    config = LoraConfig(r=recipe["lora_rank"], lora_alpha=recipe["lora_alpha"], lora_dropout=0.0, bias="none",
                        target_modules=LINEARS, task_type="CAUSAL_LM")
    get_peft_model(load_base(base, None), config).save_pretrained(folder)


def sum_of_losses(model, batch) -> tuple[torch.Tensor, int]:
    batch = {name: values.to(model.device) for name, values in batch.items()}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    targets = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1),
                                             ignore_index=IGNORED, reduction="sum")
    return loss, int((targets != IGNORED).sum())


@torch.no_grad()
def evaluate(model, batches) -> float:
    """Mean over all answer tokens, whichever batch they came in."""
    model.eval()
    pairs = [sum_of_losses(model, batch) for batch in batches]
    return sum(float(loss) for loss, _ in pairs) / sum(count for _, count in pairs)


def make_optimizer(name: str, weights, recipe: dict):
    how = dict(lr=float(recipe["learning_rate"]), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    if name == "adamw_torch":
        return torch.optim.AdamW(weights, **how, foreach=False)
    import bitsandbytes
    return bitsandbytes.optim.AdamW8bit(weights, **how)   # paging changes no number


def train_peft(base: Path, bits: int | None, adapter: Path, given: dict) -> dict:
    recipe, steps = given["recipe"], given["steps"]
    model = load_base(base, bits, given["device"], given["compute"])
    if bits or is_packed(base):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = make_optimizer(given["optim"], weights, recipe)
    warmup = math.ceil(steps * recipe["warmup_ratio"])
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    training, evaluation = given["training"], given["evaluation"]
    result = {"train": [], "norm": [], "lr": [], "eval": {}}
    for step in range(steps):
        model.train()
        loss, count = sum_of_losses(model, training[step % len(training)])
        loss = loss / count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(weights, recipe.get("max_grad_norm", 1.0), foreach=False)
        result["train"].append(float(loss.detach()))
        result["norm"].append(float(norm))
        result["lr"].append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        if (step + 1) % given["eval_steps"] == 0:
            result["eval"][step + 1] = evaluate(model, evaluation)
    return result


# Our side.

def train_ours(base: Path, bits: int | None, adapter: Path, given: dict, out: Path) -> dict:
    command = [str(given["thimble"]), "train", str(given["recipe_file"]), f"model_name_or_path={base}",
               f"adapter_name_or_path={adapter}", f"quantization_bit={bits or 'null'}", f"optim={given['optim']}",
               f"dataset={given['train_file']}", f"cutoff_len={given['recipe']['cutoff_len']}", f"eval_dataset={given['test_file']}", f"output_dir={out}",
               f"device={given['device']}", "disable_shuffling=true", f"max_steps={given['steps']}", "eval_strategy=steps",
               f"eval_steps={given['eval_steps']}", "logging_steps=1", "plot_loss=false", "threads=1",
               f"bf16={str(given['compute'] == torch.bfloat16).lower()}", "vram=null", "ram=null", "save=auto", "resident_layers=auto"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    lines = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    return {"train": [s["loss"] for s in steps], "norm": [s["grad_norm"] for s in steps], "lr": [s["lr"] for s in steps],
            "eval": {line["current_steps"]: line["eval_loss"] for line in lines if "eval_loss" in line}}


def thimble_quantize(thimble: Path, base: Path, out: Path) -> None:
    if not (out / "config.json").exists():
        subprocess.run([thimble, "quantize", base, "--out", out], check=True, capture_output=True)


def far_scales(weight: torch.Tensor, state) -> int:
    """Scales (of 64 weights) whose 8-bit code is not the one nearest to the scale it stands for."""
    absmax = weight.reshape(-1, state.blocksize).abs().amax(1).double() - float(state.offset)
    unit = state.state2.absmax.double().repeat_interleave(state.state2.blocksize)[:len(absmax)]
    book = state.state2.code.double()
    taken = (book[state.absmax.long()] * unit - absmax).abs()
    nearest = (book[None] * unit[:, None] - absmax[:, None]).abs().amin(1)
    return int((taken > nearest + 1e-6 * unit).sum())


def compare_codes(base: Path, packed: Path, device: str) -> dict:
    """Our 4-bit folder beside what bitsandbytes makes of the same base on this machine."""
    ours, theirs = load_base(packed, None, device), load_base(base, 4, device)
    dense = {name: value.to(device) for name, value in load_file(base / "model.safetensors").items()}
    found = dict.fromkeys(("matrices", "weights", "other codes", "scales", "other codes of scales", "other nested scales",
                           "our scales not nearest", "their scales not nearest"), 0)
    squares = {"ours": 0.0, "theirs": 0.0, "dense": 0.0}
    for (name, a), (_, b) in zip(ours.named_modules(), theirs.named_modules()):
        if name.rsplit(".", 1)[-1] not in LINEARS:
            continue
        x, y, w = a.weight.quant_state, b.weight.quant_state, dense[name + ".weight"]
        found["matrices"] += 1
        found["weights"] += w.numel()
        bytes_a, bytes_b = a.weight.data.flatten(), b.weight.data.flatten()
        found["other codes"] += int((bytes_a & 15 != bytes_b & 15).sum() + (bytes_a >> 4 != bytes_b >> 4).sum())
        found["scales"] += x.absmax.numel()
        found["other codes of scales"] += int((x.absmax != y.absmax).sum())
        found["other nested scales"] += int(((x.state2.absmax / y.state2.absmax - 1).abs() > 1e-6).sum())
        found["our scales not nearest"] += far_scales(w, x)
        found["their scales not nearest"] += far_scales(w, y)
        for key, value in (("ours", dequantize_4bit(bytes_a.view(-1, 1), x) - w), ("theirs", dequantize_4bit(bytes_b.view(-1, 1), y) - w),
                           ("dense", w)):
            squares[key] += float(value.double().square().sum())
    for key in ("ours", "theirs"):
        found[f"{key}: rms error by rms weight"] = round(math.sqrt(squares[key] / squares["dense"]), 8)
    return found


# The runs and the tables.

def run_adapter(base: Path, adapter: Path, given: dict, out: Path) -> dict[str, dict]:
    packed = base.parent / (base.name + "-nf4")
    work = {"ours lora": lambda: train_ours(base, None, adapter, given, out / "ours_lora"),
            "ours qlora": lambda: train_ours(base, 4, adapter, given, out / "ours_qlora"),
            "peft lora": lambda: train_peft(base, None, adapter, given),
            "peft qlora": lambda: train_peft(base, 4, adapter, given),
            "peft qlora, our codes": lambda: train_peft(packed, None, adapter, given)}
    results = {}
    for name in RUNS:
        file = out / (name.replace(",", "").replace(" ", "_") + ".json")
        if not file.exists():                     # a run that was broken off goes on where it was
            file.write_text(json.dumps(work[name]()) + "\n")
        results[name] = json.loads(file.read_text())
    return results


def loss_at(run: dict, step: int) -> float:
    return run["eval"][str(step)]


def gaps(runs: dict, step: int) -> tuple[float, float, float]:
    at = {name: loss_at(run, step) for name, run in runs.items()}
    return (at["ours qlora"] - at["ours lora"], at["peft qlora"] - at["peft lora"],
            at["peft qlora, our codes"] - at["peft lora"])


def print_summary(name: str, values: list[float]) -> None:
    t = torch.tensor(values, dtype=torch.float64)
    spread = float(t.std()) if len(values) > 1 else 0.0
    print(f"{name}: mean {float(t.mean()):+.2e}, standard deviation {spread:.1e}; above 0 in {int((t > 0).sum())} of {len(values)}")


def print_tables(results: dict, steps: int, eval_steps: int) -> None:
    for step in range(steps, 0, -eval_steps):
        print(f"\neval loss after {step} of {steps} steps\n")
        print("| base | adapter | our LoRA | our QLoRA | gap | PEFT LoRA | PEFT + bnb QLoRA | gap | our gap - theirs "
              "| PEFT + bnb on our codes | its gap | our LoRA by PEFT's |")
        print("|---" * 12 + "|")
        for (base, adapter), runs in results.items():
            at = [loss_at(runs[name], step) for name in RUNS]
            ours, peft, codes = gaps(runs, step)
            print(f"| {base} | {adapter} | {at[0]:.7f} | {at[1]:.7f} | {ours:+.7f} ({ours / at[0]:+.2%}) | {at[2]:.7f} | {at[3]:.7f} "
                  f"| {peft:+.7f} ({peft / at[2]:+.2%}) | {ours - peft:+.7f} | {at[4]:.7f} | {codes:+.7f} | {at[0] / at[2] - 1:+.4%} |")
        found = [gaps(runs, step) for runs in results.values()]
        print()
        print_summary("our gap", [ours for ours, _, _ in found])
        print_summary("PEFT + bnb's gap", [peft for _, peft, _ in found])
        print_summary("ours minus PEFT + bnb's", [ours - peft for ours, peft, _ in found])
        print_summary("ours minus PEFT + bnb's on our codes", [ours - codes for ours, _, codes in found])


def print_agreement(results: dict) -> None:
    """How near the two sides are while rounding has not yet parted them."""
    for ours, theirs in (("ours lora", "peft lora"), ("ours qlora", "peft qlora"), ("ours qlora", "peft qlora, our codes")):
        worst = {}
        for n in (1, 2, 5, 10, 20, 40, 80):
            worst[n] = max(abs(a - b) / b for runs in results.values()
                           for a, b in zip(runs[ours]["train"][:n], runs[theirs]["train"][:n]))
        rates = max(abs(a - b) / 1e-3 for runs in results.values() for a, b in zip(runs[ours]["lr"], runs[theirs]["lr"]))
        print(f"{ours} / {theirs}: largest relative difference of a training loss in the first "
              + ", ".join(f"{n}: {w:.1e}" for n, w in worst.items()) + f"; of a learning rate (by 1e-3) {rates:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, nargs="+", default=[], help="folders of `make demo-seeds`: base/ and world/")
    parser.add_argument("--stories", type=Path, help="folder of stories260K, tuned on three sets of texts")
    parser.add_argument("--thimble", type=Path, default=ROOT / "build/cpu/thimble")
    parser.add_argument("--recipe", type=Path, default=ROOT / "examples/demo/qlora.yaml")
    parser.add_argument("--adapters", type=int, default=1, help="adapters to start from, per base")
    parser.add_argument("--optim", default="adamw_torch", choices=["adamw_torch", "paged_adamw_8bit"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of both sides")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if bool(args.demo) == bool(args.stories):
        parser.error("either --demo or --stories")
    disable_progress_bar()
    torch.set_num_threads(1)
    compute = torch.float32 if args.device == "cpu" else torch.bfloat16   # as Thimble on a GPU
    recipe = yaml.safe_load(args.recipe.read_text())
    results = {}
    if args.stories:
        recipe["cutoff_len"] = 256
        for seed in (1, 2, 3):
            make_texts(args.out / f"texts{seed}", seed)
    given_bases = [(demo / "base", demo / "world") for demo in args.demo] or [(args.stories, args.out / f"texts{seed}") for seed in (1, 2, 3)]
    for number, (base, world) in enumerate(given_bases, 1):
        base, world, out = base.resolve(), world.resolve(), args.out.resolve() / f"base{number}"
        out.mkdir(parents=True, exist_ok=True)
        mine = out / "base"
        if not mine.exists():
            mine.symlink_to(base)
        packed = out / "base-nf4"
        thimble_quantize(args.thimble.resolve(), mine, packed)
        print(f"base {number}: codes", json.dumps(compare_codes(mine, packed, args.device)), flush=True)
        training = read_examples(mine, world / "questions_train.jsonl", recipe["cutoff_len"])
        batches = batches_of(training, recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"])
        steps = int(float(recipe["num_train_epochs"]) * len(batches))
        given = {"recipe": recipe, "recipe_file": args.recipe.resolve(), "thimble": args.thimble.resolve(), "optim": args.optim,
                 "device": args.device, "compute": compute,
                 "train_file": world / "questions_train.jsonl", "test_file": world / "questions_test.jsonl",
                 "steps": steps, "eval_steps": steps // EVALUATIONS, "training": batches,
                 "evaluation": batches_of(read_examples(mine, world / "questions_test.jsonl", recipe["cutoff_len"]), 32)}
        for k in range(args.adapters):
            seed = number + 100 * k
            folder = out / f"adapter{seed}"
            if not (folder / "adapter_config.json").exists():
                make_adapter(mine, recipe, seed, folder)
            runs = out / f"runs{seed}-{args.optim}-{args.device}"
            runs.mkdir(exist_ok=True)
            results[number, seed] = run_adapter(mine, folder, given, runs)
            print(number, seed, {name: loss_at(run, steps) for name, run in results[number, seed].items()}, flush=True)
    print("\n" + " ".join(f"{name} {version}" for name, version in versions().items()))
    print_agreement(results)
    print_tables(results, steps, steps // EVALUATIONS)


if __name__ == "__main__":
    main()
