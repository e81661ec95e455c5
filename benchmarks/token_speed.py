"""Throughput of encoding on one thread beside Hugging Face's tokenizers: the same text, in turns, by the processor's time, so that a busy machine slows both alike.
Prints MB/s of ours and theirs and the ratio of the medians.
usage: python token_speed.py build/cpu FOLDER TEXT [NAME ...]     FOLDER: as tests/golden/real_tokenizers.py leaves it"""
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer

ROUNDS = 3


def documents(text: bytes) -> list[str]:
    """Of 64 KiB, cut behind a line: as thimble-encode cuts them."""
    found, at = [], 0
    while at < len(text):
        end = text.find(b"\n", min(at + (64 << 10), len(text)))
        end = len(text) if end < 0 else end + 1
        found.append(text[at:end].decode())
        at = end
    return found


def main() -> None:
    build, folder, file = map(Path, sys.argv[1:4])
    text = file.read_bytes()
    parts = documents(text)
    names = sys.argv[4:] or ["llama3-json", "qwen-json", "deepseek-v3", "llama4-json", "tekken-json", "mistral-v1-json", "unigram-en-json"]
    for name in names:
        reference = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
        ours, theirs = [], []
        program = [build / "tests" / "thimble-encode", folder / name, file]
        for _ in range(ROUNDS):
            _, count, _, _, _, seconds = subprocess.run([*program, "2"], check=True, capture_output=True, text=True).stdout.split()
            ours.append(float(seconds))  # of the second round: the first meets the words for the first time, as theirs did in its own
            begin = time.process_time()
            ids = sum(len(e.ids) for e in reference.encode_batch_fast(parts, add_special_tokens=False))  # without offsets, which we do not make either
            theirs.append(time.process_time() - begin)
            assert ids == int(count), (name, ids, count)
        speeds = [len(text) / statistics.median(times) / 1e6 for times in (ours, theirs)]
        print(f"| {name} | {speeds[0]:.1f} | {speeds[1]:.1f} | {speeds[0] / speeds[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
