"""Names and files of other tools (docs/other-tools.md): mixes, importance matrices, compressed-tensors."""

import json
import struct
import subprocess

import gguf
import numpy as np
import pytest
from conftest import CACHE, GOLDEN, lowbit, refused
from safetensors import safe_open

MODEL = GOLDEN / "qwen2"
PEER = (CACHE / "peer/bin").resolve()
needs_peer = pytest.mark.skipif(not (PEER / "stamp").exists(), reason="llama.cpp is not built: run scripts/peer")


def kinds(path) -> dict[str, str]:
    return {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors if len(t.shape) > 1}


def decoded(path) -> dict[str, np.ndarray]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


@needs_peer
@pytest.mark.parametrize("mix", ["Q4_K_M", "q3_k_s", "Q4_0", "IQ4_XS", "Q8_0"])
def test_a_mix_gives_the_types_of_llama_quantize(mix, tmp_path):
    theirs = tmp_path / "theirs.gguf"
    subprocess.run([PEER / "llama-quantize", MODEL / "model.gguf", theirs, mix.upper()], check=True, capture_output=True)
    ours = tmp_path / "ours.gguf"
    recipe = ["--recipe", f"rtn:{mix}"] if mix.islower() else [mix]
    done = lowbit("quantize", "-m", MODEL / "model.gguf", *recipe, "-o", ours, "--json")
    assert done.code == 0, done.err
    assert kinds(ours) == kinds(theirs)
    # Rows of 64 and 112 numbers: everything with blocks of 256 falls back, and each is named.
    assert all(fallback["tensor"] in done.err for fallback in done.json["fallbacks"])
    assert (len(done.json["fallbacks"]) > 0) == (mix != "Q8_0" or "f16" in kinds(ours).values())


def test_fallback_llama_alone(tmp_path):
    path = tmp_path / "x.gguf"
    done = lowbit("quantize", "-m", MODEL, "q5_k", "--fallback", "llama", "-o", path, "--no-self-test")
    assert done.code == 0, done.err
    assert kinds(path)["blk.0.attn_q.weight"] == "q5_1" and kinds(path)["blk.0.ffn_down.weight"] == "f16"
    refused(lowbit("quantize", "-m", MODEL, "q5_k", "-o", tmp_path / "y.gguf"), "256")


def test_rules_come_before_a_mix(tmp_path):
    path = tmp_path / "x.gguf"
    rule = "*.v_proj.weight=q5_0"
    done = lowbit("quantize", "-m", MODEL, "Q8_0", "--rule", rule, "-o", path, "--no-self-test")
    assert done.code == 0, done.err
    assert kinds(path)["blk.1.attn_v.weight"] == "q5_0" and kinds(path)["blk.1.attn_q.weight"] == "q8_0"


