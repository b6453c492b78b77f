"""Bad input ends in one sentence that says what, where and what to do; never in a crash or half a file."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BINARY, GOLDEN, lowbit, refused

TINY = GOLDEN / "llama-linear/model.gguf"
RUN = ["--raw", "-p", "a", "-n", 2]


def run_of(path) -> tuple:
    return lowbit("run", "-m", path, *RUN)


@pytest.fixture
def damaged(tmp_path):
    """A copy of the tiny model that change(data) altered in place, or returned anew."""

    def make(change) -> Path:
        data = bytearray(TINY.read_bytes())
        changed = change(data)
        data = data if changed is None else changed
        path = tmp_path / "damaged.gguf"
        path.write_bytes(data)
        return path

    return make


def test_there_is_no_file(tmp_path):
    refused(run_of(tmp_path / "no.gguf"), "no.gguf")


def test_an_empty_folder(tmp_path):
    refused(run_of(tmp_path), str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path):
    path = tmp_path / "secret.gguf"
    shutil.copy(TINY, path)
    path.chmod(0)
    refused(run_of(path), "secret.gguf")


@pytest.mark.parametrize("n_bytes", [0, 3, 20, 100, 5000, 100_000, -1])
def test_a_truncated_file(damaged, n_bytes):
    refused(run_of(damaged(lambda data: data[:n_bytes])), "damaged.gguf")


def test_not_a_model(damaged):
    refused(run_of(damaged(lambda data: b"#!/bin/sh\necho hello\n" * 50)), "damaged.gguf")


def test_an_unknown_version(damaged):
    refused(run_of(damaged(lambda data: data.__setitem__(slice(4, 8), struct.pack("<I", 99)))), "99")


def test_an_absurd_number_of_tensors(damaged):
    refused(run_of(damaged(lambda data: data.__setitem__(slice(8, 16), struct.pack("<Q", 1 << 62)))), "damaged.gguf")


def replaced(old: bytes, new: bytes):
    def change(data):
        assert old in data and len(old) == len(new)
        return data.replace(old, new)

    return change


def test_an_unknown_architecture(damaged):
    refused(run_of(damaged(replaced(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0lamma"))), "lamma")


def test_an_unknown_tokenizer(damaged):
    refused(run_of(damaged(replaced(b"\4\0\0\0\0\0\0\0gpt2", b"\4\0\0\0\0\0\0\0gpt9"))), "gpt9")


def test_an_unknown_pre_tokenizer(damaged):
    refused(run_of(damaged(replaced(b"\6\0\0\0\0\0\0\0smollm", b"\6\0\0\0\0\0\0\0smellm"))), "smellm")


def test_a_missing_tensor(damaged):
    refused(run_of(damaged(replaced(b"blk.1.attn_k.weight", b"blk.9.attn_k.weight"))), "layers.1", "k_proj", "missing")


def test_missing_shard(tmp_path):
    folder = tmp_path / "qwen3"
    shutil.copytree(GOLDEN / "qwen3", folder, ignore=shutil.ignore_patterns("*.gguf"))
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(run_of(folder), "model-00002-of-00003.safetensors")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}, "rwkv"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_bad_config(tmp_path, change, word):
    folder = tmp_path / "qwen2"
    shutil.copytree(GOLDEN / "qwen2", folder, ignore=shutil.ignore_patterns("*.gguf"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    done = run_of(folder)
    refused(done)
    assert word in done.err or "layer" in done.err or "weight" in done.err, done.err


def test_config_that_is_not_json(tmp_path):
    folder = tmp_path / "qwen2"
    shutil.copytree(GOLDEN / "qwen2", folder, ignore=shutil.ignore_patterns("*.gguf"))
    (folder / "config.json").write_text("{" * 100_000)
    refused(run_of(folder), "config.json")


def test_nan_scales(q8_0, tmp_path):
    """A block scale that is NaN is reported with its tensor, not turned into noise."""
    import gguf

    data = bytearray(q8_0.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(q8_0).tensors if t.name == "blk.0.attn_q.weight")
    data[tensor.data_offset : tensor.data_offset + 2] = b"\x00\x7e"
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    refused(run_of(path), "blk.0.attn_q.weight")


def test_an_unknown_scheme(tmp_path):
    refused(lowbit("quantize", "-m", GOLDEN / "qwen2", "int4.g33x", "-o", tmp_path / "x.gguf"), "int4.g33x", code=2)
    assert list(tmp_path.iterdir()) == []


def test_block_256_with_activation_groups_of_32(teacher):
    done = lowbit("run", "-m", GOLDEN / "qwen2", "--recipe", "w=q4_k,a=int8.g32", *RUN)
    assert done.code in (1, 2) and done.err.strip() and done.out == ""


@pytest.mark.parametrize(
    "arguments", [["-n", "-5"], ["-n", "many"], ["--temp", "-1"], ["--top-p", "7"], ["-t", "0"], ["-c", "0"], ["--temp", "nan"]]
)
def test_bad_flags(arguments):
    refused(lowbit("run", "-m", TINY, "--raw", "-p", "a", *arguments), code=2)


def test_an_instruction_set_that_cannot_run():
    """Unknown, not in this build, not in this CPU: one sentence that lists the choice, before anything is loaded."""
    sets = lowbit("kernels", "--json").json["isa"]
    lacking = [isa["name"] for isa in sets if not isa["available"]]
    assert lacking, "no CPU has the sets of x86 and of Arm"
    for name in [*lacking, "avx1024"]:
        for command in (["kernels"], ["run", "-m", TINY, *RUN], ["bench", "-m", TINY]):
            done = lowbit(*command, env={"LOWBIT_ISA": name})
            refused(done, "LOWBIT_ISA", f"'{name}'", "scalar", code=2)
            assert len(done.err.splitlines()) == 1, done.err


def test_a_prompt_longer_than_the_context():
    done = lowbit("run", "-m", GOLDEN / "qwen2/model.gguf", "--raw", "-p", "ab " * 2000, "-n", 2)
    refused(done, "256")


def test_a_prompt_that_is_not_utf8():
    """Bytes are bytes: byte-level BPE takes them or the command says what is wrong; it does not crash."""
    done = lowbit("run", "-m", TINY, "--raw", "-n", 2, stdin=b"\xff\xfe\x80abc\xc3")
    assert done.code in (0, 1), done.err
    assert done.code == 0 or done.err.strip()


def test_an_empty_prompt():
    done = lowbit("run", "-m", TINY, "--raw", "-p", "", "-n", 2)
    assert done.code in (0, 1, 2) and (done.code == 0 or done.err.strip())


def test_full_disk_leaves_nothing(model, tmp_path):
    """A file size limit stands for a full disk: the write fails, the old file stays."""
    path = tmp_path / "x.gguf"
    path.write_text("old")
    command = f'ulimit -f 1000; trap "" XFSZ; exec "{BINARY}" quantize -m "{model}" q8_0 -o "{path}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "x.gguf" in done.stderr
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_output_into_a_missing_folder(tmp_path):
    refused(lowbit("convert", TINY, "-o", tmp_path / "no/such/x.gguf"), "no/such")


def test_text_without_enough_tokens(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("a few words")
    refused(lowbit("eval", "-m", TINY, "--text", text), "short.txt")


QUANTIZE = ["quantize", "-m", GOLDEN / "qwen2"]


@pytest.mark.parametrize(
    "recipe, words",
    [
        ("rtm:int4.g16", ["no method or transform 'rtm'", "did you mean 'rtn'?"]),
        ("hadamar+rtn:int4.g16", ["did you mean 'hadamard'?"]),
        ("Q4_K_", ["'Q4_K_'", "did you mean 'Q4_K_"]),
        ("rtn:q4_k_n", ["did you mean 'Q4_K_"]),
        ("rtn:int4.g16x", ["int4.g16x"]),
        ("mxfp", ["did you mean 'mxfp4'?"]),
        ("rtn+hadamard:int4.g16", ["'hadamard+rtn:...'"]),
        ("rtn+rtn-absmax:int4.g16", ["only one"]),
        ("rtn:", ["recipe \"rtn:\""]),
        ("rtn", ["the scheme is missing"]),
    ],
)
def test_recipes_that_cannot_be(recipe, words, tmp_path):
    refused(lowbit(*QUANTIZE, "--recipe", recipe, "-o", tmp_path / "x.gguf"), *words, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["*=Q4_K_M", "*=hadamard+rtn:int4.g16", "*", "=int4", "*=int4.g16x"])
def test_rules_that_cannot_be(rule, tmp_path):
    refused(lowbit(*QUANTIZE, "int4.g16", "--rule", rule, "-o", f"{tmp_path}/x/"), "rule", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_rule_that_matches_nothing(tmp_path):
    refused(lowbit(*QUANTIZE, "int4.g16", "--rule", "*.w_proj.weight=q8_0", "-o", f"{tmp_path}/x/"), "w_proj", "inspect")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits, word", [(b"\x00\x7e", "NaN"), (b"\x00\x7c", "inf"), (b"\x00\xfc", "inf")])
def test_weights_that_are_not_finite(bits, word, tmp_path):
    """NaN and infinities are named with their tensor and place, whatever the method; nothing is written."""
    import gguf

    source = tmp_path / "source.gguf"
    done = lowbit("quantize", "-m", GOLDEN / "qwen2", "f16", "-o", source, "--no-self-test")
    assert done.code == 0, done.err
    data = bytearray(source.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(source).tensors if t.name == "blk.1.ffn_up.weight")
    row, col = 3, 5
    at = int(tensor.data_offset) + 2 * (row * int(tensor.shape[0]) + col)
    data[at : at + 2] = bits
    source.write_bytes(data)
    for recipe in ("rtn:int4.g16", "rtn-absmax:int8.channel"):
        done = lowbit("quantize", "-m", source, "--recipe", recipe, "-o", f"{tmp_path}/out/")
        refused(done, "layers.1.mlp.up_proj.weight", "row 3, column 5", word)
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("convention", ["lowbit", "compressed-tensors"])
def test_full_disk_leaves_no_folder(convention, tmp_path):
    command = f'ulimit -f 20; trap "" XFSZ; exec "{BINARY}" quantize -m "{GOLDEN}/qwen2" int8.channel --convention {convention} -o "{tmp_path}/x/"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip(), done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["x.gguf", "x/"])
def test_a_killed_quantize_leaves_no_half_output(teacher, output, tmp_path):
    """kill -9 while it writes: neither a half file nor a half folder stands under the name."""
    place = tmp_path / output
    if output == "x.gguf":
        place.write_text("old")
    process = subprocess.Popen(
        [BINARY, "quantize", "-m", teacher, "q8_0", "--no-self-test", "-o", f"{tmp_path}/{output}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.7)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    names = [path.name for path in tmp_path.iterdir()]
    assert names == (["x.gguf"] if output == "x.gguf" else []), names
    assert output != "x.gguf" or place.read_text() == "old"


def test_imatrix_of_a_missing_file(tmp_path):
    refused(lowbit(*QUANTIZE, "q8_0", "--imatrix", tmp_path / "no.dat", "-o", tmp_path / "x.gguf"), "no.dat", code=2)
