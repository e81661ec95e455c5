"""Tokenising JSON lines: `thimble data prepare` beside a Python program with Hugging Face's tokenizers (encode_batch, as many threads),
interleaved in one run; megabytes a second by the clock and of processor time, and the peak of resident memory. Both read the file, encode prompts
and answers apart, and write the ids to a file. The peer may take another part of the rows in each round, where all of them would take too long.
  python benchmarks/tokenize.py --model FOLDER_WITH_TOKENIZER --text FOLDER_OF_TEXTS --megabytes 1000 --peer-megabytes 100 --threads 2"""
import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def texts_of(folders: list[str]) -> bytes:
    """All texts that are found, each once though it may lie in several places, in a seeded order."""
    kinds, seen, pieces = (".txt", ".md", ".rst", ".py", ".h", ".html"), set(), []
    for path in sorted(p for folder in folders for p in Path(folder).rglob("*") if p.suffix in kinds and p.is_file() and not p.is_symlink()):
        piece = path.read_bytes()
        digest = hashlib.blake2b(piece, digest_size=16).digest()
        if digest not in seen and len(piece) < 1 << 20:
            seen.add(digest)
            pieces.append(piece)
    random.Random(11).shuffle(pieces)
    return b"\n".join(pieces)


def make_rows(path: str, megabytes: str, *folders: str) -> None:
    """Rows cut at random places of the texts: prompts of 50 to 500 bytes, answers of 100 to 3,000."""
    whole = texts_of(list(folders))
    print(f"texts: {len(whole) / 1e6:.0f} MB", flush=True)
    draw = random.Random(7)
    with open(path, "wb") as out:
        written = 0
        while written < int(megabytes) * 10**6:
            at, question, answer = draw.randrange(len(whole) - 4000), draw.randint(50, 500), draw.randint(100, 3000)
            text = lambda begin, count: whole[begin:begin + count].decode(errors="ignore")
            row = json.dumps({"prompt": text(at, question), "response": text(at + question, answer)}, ensure_ascii=False) + "\n"
            written += out.write(row.encode())


def peer(rows: str, model: str, out: str, begin: str, count: str) -> None:
    """Encodes the rows that begin in [begin, begin + count) of the file."""
    import numpy
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    with open(rows, "rb") as lines, open(out, "wb") as ids:
        block = []
        def flush():
            for encoded in tokenizer.encode_batch_fast(block, add_special_tokens=False):
                ids.write(numpy.asarray(encoded.ids, numpy.int32).tobytes())
            block.clear()
        if int(begin):
            lines.seek(int(begin) - 1)
            lines.readline()
        while lines.tell() < int(begin) + int(count) and (line := lines.readline()):
            row = json.loads(line)
            block += [row["prompt"], row["response"]]
            if len(block) >= 8192:
                flush()
        flush()


def timed(command: list[str], threads: int) -> tuple[float, float, float]:
    """Seconds by the clock, seconds of processor time, peak MiB."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    begin = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder with tokenizer.json")
    parser.add_argument("--text", action="append", required=True, help="a folder of texts; may be said several times")
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--peer-megabytes", type=int, help="of these rows, the peer's in each round; all if not said")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--thimble", default="build/cpu/thimble")
    parser.add_argument("--rows", type=Path, help="where the rows are kept for another run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = args.rows or Path(folder) / "rows.jsonl"
        # In a process of its own: a child's peak of memory begins with what its parent has.
        if not rows.exists():
            subprocess.run([sys.executable, __file__, "--make-rows", str(rows), str(args.megabytes), *args.text], check=True)
        ours = [args.thimble, "data", "prepare", f"model_name_or_path={args.model}", f"dataset={rows}", f"tokenized_path={folder}/tokens", "overwrite_cache=true",
                "cutoff_len=4096", f"threads={args.threads}"]
        size = rows.stat().st_size
        part = min(size, args.peer_megabytes * 10**6) if args.peer_megabytes else size
        for i in range(args.rounds):
            clock, processor, memory = timed(ours, args.threads)
            begin = i * part if (i + 1) * part <= size else 0
            theirs = [sys.executable, __file__, "--peer", str(rows), args.model, f"{folder}/ids", str(begin), str(part)]
            peer_clock, peer_processor, peer_memory = timed(theirs, args.threads)
            a, b, c, d = size / 1e6 / clock, size / 1e6 / processor, part / 1e6 / peer_clock, part / 1e6 / peer_processor
            print(f"{args.threads} threads: thimble {size / 1e6:.0f} MB in {clock:.1f} s: {a:.1f} MB/s, {b:.2f} of processor time, {memory:.0f} MiB; tokenizers {part / 1e6:.0f} MB "
                  f"in {peer_clock:.1f} s: {c:.1f} MB/s, {d:.2f} of processor time, {peer_memory:.0f} MiB; ratios {a / c:.1f}, {b / d:.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:])
    elif sys.argv[1:2] == ["--make-rows"]:
        make_rows(*sys.argv[2:])
    else:
        main()
