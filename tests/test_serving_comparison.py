"""scripts/compare --serve: turns, the peer's best setting, ratios per pair, and servers as processes."""

import json
import subprocess
import sys

import pytest
from conftest import BINARY, GOLDEN, ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import serving_comparison as comparison
from comparison import Failed, Setting

TINY = GOLDEN / "qwen2"


class Played:
    """A server that is as fast as a test says; all of them write into one list who was asked."""

    def __init__(self, name: str, speeds: list[float], asked: list):
        self.name, self.speeds, self.asked = name, speeds, asked

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def load(self, shape, seed):
        self.asked.append((self.name, seed))
        speed = self.speeds.pop(0)
        return comparison.Served({"output_throughput": speed, "median_ttft_ms": 1 / speed, "p99_itl_ms": 2 / speed}, speed / 1000)


def test_pairs_take_turns_and_their_ratios_count(monkeypatch, tmp_path):
    asked = []
    tried = {Setting(2, "on"): [50.0], Setting(2, "off"): [60.0], Setting(1, "on"): [40.0]}
    fast = [80.0, 10.0, 40.0]

    def theirs(folder, model, shape, setting):
        return Played(f"peer {setting}", tried[setting] if tried[setting] else fast, asked)

    monkeypatch.setattr(comparison, "theirs", theirs)
    monkeypatch.setattr(comparison, "ours", lambda *_: Played("lowbit", [160.0, 30.0, 60.0], asked))
    (row,) = comparison.measure(tmp_path, tmp_path, [comparison.Shape(1, 128, 64)], 2, 3)
    assert asked[:3] == [("peer 2 threads, -fa on", 0), ("peer 2 threads, -fa off", 0), ("peer 1 thread, -fa on", 0)]
    peer = "peer 2 threads, -fa off"
    assert asked[3:] == [("lowbit", 1), (peer, 1), (peer, 2), ("lowbit", 2), ("lowbit", 3), (peer, 3)]
    # Pairs: 160/80, 30/10, 60/40. The ratio of the medians would be 60/40.
    assert (row["ratio"], row["ratio_min"], row["ratio_max"]) == (2, 1.5, 3)
    assert (row["lowbit"], row["peer"], row["foreign_load"]) == (60, 40, 0.16)
    assert "| 1 | 128 | 64 | 2 | 60.0 | 40.0 | 2 threads, -fa off | 2.00 | 1.50-3.00 |" in comparison.markdown([row])


def test_one_thread_is_tried_for_one_request_alone():
    assert Setting(1, "on") in comparison.settings(comparison.Shape(1, 8, 8), 2)
    assert Setting(1, "on") not in comparison.settings(comparison.Shape(8, 8, 8), 2)


def test_a_server_is_asked_and_ended(monkeypatch):
    monkeypatch.setattr(comparison, "LOWBIT", BINARY)
    shape = comparison.Shape(2, 16, 4)
    with comparison.ours(TINY, shape, 1) as server:
        served = server.load(shape, seed=1)
        assert served.report["completed"] == shape.n_prompts and served.speed > 0 and 0 <= served.foreign <= 1
        assert served.report["total_input_tokens"] == 16 * shape.n_prompts
        assert server.cpu_seconds() >= 0
    assert server.process.returncode == 0


def test_a_server_that_does_not_start_says_why(tmp_path):
    with pytest.raises(Failed, match=r"ended with 1\n(.|\n)*no\.gguf"):
        with comparison.Server([BINARY, "serve", "-m", tmp_path / "no.gguf", "--port", 0]):
            pass


def test_refused_requests_are_no_result(monkeypatch):
    monkeypatch.setattr(comparison, "LOWBIT", BINARY)
    with comparison.Server([BINARY, "serve", "-m", TINY, "--port", 0]) as server:
        with pytest.raises(Failed, match="no request succeeded"):
            server.load(comparison.Shape(1, 300, 8), seed=1)  # its context is 256


def test_clients_that_do_nothing_are_held_while_others_are_served():
    command = [ROOT / "scripts/slow-clients", "-m", TINY, "--idle", 300, "--slow", 20, "-p", 16, "-n", 8, "--pairs", 2, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["with"] > 0 and found["ratio_min"] <= found["ratio"] <= found["ratio_max"] and found["idle"] == 300
    done = subprocess.run([str(command[0]), "--idle", "100000000"], capture_output=True, text=True)
    assert done.returncode == 2 and "descriptors are needed" in done.stderr
