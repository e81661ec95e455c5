"""What transformers' logits processors and warpers leave of random logits, with probabilities, in float64."""
import json
from pathlib import Path

import torch
import transformers
from transformers.generation import logits_process as lp

CASES = [{}, {"temperature": 0.7}, {"temperature": 1.8}, {"top_k": 1}, {"top_k": 5}, {"top_k": 1000}, {"top_p": 0.5}, {"top_p": 0.95}, {"top_p": 0.01}, {"min_p": 0.1},
         {"min_p": 0.9}, {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9},
         {"repetition_penalty": 1.1, "temperature": 1.3, "top_k": 30, "top_p": 0.8, "min_p": 0.05}]


def make_sampling(out: Path) -> None:
    g = torch.Generator().manual_seed(7)
    logits = (torch.randn(3, 53, generator=g) * 2).round(decimals=2)   # so that ties occur, also at the edge of top-k
    logits[1, :9] = 3.5
    prompt = torch.tensor([[3, 5, 5, 40, 52]])
    cases = []
    for how in CASES:
        chain = lp.LogitsProcessorList()
        if "repetition_penalty" in how:
            chain.append(lp.RepetitionPenaltyLogitsProcessor(how["repetition_penalty"]))
        for key, warper in (("temperature", lp.TemperatureLogitsWarper), ("top_k", lp.TopKLogitsWarper), ("top_p", lp.TopPLogitsWarper), ("min_p", lp.MinPLogitsWarper)):
            if key in how:
                chain.append(warper(how[key]))
        scores = chain(prompt.expand(3, -1), logits.double()) if chain else logits.double()
        kept = [[[i, p] for i, p in enumerate(torch.softmax(row, -1).tolist()) if row[i] > -float("inf")] for row in scores]
        cases.append({"how": how, "kept": [[[i, float(f"{p:.9g}")] for i, p in row] for row in kept]})
    (out / "sampling.json").write_text(json.dumps({"versions": {"transformers": transformers.__version__, "torch": torch.__version__}, "logits": [[round(x, 2) for x in r] for r in logits.tolist()],
                                                   "prompt": prompt[0].tolist(), "cases": cases}) + "\n")
