"""scripts/cold_start.py: every way to start is measured, in both places of the file; the model's folder stays as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("LOWBIT_CACHE", ROOT / "cache"))


def cold_start(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts/cold_start.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.skipif(not (CACHE / "peer/bin/llama-completion").exists(), reason="the peer is not built: scripts/peer")
def test_measures_every_way(model):
    before = sorted(os.listdir(model.parent))
    done = cold_start("-m", model, "--rounds", 1, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["way"] for row in rows if row["file_in"] == "page cache"] == ["lowbit", "lowbit --pack-cache", "llama.cpp"]
    assert {row["file_in"] for row in rows} <= {"page cache", "disk"}
    peer = rows[2]["seconds"]
    for row in rows[:3]:
        assert row["seconds"] > 0 and row["over_peer"] == pytest.approx(row["seconds"] / peer)
    assert sorted(os.listdir(model.parent)) == before


@pytest.mark.parametrize("arguments, word", [(["-m", "no/such.gguf"], "no/such.gguf"), (["--rounds", 0], "at least 1")])
def test_refuses(arguments, word):
    done = cold_start(*arguments)
    assert done.returncode == 2 and word in done.stderr
