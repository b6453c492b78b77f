"""Widens a model without changing what it says: rows that are multiples of 256, as K and iq types need them.

The residual stream gets zero channels (576 -> 768): RMSNorm divides by the root of a mean over all channels, so every
norm weight is multiplied by sqrt(d / d') and the norm's epsilon by d / d'. Attention gets zero heads, each group of
query heads kept on its own KV head: whole groups (9 heads on 3 -> 12 on 4), or one more head in each group (14 on 2
-> 16 on 2), whose output the zero columns of attn_output drop. The feed-forward part gets zero neurons. Logits stay
equal to within the rounding of f32 (1e-5); sizes count the padding, for everyone who is measured on such a model.
"""

from typing import NamedTuple

import gguf
import numpy as np

UNIT = 256  # numbers of a super-block


def rounded_up(n: int) -> int:
    return -(-n // UNIT) * UNIT


class Shape(NamedTuple):
    d_model: int
    d_ff: int
    n_kv_heads: int
    group: int  # query heads of a KV head
    head_dim: int


def shape_of(fields: dict) -> Shape:
    """fields: what a GGUF file says of itself, without the architecture's prefix."""
    d_model, n_heads = fields["embedding_length"], fields["attention.head_count"]
    n_kv_heads = fields.get("attention.head_count_kv", n_heads)
    head_dim = fields.get("attention.key_length", d_model // n_heads)
    if fields.get("attention.value_length", head_dim) != head_dim:
        raise ValueError("keys and values of different lengths are not widened")
    return Shape(d_model, fields["feed_forward_length"], n_kv_heads, n_heads // n_kv_heads, head_dim)


def widened(old: Shape) -> Shape:
    """The fewest heads whose numbers are a multiple of 256; of equal ones that which keeps the groups."""
    candidates = [
        (n_kv_heads * group, group, n_kv_heads)
        for n_kv_heads in range(old.n_kv_heads, old.n_kv_heads + UNIT)
        for group in range(old.group, old.group + UNIT)
        if n_kv_heads * group * old.head_dim % UNIT == 0
    ]
    _, group, n_kv_heads = min(candidates)
    return Shape(rounded_up(old.d_model), rounded_up(old.d_ff), n_kv_heads, group, old.head_dim)


def grown(array: np.ndarray, *shape: int) -> np.ndarray:
    """Zeros behind the end of every axis."""
    return np.pad(array, [(0, n - old) for n, old in zip(shape, array.shape, strict=True)])


def query_heads(array: np.ndarray, old: Shape, new: Shape) -> np.ndarray:
    """(heads * head_dim, ...) with zero heads at the end of each group and zero groups behind the last."""
    rest = array.shape[1:]
    grouped = array.reshape(old.n_kv_heads, old.group, old.head_dim, *rest)
    return grown(grouped, new.n_kv_heads, new.group, new.head_dim, *rest).reshape(-1, *rest)


def widen(name: str, array: np.ndarray, old: Shape, new: Shape) -> np.ndarray:
    """The tensor of the wide model that stands for this one, (outputs, inputs) or (numbers), of the same type."""
    role = name.removesuffix(".weight").split(".")[-1]
    if name.endswith(".bias"):
        role = name.removesuffix(".bias").split(".")[-1] + " bias"
    d_kv = new.n_kv_heads * new.head_dim
    match role:
        case "token_embd" | "output":
            return grown(array, array.shape[0], new.d_model)
        case "attn_norm" | "ffn_norm" | "output_norm":
            return grown(array * np.float32(np.sqrt(old.d_model / new.d_model)), new.d_model)
        case "attn_q":
            return grown(query_heads(array, old, new), new.n_kv_heads * new.group * new.head_dim, new.d_model)
        case "attn_k" | "attn_v":
            return grown(array, d_kv, new.d_model)
        case "attn_q bias":
            return query_heads(array, old, new)
        case "attn_k bias" | "attn_v bias":
            return grown(array, d_kv)
        case "attn_q_norm" | "attn_k_norm" | "rope_freqs":  # numbers of one head
            return array
        case "attn_output":
            return grown(query_heads(array.T, old, new).T, new.d_model, new.n_kv_heads * new.group * new.head_dim)
        case "ffn_gate" | "ffn_up":
            return grown(array, new.d_ff, new.d_model)
        case "ffn_down":
            return grown(array, new.d_model, new.d_ff)
    raise ValueError(f"it is not known how to widen the tensor {name}")


def fields_of(reader: gguf.GGUFReader, architecture: str) -> dict:
    prefix = architecture + "."
    return {name.removeprefix(prefix): field.contents() for name, field in reader.fields.items() if name.startswith(prefix)}


def changed_fields(old: Shape, new: Shape, fields: dict) -> dict:
    """What the wide model says of itself where it differs."""
    changed = {
        "embedding_length": new.d_model, "feed_forward_length": new.d_ff,
        "attention.head_count": new.n_kv_heads * new.group, "attention.head_count_kv": new.n_kv_heads,
        "attention.layer_norm_rms_epsilon": fields["attention.layer_norm_rms_epsilon"] * old.d_model / new.d_model,
    }  # fmt: skip
    if new.d_model // (new.n_kv_heads * new.group) != new.head_dim:  # readers would derive another one
        changed |= {"attention.key_length": new.head_dim, "attention.value_length": new.head_dim}
    return changed
