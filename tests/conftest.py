"""What the end-to-end tests share: the binary, the models and one way to call it.

LOWBIT names another binary (scripts/test runs the mutations under AddressSanitizer that way).
"""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
BINARY = Path(os.environ.get("LOWBIT", ROOT / "build/release/lowbit"))
CACHE = Path(os.environ.get("LOWBIT_CACHE", ROOT / "cache"))
GOLDEN = ROOT / "tests/golden/models"
GOLDEN_NAMES = sorted(folder.name for folder in GOLDEN.iterdir())


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output as the one JSON object that it must be."""
        assert self.code == 0, f"exit {self.code}: {self.err}"
        return json.loads(self.out)


def lowbit(*arguments, stdin: str | bytes = b"", timeout: float = 300, env: dict | None = None) -> Done:
    done = subprocess.run(
        [BINARY, *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
    )
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def refused(done: Done, *words: str, code: int = 1) -> None:
    """Bad input ends in one clear sentence: the exit code, a message that holds the words, nothing on stdout."""
    assert done.code == code, f"exit {done.code}\nstdout: {done.out}\nstderr: {done.err}"
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert lines, "no message"
    assert "terminate called" not in done.err and "Sanitizer" not in done.err, done.err
    for word in words:
        assert word in done.err, f"{word!r} is not in: {done.err}"
    assert done.out == "", done.out


@pytest.fixture(scope="session")
def model() -> Path:
    """The default model, SmolLM2-135M-Instruct; scripts/test fetches it before the tests."""
    path = CACHE / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.exists(), f"{path} is missing: run scripts/fetch --model"
    return path


@pytest.fixture(scope="session")
def teacher() -> Path:
    path = CACHE / "models/SmolLM2-135M-Instruct-dithered.gguf"
    assert path.exists(), f"{path} is missing: run scripts/reference-model {CACHE}/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    return path


@pytest.fixture(scope="session")
def short_text(tmp_path_factory) -> Path:
    """About 2000 tokens of Northanger Abbey."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_bytes((CACHE / "texts/northanger_abbey.txt").read_bytes()[:8000])
    return path


@pytest.fixture(scope="session")
def q8_0(tmp_path_factory) -> Path:
    """A tiny golden model that lowbit quantized to q8_0 (rows of 64 and 112: the latter falls back)."""
    path = tmp_path_factory.mktemp("quantized") / "qwen2-q8_0.gguf"
    done = lowbit("quantize", "-m", GOLDEN / "qwen2", "q8_0", "--fallback", "f16", "-o", path, "--json")
    assert done.code == 0, done.err
    return path
