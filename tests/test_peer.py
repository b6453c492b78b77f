"""llama.cpp reads the GGUF files that lowbit writes, to the logits that transformers computed.

Needs the peer (scripts/peer, several minutes to build) and is skipped without it.
"""

import json
import os
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
