"""llama.cpp reads the GGUF files that lowbit writes, to the logits that transformers computed.

Needs the peer (scripts/peer, several minutes to build) and is skipped without it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CACHE, GOLDEN, GOLDEN_NAMES, lowbit

PEER = (CACHE / "peer").resolve()
pytestmark = pytest.mark.skipif(not (PEER / "bin/stamp").exists(), reason="llama.cpp is not built: run scripts/peer")

# llama.cpp rounds activations to the weights' type before multiplying: f16 has 11 bits, bf16 8.
CLOSE = {"f32": 2e-3, "f16": 2e-3, "bf16": 1e-2}


@pytest.fixture(scope="module")
def llama_cpp():
    os.environ["LLAMA_CPP_LIB_PATH"] = str(PEER / "bin")
    sys.path.insert(0, str(PEER / "src"))
    return pytest.importorskip("llama_cpp", reason="its Python modules are missing: run scripts/deps peer")


def peer_logits(llama_cpp, path: Path, tokens: list[int]) -> np.ndarray:
    model = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, n_threads=1, verbose=False)
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)], dtype=np.float32)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_logits_of_a_converted_folder(llama_cpp, name, tmp_path):
    path = tmp_path / "model.gguf"
    done = lowbit("convert", GOLDEN / name, "-o", path)
    assert done.code == 0, done.err
    golden = json.loads((GOLDEN / name / "golden.json").read_text())
    want = np.fromfile(GOLDEN / name / "logits.f32", "<f4").reshape(golden["logits"]["shape"])
    got = peer_logits(llama_cpp, path, golden["tokens"])
    kind = lowbit("inspect", path, "--json").json["tensors"]
    kind = next(t["scheme"] for t in kind if t["name"] == "blk.0.attn_q.weight")
    assert np.abs(got - want).max() < CLOSE[kind] * golden["logits"]["range"]


@pytest.mark.parametrize("scheme", ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4"])
def test_quantized_files_load_there(llama_cpp, scheme, tmp_path):
    """The peer's logits move from the source's as ours do: the bytes mean the same to both."""
    path = tmp_path / "model.gguf"
    assert lowbit("quantize", "-m", GOLDEN / "llama-llama3", scheme, "-o", path).code == 0
    golden = json.loads((GOLDEN / "llama-llama3/golden.json").read_text())
    want = np.fromfile(GOLDEN / "llama-llama3/logits.f32", "<f4").reshape(golden["logits"]["shape"])
    got = peer_logits(llama_cpp, path, golden["tokens"])
    error = np.sqrt(np.mean((got - want) ** 2)) / want.std()
    assert 0 < error < (0.1 if scheme == "q8_0" else 0.6), error


def imatrix_of(path: Path) -> dict[str, tuple[np.ndarray, float]]:
    """Sums of squares and counts of an importance matrix in its GGUF form, by matrix."""
    import gguf

    tensors = {t.name: np.array(t.data, dtype=np.float64).ravel() for t in gguf.GGUFReader(path).tensors}
    names = {name.removesuffix(".counts") for name in tensors if name.endswith(".counts")}
    return {name: (tensors[f"{name}.in_sum2"], float(tensors[f"{name}.counts"][0])) for name in names}


@pytest.mark.skipif(not (PEER / "bin/llama-imatrix").exists(), reason="llama-imatrix is not built: run scripts/peer")
@pytest.mark.parametrize("name", ["qwen2", "llama-llama3"])
def test_calibrate_makes_the_imatrix_of_llama_imatrix(name, tmp_path):
    """The same text gives the same sums, and llama-quantize takes ours in both forms.

    llama.cpp rounds inputs to f16 (2^-11) or bf16 (2^-8) before each product and lowbit does not, so what follows
    in the model differs by as much.
    """
    model, text = GOLDEN / name / "model.gguf", tmp_path / "text.txt"
    text.write_text("No one who had ever seen Catherine Morland in her infancy would have supposed. " * 60)
    theirs, ours, legacy = tmp_path / "theirs.gguf", tmp_path / "ours.gguf", tmp_path / "ours.dat"
    command = [PEER / "bin/llama-imatrix", "-m", model, "-f", text, "-o", theirs, "-c", "64", "-b", "64", "--no-ppl", "-t", "1"]
    subprocess.run(command, check=True, capture_output=True)
    for path in (ours, legacy):
        done = lowbit("calibrate", "-m", model, "--calibration", text, "--chunk-size", 64, "-o", path)
        assert done.code == 0, done.err
    want, got = imatrix_of(theirs), imatrix_of(ours)
    assert want and set(want) <= set(got)  # ours knows the head's inputs too
    for matrix, (sums, count) in want.items():
        assert got[matrix][1] == count, matrix
        assert np.allclose(got[matrix][0], sums, rtol=2.0**-6, atol=2.0**-6 * sums.mean()), matrix
    for path in (ours, legacy, theirs):
        command = [PEER / "bin/llama-quantize", "--imatrix", path, model, tmp_path / "q.gguf", "Q4_0"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "importance matrix entries" in done.stdout + done.stderr, done.stderr
        read = lowbit("quantize", "-m", model, "Q4_0", "--imatrix", path, "-o", tmp_path / "q.gguf", "--no-self-test")
        assert read.code == 0, read.err
