"""Thimble beside transformers, PEFT and bitsandbytes on one device: logits and gradients of several models, and the first steps of QLoRA.

    python tests/golden/agreement.py --device cuda --thimble build/cuda/thimble --dump build/cuda/tests/thimble-dump --out out/agreement \\
        --stories PATH/TO/stories260K --demo out/demo

The yardstick is transformers in f32 on the same device (eager attention, no TF32). Our f32 must meet it; our bf16 may be no further from
it than 1.5 times transformers' own bf16 (root mean squares, gradients of all tensors as one). Exit code 1 where that does not hold."""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import quality
from golden_io import HERE, generator, int32, versions
from llama_odd import IGNORED, LINEARS, adapter_tensors, masked_targets, randomise_adapter, save_model, token_loss, with_adapter

SEED = 51
F32_LIMIT, BF16_LIMIT = 1e-6, 1.5
SHORT = {"f32": torch.float32, "bf16": torch.bfloat16}
TUNINGS = {"LoRA": [], "QLoRA": ["--format", "nf4_dq"], "full": ["--full"]}
LENGTHS = {"equal": [128] * 4, "ragged": [192, 1, 77, 130]}     # tokens of each document
# Widths are multiples of 64: bitsandbytes' CPU code unpacks (256, 688) wrongly.
HEAD_64 = dict(vocab_size=1000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
               head_dim=64, tie_word_embeddings=False)
HEAD_128 = dict(vocab_size=1024, hidden_size=512, intermediate_size=1408, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
                head_dim=128, tie_word_embeddings=True)


# Models, adapters and tokens.

