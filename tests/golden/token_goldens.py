"""Two small byte-level BPE tokenizers, with the pre-tokenizers of Llama 3 and of GPT-2, and hard texts for both.
The same texts go through the tokenizer of stories260K (SentencePiece style, byte fallback)."""
import json
import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from golden_io import HERE, save_json, versions

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
# Words in the vocabulary that no merge leads to: a hit where ignore_merges is true, never used where it is false.
UNREACHABLE = ["ĠThimble", "quantise", "ä½łå¥½", "ĠĠĠĠĠĠĠĠ", "ĊĊĊ", "ĠĊĠ"]
CHATML = ["<|im_start|>", "<|im_end|>"]

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "\t", "a", " a", "a ", "Once upon a time there was a small program.",
    "two  three   four    spaces        eight", "trailing spaces   ", "   leading", "tab\tand\t\ttabs \t mixed",
    "line\nline\n\nline\n\n\n\nend\n", "carriage\r\nreturn\r\n\r\nalone\rend\r", " \n  \n   x", "x \n",
    "x  \r\n  y", "don't they're I'VE we'd it'll I'm DON'T THEY'RE 's 'x it'\u017f can''t", "'s't're've'm'll'd",
    "DON'Tx don'tx WE'REady it'Sx it'\u017fx it'S9 he'LLo",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 2024-02-29", "x1y22z333 v2.0.1 0xDEADBEEF 1e-5",
    "½ ² ³⁴ Ⅷ ٣٤٥ १२३४ 四五 ①②③④", "for (int i = 0; i < n; ++i) {\n    sum += x[i] * y[i];\n}\n",
    "def f(x):\n\treturn x**2 # square\n\n\nprint(f(3))",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org", "{\"key\": [1, 2.5, null], \"t\": \"a\\nb\"}",
    "...!!!???---===___***@@@###$$$%%%^^^&&&", "!\n?\r\n.\n\n;x", "你好，世界。今天天气很好，我们去公园。",
    "日本語とEnglishの混ざった文。カタカナ、ひらがな", "안녕하세요 세계. 한국어", "\u1112\u1161\u11ab jamo", "नमस्ते दुनिया। क्षत्रिय",
    "สวัสดีชาวโลก ภาษาไทย", "السلام عليكم يا عالم ١٢٣", "שלום עולם", "Привет, мир. Ёлка ЩИ",
    "Über Straße naïve café señor Øre", "cafe\u0301 n\u0303 a\u0308\u0323 e\u0301\u0301\u0301 \u0301", "🙂",
    "🙂🙂 🙂a 👋🏽", "👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 ☺️ 1️⃣", "emoji👍🏽in👍🏽words", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈𐌰 𒀀𒁀 𠀀𠀁",
    "nbsp\u00a0here\u00a0\u00a0two ideographic\u3000space thin\u2009space",
    "zero\u200bwidth\u200djoin\ufeffbom \u2028ls\u2029ps", "nel\u0085x vt\x0bx ff\x0cx fs\x1cx us\x1fx",
    " \x1c  \x1f\x1c 1\x1c2  \u200b \u200b  \u180e  x", "nul\x00x del\x7fx esc\x1b[0m",
    "\u0378 \ue000 \ufffd \ufffe \U0010ffff", "ʼmodifier ǅ ﬁ ſ K ß İ ı",
    "quantise Thimble 你好，再见 Thimbles quantised Thimble        ", "quantise\n\n\nquantise \n x",
    "the the theThe THE tHe", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    " <|im_start|> <|im_end|> ", "<|im_start|<|im_end|>|>", "<|im_start|><|im_start|>x",
    "a<tool>b</tool> <tool> c", "<|begin_of_text|>x<|end_of_text|>", "<|IM_START|> <|im_start |>",
    "x <|pad|>  \n y<|pad|>z", "a<｜end▁of▁sentence｜>b", "<s>x</s> <unk> </s>", "▁x ▁ ▁▁y", "<0x41> <0x0A>",
]
# Parts of a character: what a decoder shows for bytes which are no text.
BROKEN = [b"\xf0\x9f\x99", b"\x82", b"a\xf0\x9fb", b"\xe4\xbd\xa0\xe5\xa5", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80",
          b"\xf0\x9f\x99\x82\x82", b"\xe2\x82\xe2\x82\xac", b"ok \xc3"]


