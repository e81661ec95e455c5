"""The same rows in parquet files of every kind that people write, and as JSON lines beside them (pyarrow)."""
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 60


def rows() -> list[dict]:
    """Conversations of 0 to 4 messages, nulls at every level, repeated and unique strings."""
    all_rows = []
    for i in range(ROWS):
        messages = None if i % 13 == 7 else [
            {"role": ("user", "assistant")[m % 2], "content": None if (i + m) % 11 == 5 else f"turn {m} of row {i}: ünïcödé 語 {'x' * (i % 7)}"}
            for m in range(i % 5)]
        all_rows.append({
            "messages": messages,
            "source": f"set {i % 3}",
            "system": None if i % 2 else "be brief",
            "tags": [[["a"], [f"b{i}", None]], [], None][i % 3],
            "score": None if i % 6 == 4 else i / 8,
            "count": i * 1_000_003,
            "good": None if i % 5 == 3 else i % 4 == 0,
        })
    return all_rows


SCHEMA = pa.schema([
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("source", pa.string()),
    ("system", pa.string()),
    ("tags", pa.list_(pa.list_(pa.string()))),
    ("score", pa.float64()),
    ("count", pa.int64()),
    ("good", pa.bool_()),
])


def make_parquet(out: Path) -> None:
    folder = out / "parquet"
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows(), schema=SCHEMA)
    (folder / "rows.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in table.to_pylist()))
    kinds = {
        "snappy": dict(compression="snappy"),                                     # what pandas writes
        "zstd_v2": dict(compression="zstd", data_page_version="2.0"),
        "gzip_plain": dict(compression="gzip", use_dictionary=False),
        "none_groups": dict(compression="none", row_group_size=17, data_page_size=200, write_batch_size=5),
        "flat_lists": dict(compression="snappy", use_compliant_nested_type=False),  # element called "item", as pyarrow wrote before 15
        "delta": dict(compression="none", use_dictionary=False, column_encoding={"count": "DELTA_BINARY_PACKED"}),  # refused
        "lz4": dict(compression="lz4"),                                           # refused
    }
    for name, options in kinds.items():
        pq.write_table(table, folder / f"{name}.parquet", store_schema=False, **options)
    (folder / "versions.txt").write_text(f"pyarrow {pa.__version__}\n")


if __name__ == "__main__":
    make_parquet(Path(__file__).resolve().parent)
