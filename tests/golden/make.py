"""Makes the goldens of tests/golden with PyTorch, transformers, PEFT and bitsandbytes on a CPU; see README.md.
One sub-command per golden, `all` for every one: python make.py all --stories PATH/TO/stories260K"""
import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")     # one thread: sums keep their order, so a remake is bit-equal
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import families
import llama_odd
import sampling
import parquet_goldens
import quantised
import methods
import optim
import rounding
import stories
import template_goldens
import token_goldens
from golden_io import HERE

GOLDENS = {                                       # in an order in which each finds what it needs
    "llama-odd": lambda a: [llama_odd.make_model(a.out, tied) for tied in (True, False)],
    "lora": lambda a: llama_odd.make_lora(a.out),
    "train30": lambda a: llama_odd.make_train30(a.out),
    "quantised": lambda a: quantised.make_quantised(a.out),
    "methods": lambda a: methods.make_methods(a.out),
    "optim": lambda a: optim.make_optim(a.out),
    "rounding": lambda a: rounding.make_rounding(a.out),
    "families": lambda a: families.make_families(a.out, a.only),
    "peft-fused": lambda a: methods.make_peft_fused(a.out),
    "stories": lambda a: stories.make_stories(a.out, a.stories),
    "peft-stories": lambda a: stories.make_peft_stories(a.out, a.stories),
    "sampling": lambda a: sampling.make_sampling(a.out),
    "jinja": lambda a: template_goldens.make_language(a.out),
    "templates": lambda a: template_goldens.make_templates(a.out, {"trl": a.trl, "llama.cpp": a.llama_cpp}),
    "parquet": lambda a: parquet_goldens.make_parquet(a.out),
    "tokens": lambda a: token_goldens.make_tokens(a.out, a.stories),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("golden", choices=[*GOLDENS, "all"])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--only", help="one model: for families")
    parser.add_argument("--stories", type=Path, help="the stories260K folder: for stories, peft-stories, tokens")
    parser.add_argument("--trl", type=Path, help="trl/chat_templates of TRL's package: for templates")
    parser.add_argument("--llama-cpp", type=Path, help="vendor/llama.cpp/models/templates of llama-cpp-python's source package: for templates")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.golden in ("stories", "peft-stories", "tokens", "all") and args.stories is None:
        parser.error(f"{args.golden} needs --stories")
    if args.golden in ("templates", "all") and not (args.trl and args.llama_cpp):
        parser.error(f"{args.golden} needs --trl and --llama-cpp")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, make in GOLDENS.items():
        if args.golden in (name, "all"):
            make(args)


if __name__ == "__main__":
    main()
