"""Goldens of stories260K, a small pretrained Llama: tokens, logits, loss, greedy text, and a PEFT adapter on it.
Random models cannot show that text comes out right; this one tells stories."""
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoTokenizer

from golden_io import int32, save_json, save_tensors, scalar, versions
from llama_odd import greedy, load_model, lora_config, randomise_adapter, save_adapter, token_loss, with_adapter

SENTENCE = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
GREEDY_PROMPTS = ["Once upon a time", "One day, Lily met a"]
PROMPTS = [
    "", " ", "Once upon a time", "One day, Lily met a", SENTENCE, "two  three   four    spaces",
    " leading and trailing ", "A line.\nA second line.\n\nA third.\n", "tab\there", "naïve café, Straße",
    "Emoji 🙂 and 👨‍👩‍👧 joined", "日本語と中文 and 한국어", "Numbers: 0 1 23 456 7890",
    "\"Quotes\" and 'single' -- dashes; (brackets) [too] {and} <these>", "ALL CAPITALS", "\u00a0nbsp",
    "cafe\u0301 with a combining mark",
]
SEED = 21


def next_targets(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)


@torch.no_grad()
def make_stories(out: Path, folder: Path) -> None:
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    logits = model(input_ids=ids).logits
    loss = token_loss(logits, next_targets(ids))
    tensors = {"ids": int32(ids), "targets": int32(next_targets(ids)), "logits": logits, "loss": scalar(loss)}
    told = []
    for number, prompt in enumerate(GREEDY_PROMPTS):
        start = tokenizer(prompt).input_ids
        tokens, margins = greedy(model, start, 200)
        tensors |= {f"greedy{number}": int32(tokens), f"greedy{number}_margin": torch.tensor(margins)}
        told.append({"prompt": prompt, "prompt_ids": start, "ids": tokens, "smallest_margin": min(margins),
                     "text": tokenizer.decode(start + tokens, skip_special_tokens=True)})
    save_tensors(out / "stories260k.safetensors", tensors, text=SENTENCE)
    save_json(out / "stories260k.json", {
        "versions": versions(), "sentence": SENTENCE, "loss": float(loss),
        "prompts": [{"text": text, "ids": tokenizer(text).input_ids} for text in PROMPTS], "greedy": told})


def make_peft_stories(out: Path, folder: Path) -> None:
    target = out / "peft_stories"
    fresh = get_peft_model(load_model(folder), lora_config())
    randomise_adapter(fresh, SEED, b_std=0.02)
    save_adapter(fresh, target, "stories260K", SEED)
    model, tokenizer = with_adapter(load_model(folder), target), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(SENTENCE, return_tensors="pt").input_ids
    with torch.no_grad():
        logits, plain = model(input_ids=ids).logits, model.get_base_model()
        with model.disable_adapter():
            without = plain(input_ids=ids).logits
        tokens, margins = greedy(model, ids[0, :5].tolist(), 32)
    save_tensors(target / "reference.safetensors",
                 {"ids": int32(ids), "logits": logits[:, -1], "base_logits": without[:, -1],
                  "prompt": int32(ids[0, :5]), "greedy": int32(tokens), "greedy_margin": torch.tensor(margins)},
                 seed=SEED, text=SENTENCE)
