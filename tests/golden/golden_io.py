"""What every golden shares: the versions that made it, and how it is saved, byte for byte the same when made again.
Safetensors and JSON only, because those are the formats which the C++ tests read."""
import importlib.metadata
import json
import re
import struct
from pathlib import Path

import torch
from safetensors.torch import save

HERE = Path(__file__).resolve().parent
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Of the libraries which this Python has: make_gpu.py runs where transformers and PEFT may be missing."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def with_sorted_metadata(data: bytes) -> bytes:
    """The safetensors library writes `__metadata__` in a random order; tensors keep their places."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length:]


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], **more) -> None:
    """Writes the tensors, with the versions and `more` (seeds, conventions) as `__metadata__`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    about = {"format": "pt", **versions(), **{key: str(value) for key, value in more.items()}}
    path.write_bytes(with_sorted_metadata(save(plain, metadata=about)))
    print(f"{path.stat().st_size:8d}  {path.parent.name}/{path.name}  {len(plain)} tensors")


def save_json(path: Path, value: dict) -> None:
    """Indented, but a list of numbers on one line; ASCII only, so that no editor or checkout changes a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=True, indent=1)
    text = re.sub(r"\[\n\s*([-\d,\s]+?)\n\s*\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"{path.stat().st_size:8d}  {path.parent.name}/{path.name}")


def int32(values) -> torch.Tensor:
    return torch.as_tensor(values).to(torch.int32)


def scalar(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach().reshape(1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
