"""quantize and convert: what is written, read back by the gguf and safetensors packages."""

import json

import gguf
import numpy as np
import pytest
from conftest import GOLDEN, GOLDEN_NAMES, lowbit, refused
from safetensors import safe_open

FLOATS = ("F32", "F16", "BF16")


def decoded(path) -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def metadata(path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if not name.startswith("GGUF.")}


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_folder_becomes_the_gguf_that_llama_cpp_makes(name, tmp_path):
    """Names, the row order of q and k, rope factors, tied heads: all as llama.cpp's own converter has them."""
    path = tmp_path / "model.gguf"
    done = lowbit("convert", GOLDEN / name, "-o", path)
    assert done.code == 0, done.err
    ours, theirs = decoded(path), decoded(GOLDEN / name / "model.gguf")
    assert set(ours) == set(theirs)
    for tensor in theirs:
        if tensor == "rope_freqs.weight":  # computed, not stored: three operations in f32, in either order
            assert np.allclose(ours[tensor], theirs[tensor], rtol=3 * 2.0**-23, atol=0), tensor
        else:
            assert np.array_equal(ours[tensor], theirs[tensor]), tensor
    ours, theirs = metadata(path), metadata(GOLDEN / name / "model.gguf")
    architecture = theirs["general.architecture"]
    for key, value in theirs.items():
        if key.startswith((f"{architecture}.", "tokenizer.ggml.")) or key == "general.architecture":
            # What a reader takes for granted when it is absent may be left out.
            if key not in ours and key.endswith((".pre", "add_space_prefix", "add_bos_token", "add_eos_token", "add_sep_token", "unknown_token_id", "vocab_size")):
                continue
            if key.endswith(".pre") and {ours[key], value} == {"llama-bpe", "dbrx"}:
                continue  # the same expression; llama-bpe takes whole words from the vocabulary first, which this one does not
            assert ours.get(key) == pytest.approx(value) if isinstance(value, float) else ours.get(key) == value, key


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_convert_keeps_every_bit_on_the_way_back(name, tmp_path):
    folder = tmp_path / "folder"
    again = tmp_path / "again.gguf"
    assert lowbit("convert", GOLDEN / name / "model.gguf", "-o", f"{folder}/").code == 0
    done = lowbit("convert", folder, "-o", again)
    assert done.code == 0, done.err
    before, after = decoded(GOLDEN / name / "model.gguf"), decoded(again)
    assert set(before) == set(after)
    for tensor in before:
        assert np.array_equal(before[tensor], after[tensor]), tensor


def test_quantize_writes_what_it_says(q8_0, tmp_path):
    path = tmp_path / "q8_0.gguf"
    report = lowbit("quantize", "-m", GOLDEN / "qwen2", "q8_0", "--fallback", "f16", "-o", path, "--json").json
    reader = gguf.GGUFReader(path)
    assert report["bytes"] == path.stat().st_size
    assert report["seconds"] >= 0 and report["peak_bytes"] > 0
    assert report["self_test"]["kld_mean"] < 0.01 and report["self_test"]["top1_agreement"] > 0.8
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    # 112 is no multiple of 32: ffn_down falls back, and each fallback is named.
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert [fallback["tensor"] for fallback in report["fallbacks"]] == [f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)]
    assert all(fallback["used"] == "f16" for fallback in report["fallbacks"])
    weights = sum(int(t.n_elements) for t in reader.tensors if len(t.shape) > 1)
    assert 8.5 < report["bits_per_weight"] < 16 and weights > 0
    assert path.read_bytes() == q8_0.read_bytes()  # the same input gives the same file


def test_quantized_weights_are_near(q8_0, tmp_path):
    """absmax: half a step, and 127 times the rounding of the f16 scale; searched: no worse on the whole."""
    path = tmp_path / "absmax.gguf"
    command = ["quantize", "-m", GOLDEN / "qwen2", "--recipe", "rtn-absmax:q8_0", "--fallback", "f16", "-o", path]
    assert lowbit(*command).code == 0
    weights = decoded(GOLDEN / "qwen2/model.gguf")["blk.1.attn_q.weight"].reshape(-1, 32)
    absmax = decoded(path)["blk.1.attn_q.weight"].reshape(-1, 32)
    searched = decoded(q8_0)["blk.1.attn_q.weight"].reshape(-1, 32)
    step = np.abs(weights).max(1, keepdims=True) / 127
    assert np.all(np.abs(weights - absmax) <= step * (0.5 + 127 * 2.0**-11))
    assert np.square(weights - searched).sum() <= np.square(weights - absmax).sum()


def test_what_does_not_fit_is_an_error_without_fallback(tmp_path):
    path = tmp_path / "x.gguf"
    refused(lowbit("quantize", "-m", GOLDEN / "qwen2", "q8_0", "-o", path), "layers.0.mlp.down_proj", "112", "--fallback")
    assert list(tmp_path.iterdir()) == []