def corpus() -> list[str]:
    return (HERE / "corpus.txt").read_text(encoding="utf-8").splitlines(keepends=True)


def llama3_split():
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2_split():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def boundary_pairs() -> list[tuple[str, str]]:
    """Last and first letter around each cut that either expression makes in TEXTS.
    As first merges they make a cut which was missed, or made too often, visible in the ids."""
    pairs = {}
    for text in TEXTS:
        for split in (llama3_split(), gpt2_split()):
            pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
            pairs |= {(left[-1], right[0]): None for left, right in zip(pieces, pieces[1:])}
    return list(pairs)


def train_bpe(split, ignore_merges: bool) -> Tokenizer:
    """256 bytes, the boundary pairs, the merges learned from the corpus, and the unreachable words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    letters = sorted(model["vocab"], key=model["vocab"].get)[:256]
    merges = list(dict.fromkeys([*boundary_pairs(), *map(tuple, model["merges"])]))
    words = list(dict.fromkeys([*letters, *(left + right for left, right in merges)]))
    assert not set(UNREACHABLE) & set(words)
    model["vocab"] = {word: number for number, word in enumerate(words + UNREACHABLE)}
    model["merges"] = merges
    model["ignore_merges"] = ignore_merges
    return Tokenizer.from_str(json.dumps(content))


def llama3() -> Tokenizer:
    """Split by Llama 3's expression, whole words first, <|begin_of_text|> in front; <tool> is not special."""
    tokenizer = train_bpe(llama3_split(), ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", *CHATML])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("</tool>", normalized=False)])
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{begin} $A", pair=f"{begin} $A {begin}:1 $B:1",
                                      special_tokens=[(begin, tokenizer.token_to_id(begin))])])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gpt2() -> Tokenizer:
    """GPT-2's own expression, nothing put in front; <|pad|> eats the spaces after it (rstrip)."""
    tokenizer = train_bpe(gpt2_split(), ignore_merges=False)
    tokenizer.add_special_tokens(["<|endoftext|>", *CHATML, AddedToken("<|pad|>", rstrip=True, normalized=False),
                                  "<｜end▁of▁sentence｜>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def legacy_merges(text: str) -> str:
    """Merges as "a b", as files before 2024 have them, instead of ["a", "b"]."""
    content = json.loads(text)
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    return json.dumps(content, ensure_ascii=False)


def text_case(tokenizer: Tokenizer, text: str) -> dict:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    with_special = tokenizer.encode(text, add_special_tokens=True).ids
    return {"text": text, "ids": ids, "ids_with_special": with_special,
            "decoded": tokenizer.decode(with_special, skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(with_special, skip_special_tokens=True)}


def byte_id(tokenizer: Tokenizer, byte: int) -> int:
    fallback = tokenizer.token_to_id(f"<0x{byte:02X}>")
    return tokenizer.token_to_id(byte_letter(byte)) if fallback is None else fallback


def byte_letter(byte: int) -> str:
    """What stands for a byte in a byte-level vocabulary: printable Latin-1 itself, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


def broken_case(tokenizer: Tokenizer, data: bytes) -> dict:
    ids = [byte_id(tokenizer, byte) for byte in data]
    return {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}


def cases(tokenizer: Tokenizer, file: str) -> dict:
    return {"file": file, "vocab_size": tokenizer.get_vocab_size(),
            "cases": [text_case(tokenizer, text) for text in TEXTS],
            "decode_cases": [broken_case(tokenizer, data) for data in BROKEN]}


def make_tokens(out: Path, stories: Path) -> None:
    goldens = {"versions": versions()}
    for name, tokenizer, finish in (("bytelevel_llama3", llama3(), str),
                                    ("bytelevel_gpt2", gpt2(), legacy_merges)):
        path = out / f"{name}.json"
        path.write_text(finish(tokenizer.to_str()) + "\n", encoding="utf-8", newline="\n")
        goldens[name] = cases(Tokenizer.from_file(str(path)), path.name)
    own = Tokenizer.from_file(str(stories / "tokenizer.json"))
    goldens["stories260k"] = cases(own, "stories260K/tokenizer.json")
    save_json(out / "tokens.json", goldens)
