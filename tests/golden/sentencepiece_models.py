"""Two SentencePiece models, BPE with byte fallback and Unigram with a table of replacements, trained on corpus.txt; both are seeds of the fuzz target too.
`python sentencepiece_models.py` writes sentencepiece_{bpe,unigram}.model, and the ids that transformers' converted tokenizers give."""
import os
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken
from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import SpmConverter

from golden_io import HERE, save_json, versions
from token_goldens import TEXTS


RULES = {"\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "\u00a0": " ", "\u200b": "", "\ufeff": "", "ﬁ": "fi", "①": "1", "²": "2", "½": "1\u20442", "ﷺ": "صلى الله",
         "e\u0301": "é", "a\u0308": "ä", "e\u0301\u0301": "é\u0301", "Ａ": "A", "＃": "#", "\u1112\u1161\u11ab": "한"}


def rules() -> str:
    """A small table in the form in which SentencePiece reads one: code points, a tab, code points. That of NFKC takes 240 KB."""
    path = Path("rules.tsv")
    hexed = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{hexed(a)}\t{hexed(b)}\n" for a, b in RULES.items()))
    return str(path)


def train(kind: str, **more) -> Path:
    sentencepiece.SentencePieceTrainer.train(input="corpus.txt", model_prefix=f"sentencepiece_{kind}", model_type=kind,
                                             num_threads=1, minloglevel=2, **more)
    Path(f"sentencepiece_{kind}.vocab").unlink()
    return HERE / f"sentencepiece_{kind}.model"


def main() -> None:
    os.chdir(HERE)  # a model keeps the names of the files that it was made from
    bpe = train("bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"], control_symbols=["[INST]"], character_coverage=0.995)
    unigram = train("unigram", vocab_size=250, normalization_rule_tsv=rules(), hard_vocab_limit=False, character_coverage=0.99)
    Path("rules.tsv").unlink()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(bpe, Path(folder) / "tokenizer.model")
        references = {"bpe": LlamaTokenizer.from_pretrained(folder)._tokenizer,
                      "unigram": SpmConverter(type("Slow", (), {"vocab_file": str(unigram)})()).converted()}
    references["unigram"].add_special_tokens([AddedToken("<unk>", normalized=False, special=True)])  # as every class of transformers does
    golden = {"versions": versions() | {"sentencepiece": sentencepiece.__version__}}
    for kind, reference in references.items():
        golden[kind] = []
        for text in TEXTS:
            ids = reference.encode(text, add_special_tokens=False).ids
            golden[kind].append({"text": text, "ids": ids, "decoded": reference.decode(ids, skip_special_tokens=False)})
    save_json(HERE / "sentencepiece.json", golden)
    for kind in references:
        print((HERE / f"sentencepiece_{kind}.model").stat().st_size, kind)


if __name__ == "__main__":
    main()
