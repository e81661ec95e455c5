"""One table of many `thimble bench` runs: bytes of the card planned and measured, seconds predicted and measured.
usage: bench_table.py LOG...   (each run begins with a line `$ thimble bench ...`, as gpu_run.sh writes it)"""
import re
import sys

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE = r"(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB|TiB)\b"


def size_beside(words: str, line: str) -> float | None:
    """The size right before or after one of the words, in GiB."""
    found = re.search(rf"{SIZE} (?:{words})\b", line) or re.search(rf"\b(?:{words}):? {SIZE}", line)
    return float(found[1]) * UNITS[found[2]] / 2**30 if found else None


def read(text: str) -> dict:
    row = {"planned": None, "measured": None, "predicted": None, "seconds": None, "end": ""}
    for line in text.splitlines():
        planned, measured = size_beside("planned", line), size_beside("measured|taken|lost", line)
        if planned and measured:
            row["planned"], row["measured"] = planned, measured
        if step := re.search(r"step of .*?: ([\d.]+) s \(predicted ([\d.]+)", line):
            row["seconds"], row["predicted"] = float(step[1]), float(step[2])
        if line.startswith(("error:", "stopped:", "left out:")):
            row["end"] = line.split(";")[0][:90]
    return row


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.3f}" if a and b else ""


def main() -> None:
    text = "".join(open(path, encoding="utf-8", errors="replace").read() for path in sys.argv[1:])
    print("| `thimble bench` | planned GiB | measured | by planned | predicted s | measured | by predicted | |\n" + "|---" * 8 + "|")
    for run in re.split(r"^\$ thimble bench ", text, flags=re.M)[1:]:
        command, _, rest = run.partition("\n")
        row = read(rest)
        print(f"| `{re.sub(r'[^ ]*/', '', command)}` | {cell(row['planned'], 3)} | {cell(row['measured'], 3)} | {ratio(row['measured'], row['planned'])} "
              f"| {cell(row['predicted'], 4)} | {cell(row['seconds'], 4)} | {ratio(row['seconds'], row['predicted'])} | {row['end']} |")


if __name__ == "__main__":
    main()
