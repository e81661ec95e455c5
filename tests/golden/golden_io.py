"""What every golden shares: the versions that made it, how it is saved, how a number of ids is drawn.
Safetensors only, because that and JSON are the two formats which the C++ tests read."""
import importlib.metadata
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def metadata(**more) -> dict[str, str]:
    return {"format": "pt", **versions(), **{key: str(value) for key, value in more.items()}}


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], **more) -> None:
    """Writes contiguous f32 (or integer) tensors, with the versions and `more` as `__metadata__`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(plain, path, metadata=metadata(**more))
    path.chmod(0o644)
    print(f"{path.stat().st_size:8d}  {path.relative_to(path.parent.parent)}  {len(plain)} tensors")


def save_json(path: Path, value: dict) -> None:
    """Indented, but a list of numbers on one line; ASCII only, so that no editor or checkout changes a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=True, indent=1)
    text = re.sub(r"\[\n\s*([-\d,\s]+?)\n\s*\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"{path.stat().st_size:8d}  {path.relative_to(path.parent.parent)}")


def int32(values) -> torch.Tensor:
    return torch.as_tensor(values).to(torch.int32)


def scalar(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float32).detach().reshape(1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