def make_random(folder: Path, shape: dict, seed: int) -> Path:
    """Numbers that bf16 holds, so that all sides begin with the same ones."""
    if (folder / "config.json").exists():
        return folder
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=512, rms_norm_eps=1e-5, dtype="bfloat16",
                                         architectures=["LlamaForCausalLM"], bos_token_id=1, eos_token_id=2)).bfloat16()
    draw = generator(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(1 + 0.2 * noise if "norm" in name else noise / weight.shape[-1] ** 0.5)
    save_model(model, folder, legacy=False, seed=seed)
    return folder


def make_adapter(base: Path, folder: Path, rank: int, seed: int) -> Path:
    """B is not zero, so that A has gradients."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules=LINEARS, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    randomise_adapter(model, seed, b_std=0.02)
    model.save_pretrained(folder)
    return folder


def make_tokens(base: Path, lengths: list[int], seed: int, path: Path) -> Path:
    vocab, longest, draw = json.loads((base / "config.json").read_text())["vocab_size"], max(lengths), generator(seed)
    ids = torch.randint(0, vocab, (len(lengths), longest), generator=draw)
    targets = masked_targets(ids, draw)
    for row, length in enumerate(lengths):
        targets[row, length - 1:] = IGNORED
    save_file({"ids": int32(ids), "targets": int32(targets), "lengths": int32(lengths)}, path)
    return path


# Their side and ours: {"logits": (N, V) of the documents' tokens, "loss": (1), "grad.NAME": ...}, f32 on the host.

def theirs(base: Path, adapter: Path | None, tokens: Path, compute: str, device: str) -> dict[str, torch.Tensor]:
    """All of it in `compute`, but adapters, which PEFT keeps in f32. (Of a packed folder `dtype` alone leaves each tensor in its file's.)"""
    dtype, attention = SHORT[compute], "eager" if compute == "f32" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, device_map=device, attn_implementation=attention).eval()
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            module.compute_dtype, module.compute_type_is_set, module.weight.quant_state.dtype = dtype, True, dtype
    for weight in model.parameters():
        weight.data = weight.data.to(dtype) if weight.is_floating_point() else weight.data
    if adapter:
        model = with_adapter(model, adapter)
        trained = adapter_tensors(model)
    else:
        trained = dict(model.named_parameters())
    given = load_file(tokens)
    ids, targets, lengths = (given[name].long().to(device) for name in ("ids", "targets", "lengths"))
    real = torch.arange(ids.shape[1], device=device)[None] < lengths[:, None]
    logits = model(input_ids=ids, attention_mask=real.long(), use_cache=False).logits.float()
    loss = token_loss(logits, targets)
    loss.backward()
    found = {"logits": logits[real], "loss": loss.reshape(1)} | {"grad." + name: weight.grad for name, weight in trained.items()}
    return {name: value.detach().float().cpu() for name, value in found.items()}


def ours(dump: Path, base: Path, adapter: Path | None, tokens: Path, compute: str, device: str, more: list[str], out: Path):
    command = [str(dump), str(base), str(tokens), str(out), "--device", device, "--compute", compute, *more]
    command += ["--adapter", str(adapter)] if adapter else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return load_file(out)


# Comparison.

def nmse(a: torch.Tensor, reference: torch.Tensor) -> float:
    a, reference = a.double().flatten(), reference.double().flatten()
    return float((a - reference).square().sum() / reference.square().sum())


def farthest(a: torch.Tensor, reference: torch.Tensor) -> float:
    return float((a.double() - reference.double()).abs().max() / reference.double().abs().max())


def errors(found: dict, reference: dict) -> dict[str, tuple[float, float, float]]:
    """Of logits, loss and gradients: NMSE of all as one, the worst tensor's, and its largest difference by its largest element."""
    names = [name for name in reference if name.startswith("grad.")]
    if set(found) != set(reference):
        raise RuntimeError(f"not the same tensors: {sorted(set(found) ^ set(reference))[:6]}")
    all_of = lambda run: torch.cat([run[name].flatten() for name in names])
    result = {}
    for what, members in (("logits", ["logits"]), ("loss", ["loss"]), ("gradients", names)):
        whole = nmse(all_of(found), all_of(reference)) if what == "gradients" else nmse(found[what], reference[what])
        result[what] = (whole, max(nmse(found[name], reference[name]) for name in members),
                        max(farthest(found[name], reference[name]) for name in members))
    return result


def compare(name: str, tuning: str, lengths: str, base: Path, packed: Path, adapter: Path, args) -> list[str]:
    """Prints two rows; returns what does not hold."""
    tokens = make_tokens(base, LENGTHS[lengths], SEED + 1, args.out / f"{name}-{lengths}.safetensors")
    adapter = None if tuning == "full" else adapter
    their_base = packed if tuning == "QLoRA" else base
    reference = theirs(their_base, adapter, tokens, "f32", args.device)
    run = lambda compute: errors(ours(args.dump, base, adapter, tokens, compute, args.device, TUNINGS[tuning], args.out / "ours.safetensors"),
                                 reference)
    exact, rounded = run("f32"), run("bf16")
    beside = errors(theirs(their_base, adapter, tokens, "bf16", args.device), reference)
    wrong = []
    for what in ("logits", "gradients"):
        (f, f_worst, f_far), (b, b_worst, b_far), (t, t_worst, t_far) = exact[what], rounded[what], beside[what]
        ratio = (b / t) ** 0.5
        print(f"| {name} | {tuning} | {lengths} | {what} | {f:.1e} | {f_worst:.1e} | {f_far:.1e} | {b:.1e} | {b_worst:.1e} | {b_far:.1e} "
              f"| {t:.1e} | {t_worst:.1e} | {t_far:.1e} | {ratio:.2f} |", flush=True)
        if not f <= F32_LIMIT:
            wrong.append(f"{name}, {tuning}, {lengths}: NMSE of f32 {what} {f:.1e}, above {F32_LIMIT:.0e}")
        if not ratio <= BF16_LIMIT:
            wrong.append(f"{name}, {tuning}, {lengths}: bf16 {what} {ratio:.2f} times as far as transformers' own")
    if not exact["loss"][2] <= 1e-5:
        wrong.append(f"{name}, {tuning}, {lengths}: f32 loss off by {exact['loss'][2]:.1e}")
    return wrong


def compare_all(bases: dict[str, Path], args) -> list[str]:
    print("\nLogits and gradients beside transformers' in f32: NMSE of all, of the worst tensor, and the largest difference by the largest "
          "element; ratio: root of our bf16 NMSE by theirs\n")
    print("| model | tuning | documents | of | f32 NMSE | worst | max | bf16 NMSE | worst | max | transformers bf16 NMSE | worst | max | ratio |")
    print("|---" * 14 + "|")
    wrong = []
    for name, base in bases.items():
        packed = args.out / f"{name}-nf4"
        quality.thimble_quantize(args.thimble, base, packed)
        adapter = make_adapter(base, args.out / f"{name}-adapter", 8, SEED + 2)
        for tuning, lengths in (("LoRA", "equal"), ("LoRA", "ragged"), ("QLoRA", "equal"), ("QLoRA", "ragged"), ("full", "equal"), ("full", "ragged")):
            try:
                wrong += compare(name, tuning, lengths, base, packed, adapter, args)
            except RuntimeError as error:              # the other rows are worth having
                wrong.append(f"{name}, {tuning}, {lengths}: {error}")
    return wrong


# The first steps of QLoRA, on codes that `thimble quantize` packed.

def text_examples(base: Path, data: Path, cutoff: int):
    """As src/data reads plain text, a document a line, for `stage: pt`: the tokenizer's own tokens around it, and the end token."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    end = tokenizer.token_to_id(json.loads((base / "tokenizer_config.json").read_text())["eos_token"])
    rows = [tokenizer.encode(line).ids for line in data.read_text(encoding="utf-8").splitlines() if line]
    rows = [(ids if ids[-1] == end else ids + [end])[:cutoff] for ids in rows]
    return [(ids, ids) for ids in rows]


def curve(name: str, base: Path, packed: Path, recipe: dict, data: Path, optim: str, args) -> None:
    out = args.out / f"curve-{name}-{optim}"
    out.mkdir(parents=True, exist_ok=True)
    recipe_file, adapter = out / "recipe.yaml", out / "adapter"
    recipe_file.write_text(yaml.safe_dump(recipe))
    quality.make_adapter(base, recipe, SEED + 3, adapter)
    read = text_examples if recipe["stage"] == "pt" else quality.read_examples
    batches = quality.batches_of(read(base, data, recipe["cutoff_len"]), recipe["per_device_train_batch_size"])
    given = {"recipe": recipe, "recipe_file": recipe_file, "thimble": args.thimble, "optim": optim, "device": args.device,
             "train_file": data, "test_file": data, "steps": args.steps, "eval_steps": args.steps, "training": batches, "evaluation": batches[:1]}
    peft = lambda compute: quality.train_peft(packed, None, adapter, given | {"compute": SHORT[compute]})["train"]
    runs = {}
    computes = ["f32"] if args.device == "cpu" else ["f32", "bf16"]
    runs[f"Thimble {computes[-1]}"] = quality.train_ours(base, 4, adapter, given | {"compute": SHORT[computes[-1]]}, out / "ours")["train"]
    for compute in reversed(computes):
        runs[f"PEFT + bnb {compute}"] = peft(compute)
    print(f"\nQLoRA of {name}, {optim}, {args.steps} steps: training loss\n\n| step | " + " | ".join(runs) + " |\n|---" + "|---" * len(runs) + "|")
    for step in [0, *range(4, args.steps, 5)]:
        print(f"| {step + 1} | " + " | ".join(f"{run[step]:.6f}" for run in runs.values()) + " |")
    *others, reference = runs.values()
    for label, run in zip(runs, others):
        apart = [abs(a / b - 1) for a, b in zip(run, reference, strict=True)]
        print(f"\n{label} beside {list(runs)[-1]}: largest relative difference {max(apart):.1e} (first 10 steps {max(apart[:10]):.1e}), "
              f"mean {sum(apart) / len(apart):.1e}", flush=True)


def curves(bases: dict[str, Path], args) -> list[str]:
    demo, wrong = yaml.safe_load(args.recipe.read_text()), []
    for name, base in bases.items():
        # Rank 64: below it stories260K's adapters have fewer elements than 8-bit states begin at.
        recipe = demo if name == "demo" else demo | {"stage": "pt", "packing": False, "lora_rank": 64, "lora_alpha": 128, "cutoff_len": 128}
        data = args.demo / "world" / "questions_train.jsonl" if name == "demo" else HERE / "corpus.txt"
        for optim in ["adamw_torch"] if args.device == "cpu" else ["adamw_torch", "paged_adamw_8bit"]:
            try:
                curve(name, base, args.out / f"{name}-nf4", recipe, data.resolve(), optim, args)
            except RuntimeError as error:
                wrong.append(f"curve of {name}, {optim}: {error}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--thimble", type=Path, default=quality.ROOT / "build/cpu/thimble")
    parser.add_argument("--dump", type=Path, default=quality.ROOT / "build/cpu/tests/thimble-dump")
    parser.add_argument("--recipe", type=Path, default=quality.ROOT / "examples/demo/qlora.yaml")
    parser.add_argument("--stories", type=Path, help="folder of stories260K")
    parser.add_argument("--demo", type=Path, help="folder of `make demo`: base/ and world/")
    parser.add_argument("--only", choices=["gradients", "curves"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for name in ("thimble", "dump", "out"):
        setattr(args, name, getattr(args, name).resolve())
    args.out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    print(" ".join(f"{name} {version}" for name, version in versions().items()),
          torch.cuda.get_device_name() if args.device == "cuda" else "cpu", flush=True)
    real = {name: folder.resolve() for name, folder in (("stories260K", args.stories), ("demo", args.demo and args.demo / "base")) if folder}
    wrong = []
    if args.only != "curves":
        made = {"head-64": make_random(args.out / "head-64", HEAD_64, SEED), "head-128": make_random(args.out / "head-128", HEAD_128, SEED)}
        wrong = compare_all(made | real, args)
    if args.only != "gradients":
        for name, base in real.items():
            quality.thimble_quantize(args.thimble, base, args.out / f"{name}-nf4")
        wrong += curves(real, args)
    print("\n" + ("\n".join(wrong) if wrong else "nothing failed" if args.only == "curves" else "all within the limits"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
