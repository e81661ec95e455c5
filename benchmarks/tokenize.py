"""Tokenising JSON lines: `thimble data prepare` beside a Python program with Hugging Face's tokenizers (encode_batch, as many threads),
interleaved in one run; megabytes a second, and the peak of resident memory. Both read the file, encode prompts and answers apart, and write
the ids to a file.
  python benchmarks/tokenize.py --model FOLDER_WITH_TOKENIZER --text FOLDER_OF_TEXTS --megabytes 200 --threads 2"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make_rows(path: Path, texts: Path, megabytes: int) -> None:
    """Rows cut at random places out of all texts that are found: prompts of 50 to 500 characters, answers of 100 to 3,000."""
    pieces = [p.read_text(errors="ignore") for p in sorted(texts.rglob("*")) if p.suffix in (".txt", ".md", ".rst", ".py") and p.is_file()]
    whole = "\n".join(pieces)
    draw = random.Random(7)
    with path.open("w") as out:
        written = 0
        while written < megabytes << 20:
            at, question, answer = draw.randrange(len(whole) - 4000), draw.randint(50, 500), draw.randint(100, 3000)
            row = json.dumps({"prompt": whole[at:at + question], "response": whole[at + question:at + question + answer]}, ensure_ascii=False) + "\n"
            written += out.write(row)


def peer(rows: str, model: str, out: str) -> None:
    import numpy
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    with open(rows) as lines, open(out, "wb") as ids:
        block = []
        def flush():
            for encoded in tokenizer.encode_batch_fast(block, add_special_tokens=False):
                ids.write(numpy.asarray(encoded.ids, numpy.int32).tobytes())
            block.clear()
        for line in lines:
            row = json.loads(line)
            block += [row["prompt"], row["response"]]
            if len(block) >= 8192:
                flush()
        flush()


def timed(command: list[str], threads: int) -> tuple[float, int]:
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.monotonic() - begin, usage.ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer.json")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--thimble", default="build/cpu/thimble")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        # In a process of its own: a child's peak of memory begins with what its parent has.
        subprocess.run([sys.executable, __file__, "--rows", str(rows), str(args.text), str(args.megabytes)], check=True)
        ours = [args.thimble, "data", "prepare", f"model_name_or_path={args.model}", f"dataset={rows}", f"tokenized_path={folder}/tokens", "overwrite_cache=true",
                "cutoff_len=4096", f"threads={args.threads}"]
        theirs = [sys.executable, __file__, "--peer", str(rows), args.model, f"{folder}/ids"]
        size = rows.stat().st_size / 1e6
        for i in range(args.rounds):
            (a, memory), (b, peer_memory) = timed(ours, args.threads), timed(theirs, args.threads)
            print(f"{size:.0f} MB, {args.threads} threads: thimble {size / a:.1f} MB/s, {memory / 1024:.0f} MiB; tokenizers {size / b:.1f} MB/s, {peer_memory / 1024:.0f} MiB; "
                  f"ratio {b / a:.2f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--peer":
        peer(*sys.argv[2:])
    elif len(sys.argv) == 5 and sys.argv[1] == "--rows":
        make_rows(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
