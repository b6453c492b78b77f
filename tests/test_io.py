"""The lowbit convention of safetensors, read as docs/lowbit-safetensors.md describes it and by nothing of ours."""

import json

import gguf
import numpy as np
import pytest
from conftest import GOLDEN, lowbit
from safetensors import safe_open

PARTS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
TABLES = {
    **{f"int{n}": np.arange(2**n, dtype=np.float32) - 2 ** (n - 1) for n in range(2, 9)},
    **{f"uint{n}": np.arange(2**n, dtype=np.float32) for n in range(2, 9)},
    "e2m1": np.concatenate([E2M1, -E2M1]),
    "iq4_nl": np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32),
    "e8m0": np.append(np.exp2(np.arange(255.0) - 127), np.nan).astype(np.float32),
}


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    *block, part, kind = name.split(".")
    return ".".join((["model.layers", block[1]] if block else []) + [PARTS[part], kind])


def plane(file, structure: dict, name: str, rows: int, cols: int) -> np.ndarray:
    """The numbers of one plane, without the scales of its own."""
    stored = file.get_tensor(name)
    if structure["code"] in ("f32", "f16"):
        assert stored.shape == (rows, cols)
        return stored.astype(np.float32)
    table = TABLES[structure["code"]]
    width = int(np.log2(len(table)))
    assert stored.dtype == np.uint8 and stored.shape == (rows, -(-cols * width // 8))
    bits = np.unpackbits(stored, axis=1, bitorder="little")
    assert not bits[:, cols * width :].any()
    bits = bits[:, : cols * width].reshape(rows, cols, width)
    return table[(bits.astype(int) << np.arange(width)).sum(2)]


def numbers(file, structure: dict, path: str, rows: int, cols: int) -> np.ndarray:
    """scale * (v - zero) or scale * v + zero; path: NAME, NAME.scale, ..."""
    is_scaled = "group" in structure and path.count(".scale") + path.count(".zero") == 0
    values = plane(file, structure, path + ".codes" if is_scaled else path, rows, cols)
    if "group" not in structure:
        return values
    n_rows, n_cols = (extent or whole for extent, whole in zip(structure["group"], (rows, cols)))
    grid = (-(-rows // n_rows), -(-cols // n_cols))

    def spread(of):
        each = numbers(file, structure[of], f"{path}.{of}", *grid)
        return each.repeat(n_rows, 0)[:rows].repeat(n_cols, 1)[:, :cols]

    if "zero" not in structure:
        return spread("scale") * values
    if structure["zero_unit"] == "code":
        return spread("scale") * (values - spread("zero"))
    return spread("scale") * values + spread("zero")


@pytest.mark.parametrize("scheme", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4"])
def test_a_converted_folder_means_what_the_gguf_means(scheme, tmp_path):
    path, folder = tmp_path / "model.gguf", tmp_path / "folder"
    done = lowbit("quantize", "-m", GOLDEN / "qwen2", scheme, "--fallback", "f16", "-o", path)
    assert done.code == 0, done.err
    done = lowbit("convert", path, "-o", f"{folder}/")
    assert done.code == 0, done.err
    described = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert described["quant_method"] == "lowbit" and described["version"] == 1
    n_quantized = 0
    with safe_open(folder / "model.safetensors", "np") as file:
        assert json.loads(file.metadata()["lowbit"]) == described
        for tensor in gguf.GGUFReader(path).tensors:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            name = hugging_face_name(tensor.name)
            if name in described["tensors"]:
                entry = described["tensors"][name]
                assert tuple(entry["shape"]) == expected.shape
                got = numbers(file, described["schemes"][entry["scheme"]], name, *expected.shape)
                n_quantized += 1
            else:
                got = file.get_tensor(name).astype(np.float32)
            assert np.array_equal(got, expected), name
    assert n_quantized > 8