def test_rules_choose_by_name(tmp_path):
    path = tmp_path / "mixed.gguf"
    done = lowbit("quantize", "-m", GOLDEN / "qwen2", "q4_0", "--rule", "*v_proj*=q8_0", "--fallback", "f16", "-o", path)
    assert done.code == 0, done.err
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_v.weight"] == "Q8_0" and kinds["blk.0.attn_q.weight"] == "Q4_0"


@pytest.mark.parametrize("scheme", ["int4.g32", "int3.g128", "int8.channel", "e4m3.channel", "nf4.g64", "int5.g16.asym", "mxfp4"])
def test_a_folder_holds_every_scheme(scheme, tmp_path):
    """Our safetensors convention, read by safetensors, and by lowbit to the text that a GGUF of equal weights gives."""
    folder = tmp_path / "out"
    fallback = ["--fallback", "f16"] if scheme == "mxfp4" else []
    done = lowbit("quantize", "-m", GOLDEN / "qwen2", scheme, *fallback, "-o", f"{folder}/")
    assert done.code == 0, done.err
    config = json.loads((folder / "config.json").read_text())
    assert "lowbit" in json.dumps(config) + "".join(p.name for p in folder.iterdir()) + done.out
    assert (folder / "tokenizer.json").exists()
    n_tensors = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            n_tensors += len(list(file.keys()))
    assert n_tensors > 20
    answer = lowbit("run", "-m", folder, "--raw", "-p", "The whole of the", "--temp", 0, "-n", 4, "--json").json
    assert answer["generated_tokens"] >= 1


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("transform", ["hadamard", "hadamard-folded"])
def test_rotations_keep_what_the_model_says(name, transform, tmp_path):
    """Without rounding nothing is lost, at run time or folded, with the head tied or apart."""
    folder = tmp_path / "turned"
    report = lowbit("quantize", "-m", GOLDEN / name, "--recipe", f"{transform}+rtn:f32", "-o", f"{folder}/", "--json").json
    assert report["self_test"]["kld_mean"] < 1e-7 and report["self_test"]["top1_agreement"] > 0.99
    bases = {t["name"]: t.get("basis", "") for t in lowbit("inspect", folder, "--json").json["tensors"]}
    assert bases["model.layers.0.mlp.down_proj.weight"].startswith("hadamard ") == (transform == "hadamard")
    assert bases["model.layers.0.input_layernorm.weight"] == ""
    again = tmp_path / "again"
    assert lowbit("convert", folder, "-o", f"{again}/", "--no-self-test").code == 0
    assert {t["name"]: t.get("basis", "") for t in lowbit("inspect", again, "--json").json["tensors"]} == bases


@pytest.mark.parametrize("options", [["-o", "x.gguf"], ["-o", "x/", "--convention", "compressed-tensors"]])
def test_containers_without_a_place_for_a_basis_refuse_it(options, tmp_path):
    place = str(tmp_path) + "/"
    options = [place + option if option.startswith("x") else option for option in options]
    command = ["quantize", "-m", GOLDEN / "qwen2", *options, "--recipe"]
    refused(lowbit(*command, "hadamard+rtn:int8.channel", "--fallback", "f16"), "no place for the basis of its inputs", "hadamard-folded")
    assert list(tmp_path.iterdir()) == []
    done = lowbit(*command, "hadamard-folded+rtn:" + ("q8_0" if "x.gguf" in options[1] else "int8.channel"), "--fallback", "f16")
    assert done.code == 0, done.err


def test_recipe_requantizes_in_memory_as_quantize_does(tmp_path):
    path = tmp_path / "q4_0.gguf"
    assert lowbit("quantize", "-m", GOLDEN / "llama-llama3", "q4_0", "-o", path).code == 0
    command = ["--raw", "-p", "The whole of the house", "--temp", 0, "-n", 12, "--json"]
    stored = lowbit("run", "-m", path, *command).json["text"]
    in_memory = lowbit("run", "-m", GOLDEN / "llama-llama3", "--recipe", "w=q4_0", *command).json["text"]
    assert stored == in_memory


def test_quality_on_the_dithered_model(teacher, short_text, tmp_path):
    """The targets of docs/results.md that are met, on a short text, with f32 activations."""
    for scheme, most in (("q8_0", 0.003), ("int8.g32", 0.003), ("int8.channel", 0.006)):
        gate = ["--recipe", f"w={scheme},a=f32", "--max-kld", most]
        done = lowbit("eval", "-m", teacher, "--reference", teacher, "--text", short_text, *gate, "--json")
        assert done.code == 0, f"{scheme}: {done.out} {done.err}"
    # An e4m3 head costs more than all layers together: the target holds with the embedding at 8 bits.
    folder = tmp_path / "e4m3"
    rule = ["--rule", "*embed_tokens*=q8_0", "--no-self-test"]
    assert lowbit("quantize", "-m", teacher, "e4m3.channel", *rule, "-o", f"{folder}/").code == 0
    gate = ["--recipe", "a=f32", "--max-kld", 0.03]
    done = lowbit("eval", "-m", folder, "--reference", teacher, "--text", short_text, *gate, "--json")
    assert done.code == 0, f"e4m3.channel: {done.out} {done.err}"