def write_imatrix(path, columns: dict[str, np.ndarray], n_tokens: int = 1024) -> None:
    """E[x^2] of every matrix in the form that the name asks for."""
    if path.suffix == ".dat":
        data = struct.pack("<i", len(columns))
        for name, mean in columns.items():
            data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 2, len(mean))
            data += (mean * 2).astype("<f4").tobytes()
        path.write_bytes(data)
        return
    writer = gguf.GGUFWriter(path, "unused")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", n_tokens // 512)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, mean in columns.items():
        writer.add_tensor(name + ".in_sum2", (mean * n_tokens).astype(np.float32))
        writer.add_tensor(name + ".counts", np.array([n_tokens], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def golden_columns() -> dict[str, np.ndarray]:
    """A few columns of every matrix count a thousand times as much as the others."""
    columns = {}
    for tensor in gguf.GGUFReader(MODEL / "model.gguf").tensors:
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1:
            columns[tensor.name] = np.where(np.arange(tensor.shape[0]) % 16 == 3, 1000.0, 1.0)
    return columns


def test_an_imatrix_weighs_the_errors(tmp_path):
    columns = golden_columns()
    files = {}
    for form in (".gguf", ".dat"):
        write_imatrix(tmp_path / f"imatrix{form}", columns)
        files[form] = tmp_path / f"weighted{form}.gguf"
        done = lowbit("quantize", "-m", MODEL, "q4_0", "--fallback", "f16", "--imatrix", tmp_path / f"imatrix{form}",
                      "-o", files[form], "--no-self-test")  # fmt: skip
        assert done.code == 0, done.err
    assert files[".gguf"].read_bytes() == files[".dat"].read_bytes()
    plain = tmp_path / "plain.gguf"
    assert lowbit("quantize", "-m", MODEL, "q4_0", "--fallback", "f16", "-o", plain, "--no-self-test").code == 0
    source, with_it, without = decoded(MODEL / "model.gguf"), decoded(files[".gguf"]), decoded(plain)
    for name, mean in columns.items():
        errors = [float((mean * (tensors[name] - source[name]) ** 2).sum()) for tensors in (with_it, without)]
        assert errors[0] < errors[1] or errors == [0, 0], name


def test_an_imatrix_that_does_not_fit(tmp_path):
    columns = golden_columns()
    path, output = tmp_path / "imatrix.gguf", tmp_path / "x.gguf"

    def quantize():
        return lowbit("quantize", "-m", MODEL, "q8_0", "--fallback", "f16", "--imatrix", path, "-o", output, "--no-self-test")

    write_imatrix(path, {"blk.0.other.weight": np.ones(4)})
    refused(quantize(), "imatrix.gguf", "another model", code=2)
    name = "blk.0.attn_q.weight"
    write_imatrix(path, {**columns, name: columns[name][:-1]})
    refused(quantize(), name, "another model", code=2)
    path.write_bytes(b"no matrix")
    refused(quantize(), "imatrix.gguf", "no importance matrix", code=2)
    assert not output.exists()
    del columns[name]
    write_imatrix(path, columns)
    done = quantize()
    assert done.code == 0 and "model.layers.0.self_attn.q_proj.weight" in done.err


def test_a_mix_that_wants_an_imatrix_says_so(tmp_path):
    done = lowbit("quantize", "-m", MODEL, "Q2_K_S", "-o", tmp_path / "x.gguf", "--no-self-test")
    assert done.code == 0 and "llama-quantize refuses" not in done.err  # every row falls back to q4_0 here


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compressed") / "model"
    done = lowbit("quantize", "-m", GOLDEN / "llama-llama3", "int4.g32", "--convention", "compressed-tensors",
                  "-o", f"{folder}/", "--json")  # fmt: skip
    return folder, done.json


def test_a_compressed_tensors_folder(compressed, tmp_path):
    """Unpacked here by the convention's rule, and by lowbit into a GGUF: the same numbers."""
    folder, report = compressed
    assert report["self_test"]["kld_mean"] < 0.2
    config = json.loads((folder / "config.json").read_text())
    quantization = config["quantization_config"]
    assert quantization["quant_method"] == "compressed-tensors" and quantization["format"] == "pack-quantized"
    assert config["torch_dtype"] == "float16" and "lm_head" in quantization["ignore"]
    assert quantization["config_groups"]["group_0"]["weights"]["group_size"] == 32
    same = tmp_path / "same.gguf"
    assert lowbit("convert", folder, "-o", same, "--no-self-test").code == 0
    ours = decoded(same)
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata()["format"] == "pt"
        name = "model.layers.1.mlp.up_proj"
        packed, scale = file.get_tensor(f"{name}.weight_packed"), file.get_tensor(f"{name}.weight_scale")
        rows, cols = file.get_tensor(f"{name}.weight_shape")
        codes = (packed.view("<u4")[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15).reshape(rows, -1)[:, :cols]
        w = (codes.astype(np.float32) - 8).reshape(rows, -1, 32) * scale.astype(np.float32)[:, :, None]
        assert np.array_equal(w.reshape(rows, cols), ours["blk.1.ffn_up.weight"])
        assert file.get_slice("model.embed_tokens.weight").get_dtype() in ("F32", "F16", "BF16")


def test_a_compressed_tensors_folder_runs(compressed):
    done = lowbit("run", "-m", compressed[0], "--raw", "-p", "the", "-n", 4)
    assert done.code == 0, done.err


def test_conventions_that_cannot_be(tmp_path):
    def quantize(scheme, convention, output="x/"):
        return lowbit("quantize", "-m", MODEL, scheme, "--convention", convention, "-o", f"{tmp_path}/{output}")

    refused(quantize("int4.g16", "compressed-tensor"), "compressed-tensor'", "lowbit", code=2)
    refused(quantize("int4.g16", "compressed-tensors,a=int9"), "int9", code=2)
    refused(quantize("int4.g16", "lowbit,a=int8.token"), "only compressed-tensors", code=2)
    refused(quantize("int4.g16", "compressed-tensors", "x.gguf"), "convention of folders")
    refused(quantize("q4_k", "compressed-tensors"), "has no q4_k")
    refused(quantize("int4.g16", "compressed-tensors,a=int8.token"), "int8.channel")
    refused(quantize("int8.channel", "compressed-tensors,a=q8_0"), "int8.token and e4m3.token")
    assert list(tmp_path.iterdir()) == []
