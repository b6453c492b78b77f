#!/usr/bin/env python3
"""Makes tests/golden/tokenizer/: tiny trained tokenizers with the ids that Hugging Face tokenizers gives.

Run with the interpreter of scripts/deps test (.venv/bin/python tests/golden/make_tokenizers.py); the unit
tests only read the results, which are committed. Each file holds {tokenizer, cases[{text, ids,
ids_plain, decoded}]}: ids with special tokens recognised, ids_plain as user text (none is), decoded
without special tokens. The texts aim at what pre-tokenizers get wrong: contractions, runs of white space,
digits, scripts without spaces, emoji of several code points, letters that are not in NFC.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent / "tokenizer"
VOCABULARY = 420
SEED = 3

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<|im_end|>x"]

TEXTS = [
    "Hello, world! It's 7 o'clock; we'll see, they'd've gone. I'M HERE, YOU'RE NOT.",
    "  two leading,   three inside,    four, trailing  ",
    "tabs\tand\t\tmore\n\n\nnewlines \n mixed \r\n\r\n ends\n",
    "12 345 6789 0.5 1,000,000 x1y22z333 3.14159 ½ ² ٣٤٥ 一二三",
    "café naïve Straße Ünïcödé cafe\u0301 h\u1ebft he\u0302\u0301t A\u030angstro\u0308m \u1e9b\u0323 ﬁ",
    "東京は日本の首都です。我想在apple工作。한국어 텍스트 ភាសាខ្មែរ हिन्दी עברית العربية",
    "🚀 (normal) 😶\u200d🌫\ufe0f (joined) 👩🏽\u200d💻 ✅ 🦙🦙 🇫🇷",
    "def f(x):\n    if x > 0:\n        return x**2  # comment\n\treturn -1\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>x<|im_end|> x",
    "half <|im_ of a token |im_end|> <|begin_of_text| and <|im_end|><|im_end|>",
    "a thin\u2009space, a wide\u3000space, no\u00a0break, next\u0085line, zero\u200bwidth \u2028 end",
    "the theme of them: then, there, these; antidisestablishmentarianism",
    "!!! ... ?!? --- === ((())) [[a]] {b} $5 +6 <7> ^8 ~9 `x` |y|",
    "wordword word, word. sword word\u0301 Word  word  \n word",
    "    8 spaces:        end, \u00a0\u00a0two",
    "'S 'T 'RE 'ſ 'sabc 'x ' s",
    "\u0300\u0301 marks first, \ud7ff \ue000 \U0010ffff \ufffd \x00\x01\x7f",
    "", " ", "\n", "a", "é", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the" * 40 + " " * 70 + "=" * 90 + "1" * 64,
]


def random_texts(n: int) -> list[str]:
    rng = random.Random(SEED)
    parts = ["a", "Z", "é", "e\u0301", "ß", " ", "  ", "\t", "\n", "\r\n", "1", "42", "٣", "²", "'s", "'LL", "'", ".", "!?", "$",
             "the", " of", "東", "한", "🚀", "\u200d", "\u00a0", "\u3000", "_", "<|im_end|>", "word", "-", "<", "|"]
    return ["".join(rng.choice(parts) for _ in range(rng.randint(1, 40))) for _ in range(n)]


def train(pre, normalizer=None, **model) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    # Not on special tokens: a vocabulary that can spell them by merging lets users make them, and there
    # our tokenizer differs on purpose.
    texts = [text for text in TEXTS + random_texts(400) if "<|" not in text]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def split(regex: str, behavior: str = "isolated", invert: bool = False):
    return pre_tokenizers.Split(Regex(regex), behavior=behavior, invert=invert)


def byte_level(use_regex: bool = True, add_prefix_space: bool = False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def tokenizers() -> dict[str, Tokenizer]:
    sequence = pre_tokenizers.Sequence
    made = {
        "gpt2": train(byte_level()),
        "smollm": train(sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()])),
        "llama3": train(sequence([split(LLAMA3), byte_level(use_regex=False)]), ignore_merges=True),
        "qwen2": train(sequence([split(QWEN2), byte_level(use_regex=False)]), normalizers.NFC()),
        "falcon": train(sequence([pre_tokenizers.Punctuation("contiguous"), byte_level(), pre_tokenizers.Digits(),
                                  split("[0-9][0-9][0-9]")])),
        "prefix_space": train(byte_level(add_prefix_space=True)),
    }
    bos = SPECIAL[0]
    made["llama3"].post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, made["llama3"].token_to_id(bos))])
    # Ordinary words and runs of spaces as added tokens, as in MPT; with every flag, as in RoBERTa's <mask>.
    made["gpt2"].add_tokens([AddedToken("    ", normalized=False), AddedToken("  ", normalized=False)])
    made["qwen2"].add_tokens([AddedToken("\u1ebf", normalized=True), AddedToken("word", single_word=True, normalized=False)])
    made["prefix_space"].add_special_tokens([AddedToken("<|im_end|>", lstrip=True, rstrip=True, normalized=False)])
    made["smollm"].add_tokens([AddedToken("the", lstrip=True, single_word=True), AddedToken("of", rstrip=True)])
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            made[behavior + ("_inverted" if invert else "")] = train(
                sequence([split(r"\s|1|[aeiou]", behavior, invert), byte_level(use_regex=False)]))
    # A literal pattern with characters that mean something to regular expressions.
    made["literal"] = train(sequence([pre_tokenizers.Split("(())", "isolated"), pre_tokenizers.Split(".", "removed"),
                                      byte_level(use_regex=False)]))
    return made


def cases(tokenizer: Tokenizer, n_random: int) -> list[dict]:
    made = []
    for text in TEXTS + random_texts(n_random):
        ids = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = False
        made.append({"text": text, "ids": ids, "ids_plain": plain, "decoded": tokenizer.decode(ids)})
    return made


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, tokenizer in tokenizers().items():
        golden = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases(tokenizer, 40)}
        path = OUT / f"{name}.json"
        path.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{path.name}: {tokenizer.get_vocab_size()} tokens, {len(golden['cases'])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
