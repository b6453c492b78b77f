"""Token ids against two outside sources: llama.cpp's fixtures and Hugging Face tokenizers.

The fixtures lie in the peer's source package (scripts/fetch --peer-source): vocabulary files without
tensors, texts, and the ids that the models' own tokenizers give. The vocabularies also run, under the
tokenizers package, over whole books and random text.
"""

import json
import random
import resource
from pathlib import Path

import gguf
import pytest
from conftest import CACHE, ROOT, lowbit, refused
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

FIXTURES = CACHE / "peer/src/vendor/llama.cpp/models"
SEPARATOR = "\n__ggml_vocab_test__\n"
BYTE_LEVEL = ["gpt-2", "llama-bpe", "qwen2", "qwen35", "falcon", "starcoder", "refact", "mpt", "deepseek-llm",
              "deepseek-coder", "command-r"]
OTHER_KINDS = ["llama-spm", "phi-3", "gemma-4", "bert-bge"]

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
SEED = 5


def vocabulary(name: str) -> Path:
    path = FIXTURES / f"ggml-vocab-{name}.gguf"
    assert path.exists(), f"{path} is missing: run scripts/fetch --peer-source"
    return path


def tokenize(model: Path, texts: list[str], *flags: str) -> list[dict]:
    done = lowbit("tokenize", "-m", model, "--json", "--null", *flags, stdin="\0".join(texts))
    got = done.json["texts"]
    assert len(got) == len(texts)
    return got


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_fixtures(name):
    path = vocabulary(name)
    texts = Path(f"{path}.inp").read_bytes().decode().split(SEPARATOR)
    lines = Path(f"{path}.out").read_text().split("\n")
    want = [[int(word) for word in line.split()] for line in lines]
    got = tokenize(path, texts, "--no-special")
    assert len(texts) == len(want) > 40
    assert [text["ids"] for text in got] == want
    assert [text["decoded"] for text in got] == texts


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_other_kinds_of_tokenizer_are_refused(name):
    refused(lowbit("tokenize", "-m", vocabulary(name), stdin="x"), "tokenizer.ggml.model")


def hugging_face(name: str) -> Tokenizer:
    """The vocabulary of a fixture, with the pre-tokenizer that its model has there."""
    fields = gguf.GGUFReader(vocabulary(name)).fields
    tokens, kinds, merges = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type", "merges"))
    normal = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds)) if kind == gguf.TokenType.NORMAL}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = Tokenizer(models.BPE(normal, pairs, ignore_merges=name == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name in ("gpt-2", "starcoder"))
    first = {"starcoder": pre_tokenizers.Digits(individual_digits=True),
             "llama-bpe": pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
             "qwen2": pre_tokenizers.Split(Regex(QWEN2), "isolated"),
             "qwen35": pre_tokenizers.Split(Regex(QWEN35), "isolated")}.get(name)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level]) if first else byte_level
    return tokenizer


def book_pages(rng: random.Random) -> list[str]:
    pages = []
    for path in sorted((CACHE / "texts").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        pages += [text[at : at + 20_000] for at in (rng.randrange(len(text)) for _ in range(3))]
    assert len(pages) >= 9, "texts are missing: run scripts/fetch --texts"
    return pages


def random_texts(rng: random.Random, n: int) -> list[str]:
    """Characters of one script at a time, mixed with what pre-tokenizers look for. Only characters that
    were assigned in Unicode 14, which Debian's PCRE2 knows: beyond it the two libraries differ."""
    scripts = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x391, 0x3A1), (0x621, 0x669), (0x905, 0x970),
               (0xE01, 0xE3A), (0x2000, 0x2064), (0x2190, 0x23FF), (0x3041, 0x30FF), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3),
               (0xFE00, 0xFE0F), (0x10400, 0x1044F), (0x1F300, 0x1F6D2), (0x20000, 0x2A6DF)]
    texts = []
    for _ in range(n):
        low, high = rng.choice(scripts)
        texts.append("".join(chr(rng.randint(low, high)) if rng.random() < 0.5 else rng.choice(" \t\n\r'sStTLl019.,!_<-\u00a0\u3000")
                             for _ in range(rng.randint(1, 60))))
    return texts


@pytest.mark.parametrize("name", ["gpt-2", "starcoder", "llama-bpe", "qwen2", "qwen35"])
def test_books_and_random_text(name):
    rng = random.Random(SEED)
    texts = book_pages(rng) + random_texts(rng, 1500)
    theirs = hugging_face(name)
    for text, got in zip(texts, tokenize(vocabulary(name), texts, "--no-special")):
        assert got["ids"] == theirs.encode(text).ids, repr(text)
        assert got["decoded"] == text


@pytest.mark.parametrize("path", sorted((ROOT / "tests/golden/tokenizer").glob("*.json")), ids=lambda path: path.stem)
def test_golden_tokenizers_of_this_version(path, tmp_path):
    """The committed ids again, from the installed package: a golden that aged would show here."""
    golden = json.loads(path.read_text(encoding="utf-8"))
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(golden["tokenizer"]))
    theirs = Tokenizer.from_file(str(file))
    texts = [case["text"] for case in golden["cases"] if "\0" not in case["text"]]
    for text, got in zip(texts, tokenize(file, texts, "--bos")):
        want = theirs.encode(text).ids
        assert got["ids"] == want, repr(text)
        assert got["decoded"] == theirs.decode(want), repr(text)


@pytest.mark.parametrize("name", ["gpt-2", "starcoder", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("unit", [b"a", b" ", b"\n", "é".encode(), b"1", b"aB", b"\xff", b"\xffa"], ids=repr)
def test_a_megabyte_in_one_piece_takes_less_than_a_second(name, unit):
    text = unit * (1_000_000 // len(unit))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)  # CPU time: the machine may be busy
    done = lowbit("tokenize", "-m", vocabulary(name), stdin=text)
    assert done.code == 0, done.err
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0 < seconds < 1, "with loading the vocabulary and printing the ids"


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2", "starcoder"])
def test_books_run_at_more_than_5_mb_per_second(name):
    def seconds(text: bytes) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert lowbit("tokenize", "-m", vocabulary(name), stdin=text).code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    book = (CACHE / "texts/emma.txt").read_bytes() * 6
    assert len(book) / (seconds(book) - seconds(b"x")) > 5e6


def test_special_tokens_only_where_they_are_trusted():
    text = "<|im_start|>user<|im_end|>"
    trusted, = tokenize(vocabulary("qwen2"), [text])
    user, = tokenize(vocabulary("qwen2"), [text], "--no-special")
    assert trusted["ids"] == [151644, 872, 151645] and trusted["decoded"] == "user"
    assert max(user["ids"]) < 151643 and user["decoded"] == text


@pytest.mark.parametrize("content, words", [
    ("not JSON", ["is not JSON"]),
    ("[]", ["tokenizer.json"]),
    ('{"model": {"type": "Unigram"}}', ["Unigram", "not supported"]),
    ('{"model": {"type": "BPE", "vocab": {"a": 99999999}, "merges": []}}', ["99999999"]),
])
def test_bad_tokenizer_files_get_a_sentence(tmp_path, content, words):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    refused(lowbit("tokenize", "-m", path, stdin="x"), *words)


def test_a_missing_tokenizer_gets_a_sentence(tmp_path):
    refused(lowbit("tokenize", "-m", tmp_path, stdin="x"), "tokenizer.json")
