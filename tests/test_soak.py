"""Two minutes of scripts/soak: random load, and nothing about the server goes wrong. How long: SOAK_MINUTES."""

import os
import subprocess

import pytest
from conftest import ROOT
from serving import model_with_tools
from test_scripts import load

SOAK = ROOT / "scripts/soak"
MINUTES = os.environ.get("SOAK_MINUTES", "2")


def test_two_minutes_of_random_load(tmp_path):
    command = [SOAK, "-m", model_with_tools(tmp_path), "--minutes", MINUTES]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60 * float(MINUTES) + 600)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("No fault.\n") and "whole answers" in done.stdout and "answers left in the middle" in done.stdout
    assert "embeddings" in done.stdout


@pytest.fixture(scope="module")
def soak():
    return load("soak")


def chunk(text: str, more: str = "") -> bytes:
    return f'data: {{"choices": [{{"index": 0, "text": "{text}"{more}}}]}}\n\n'.encode()


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'


def test_streams_and_whole_answers_are_compared(soak):
    body = chunk("a") + chunk("b", ', "finish_reason": "stop"') + USAGE + b"data: [DONE]\n\n"
    whole = {"choices": [{"index": 0, "text": "ab", "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}
    path = "/v1/completions"
    assert soak.streamed_answer_of(path, body) == soak.answer_of(path, whole)
    assert soak.streamed_answer_of(path, body.replace(b'"b"', b'"c"')) != soak.answer_of(path, whole)
    for broken in (body[:-14], b"", body.replace(b'"choices": [],', b'"choices": [], "error": {"message": "no"},')):
        with pytest.raises(soak.Wrong):
            soak.streamed_answer_of(path, broken)


def test_answers_that_break_off_are_noticed(soak):
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert soak.parsed(whole).body == b"abc"
    for cut in (whole[:-5], whole[:-8], b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc"):
        with pytest.raises(soak.Wrong):
            soak.parsed(cut)


def judged(soak, memory: list[int]) -> list[str]:
    """The faults of a load with these samples of memory, one a second, in kB."""
    found = object.__new__(soak.Soak)
    found.faults, found.memory = [], list(enumerate(memory))
    found.judge_memory(0, len(memory))
    return found.faults


def test_growth_is_noticed(soak):
    steady = [100_000 + 500 * (i % 3) for i in range(60)]
    assert judged(soak, steady) == []
    assert judged(soak, [50_000, *steady[1:]]) == []  # warming up
    assert "memory grew" in judged(soak, [100_000 + 100 * i for i in range(60)])[0]
    assert "too short" in judged(soak, [1, 2])[0]


def test_counters_that_fall_are_noticed(soak):
    found = object.__new__(soak.Soak)
    found.faults, found.last_metrics = [], {}
    found.compare_counters({'a_total{x="1"}': 5, "gauge{}": 9})
    found.compare_counters({'a_total{x="1"}': 6, "gauge{}": 1})
    assert found.faults == []
    found.compare_counters({'a_total{x="1"}': 5, "gauge{}": 1})
    assert found.faults == ['a_total{x="1"} fell from 6 to 5']
