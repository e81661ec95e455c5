"""Prefill and decode on the CPU: `thimble bench` beside llama.cpp's llama-bench, by turns in one run, seeded weights of one shape in both.
llama.cpp's sources are in the PyPI package llama-cpp-python (vendor/llama.cpp; cmake -DGGML_NATIVE=ON, target llama-bench); its files are GGUF
of the same shape, FOLDER/SHAPE-F16.gguf, -Q8_0 and -Q4_0. Our head is packed as the layers are, as theirs is. Medians of the rounds.
  python benchmarks/llama_cpp.py --llama-bench PATH --gguf FOLDER --shape 0.5b --rounds 3 --threads 2"""
import argparse
import re
import statistics
import subprocess
from pathlib import Path

PAIRS = {"bf16": ("dense", "F16"), "int8": ("int8", "Q8_0"), "nf4": ("nf4", "Q4_0"), "nf4_dq": ("nf4_dq", "Q4_0")}
HERE = Path(__file__).parent


def number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    if not found:
        raise SystemExit(f"no {pattern!r} in:\n{text}")
    return float(found.group(1))


def run(command: list) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def ours(o, kind: str) -> dict[str, float]:
    bench = [o.thimble, "bench", HERE / f"shapes/{o.shape}.json", "--device", "cpu", "--threads", o.threads, "--format", kind, "--head", kind]
    decode = run(bench + ["--decode", o.decode])
    prefill = run(bench + ["--decode", 1, "--context", o.prefill])
    return {"decode": number(decode, r"at a time: ([\d.]+) tokens/s"), "share of reading": number(decode, r"([\d.]+)% of the read bandwidth"),
            "GB/s read": number(decode, r"reads ([\d.]+) GB/s"), "prefill": number(prefill, r"tokens: ([\d.]+) tokens/s"),
            "share of oneDNN": number(prefill, r"(\d+)% of the library")}


def theirs(o, kind: str) -> dict[str, float]:
    found = run([o.llama_bench, "-m", f"{o.gguf}/{o.shape}-{kind}.gguf", "-t", o.threads, "-p", o.prefill, "-n", o.decode, "-r", 1])
    return {"prefill": number(found, rf"pp{o.prefill}\s*\|\s*([\d.]+)"), "decode": number(found, rf"tg{o.decode}\s*\|\s*([\d.]+)")}


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--thimble", default=str(HERE / "../build/cpu/thimble"))
    a.add_argument("--llama-bench", required=True)
    a.add_argument("--gguf", required=True)
    a.add_argument("--shape", default="0.5b")
    a.add_argument("--kinds", nargs="+", choices=PAIRS, default=list(PAIRS))
    a.add_argument("--prefill", type=int, default=512)
    a.add_argument("--decode", type=int, default=32)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--threads", type=int, default=2)
    o = a.parse_args()
    rows = {kind: ([], []) for kind in o.kinds}
    for _ in range(o.rounds):
        for kind in o.kinds:
            rows[kind][0].append(ours(o, PAIRS[kind][0]))
            rows[kind][1].append(theirs(o, PAIRS[kind][1]))
            print(kind, rows[kind][0][-1], PAIRS[kind][1], rows[kind][1][-1], flush=True)
    middle = lambda runs, key: statistics.median(run[key] for run in runs)
    print("| | prefill, tokens/s | theirs | ratio | share of oneDNN's rate | decode, tokens/s | theirs | ratio | share of reading alone |\n|" + "---|" * 9)
    for kind, (we, they) in rows.items():
        cells = [f"{kind}, {PAIRS[kind][1]}"]
        for key, share in (("prefill", "share of oneDNN"), ("decode", "share of reading")):
            cells += [f"{middle(we, key):.1f}", f"{middle(they, key):.1f}", f"{middle(we, key) / middle(they, key):.2f}", f"{middle(we, share):.0f}%"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
