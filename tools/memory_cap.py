"""Runs under a memory cap set from outside: each configuration is planned, then trained inside a cgroup of exactly the planned bytes, the program's own row included.
usage: memory_cap.py THIMBLE [COUNT] [--large]   (root; cgroup v1 or v2)   --large: one QLoRA run of a 1.5B shape in a budget of 1.5 GiB instead"""
import json
import os
import pathlib
import random
import resource
import subprocess
import sys
import tempfile


class Cap:
    """A cgroup of so many bytes, without swap where the kernel counts it."""

    def __init__(self, size: int):
        v2 = pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists()
        root = pathlib.Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory")
        self.dir = root / f"thimble-cap-{os.getpid()}"
        self.dir.mkdir(exist_ok=True)
        (self.dir / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(size))
        if v2 and (self.dir / "memory.swap.max").exists():
            (self.dir / "memory.swap.max").write_text("0")

    def run(self, command: list[str], cwd: str) -> tuple[int, int, str]:
        """Exit code, peak resident bytes, output."""
        enter = lambda: (self.dir / "cgroup.procs").write_text(str(os.getpid()))
        with tempfile.TemporaryFile("w+") as out:
            process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, preexec_fn=enter)
            _, status, used = os.wait4(process.pid, 0)
            out.seek(0)
            text = out.read()
        return (os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, text)

    def remove(self) -> None:
        self.dir.rmdir()


def write_shape(folder: str, config: dict) -> None:
    os.makedirs(f"{folder}/shape", exist_ok=True)
    letters = {chr(c): c - ord("a") for c in range(ord("a"), ord("z") + 1)} | {" ": 26, "</s>": 27}
    end = {"id": 27, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    files = {"config.json": config, "tokenizer.json": {"added_tokens": [end], "model": {"type": "BPE", "vocab": letters, "merges": []}}, "tokenizer_config.json": {"eos_token": "</s>"}}
    for name, value in files.items():
        pathlib.Path(f"{folder}/shape/{name}").write_text(json.dumps(value))
    rows = [{"prompt": "say " + "abc" * n, "response": "abc " * n} for n in range(1, 9)]
    pathlib.Path(f"{folder}/rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def shape(layers: int, hidden: int, ffn: int, heads: int, kv: int, head_dim: int, vocab: int, dtype: str) -> dict:
    return {"architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": head_dim, "vocab_size": vocab, "max_position_embeddings": 4096, "torch_dtype": dtype}


def one(thimble: str, config: dict, keys: list[str], steps: int, name: str) -> bool:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        write_shape(folder, config)
        subprocess.run([thimble, "init", "shape", "--out", "model", "--seed", "1"], cwd=folder, check=True, capture_output=True)
        keys = ["model_name_or_path=model", "dataset=rows.jsonl", "device=cpu", "threads=2", *keys]
        planned = subprocess.run([thimble, "plan", "--json", *keys], cwd=folder, capture_output=True, text=True)
        if planned.returncode == 4:
            print(f"{name}: nothing fits, exit code 4", flush=True)
            return True
        total = json.loads(planned.stdout)["total"]
        size = total["device_bytes"] + total["ram_bytes"]
        cap = Cap(size)
        code, peak, text = cap.run([thimble, "train", *keys, "output_dir=out", f"max_steps={steps}"], folder)
        cap.remove()
        mib = 2**20
        print(f"{name}: planned {size / mib:.1f} MiB and capped there, peak resident {peak / mib:.1f} MiB, mapped file {os.path.getsize(folder + '/model/model.safetensors') / mib:.1f} MiB, "
              f"exit code {code}", flush=True)
        if code != 0:
            print(text[-800:])
        return code == 0


def main() -> None:
    thimble, large = os.path.abspath(sys.argv[1]), "--large" in sys.argv
    if large:  # TinyLlama's layers, 32 of them: 1.54e9 parameters
        ok = one(thimble, shape(32, 2048, 5632, 32, 4, 64, 32000, "bfloat16"),
                 ["quantization_bit=4", "optim=adamw_8bit", "cutoff_len=128", "per_device_train_batch_size=1", "vram=640MiB", "ram=896MiB", "save_strategy=no"], 2, "1.5B QLoRA in 1.5 GiB")
        sys.exit(0 if ok else 1)
    draw, good = random.Random(1), 0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    for i in range(count):
        kv, head_dim = draw.choice([1, 2]), draw.choice([8, 16, 32])
        heads = kv * draw.choice([1, 2, 4])
        config = shape(draw.randint(2, 8), draw.choice([64, 100, 256]), draw.choice([128, 344, 700]), heads, kv, head_dim, draw.choice([28, 500, 8000]), "float32")
        method = draw.choice([["finetuning_type=full"], ["finetuning_type=lora"], ["finetuning_type=lora", "quantization_bit=4"]])
        keys = method + [f"optim={draw.choice(['adamw_torch', 'adamw_8bit', 'paged_adamw_8bit'])}", f"cutoff_len={draw.choice([37, 128, 300])}",
                         f"per_device_train_batch_size={draw.choice([1, 2, 3])}", f"gradient_accumulation_steps={draw.choice([1, 2])}", f"vram={draw.choice([2, 6, 16, 64])}MiB", "ram=256MiB",
                         "val_size=2", "eval_strategy=steps", "eval_steps=2", "save_steps=2"]
        good += one(thimble, config, keys, 4, f"{i + 1}")
    print(f"{good} of {count} ended as planned")
    sys.exit(0 if good == count else 1)


if __name__ == "__main__":
    main()
