"""lowbit eval --tasks: the choices that lm_eval makes, shares and their errors, items that scripts/cloze-tasks cuts."""

import json
import math

import pytest
from conftest import CACHE, GOLDEN, ROOT, lowbit, refused

TASKS = ROOT / "tests/golden/tasks"


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_choices_are_those_of_lm_eval(teacher, tmp_path):
    """tests/golden/make_tasks.py ran lm_eval with transformers on the same model, in f32."""
    items, wanted = lines_of(TASKS / "items.jsonl"), lines_of(TASKS / "lm_eval.jsonl")
    report = lowbit("eval", "-m", teacher, "--recipe", "a=f32,kv=f32", "--tasks", TASKS / "items.jsonl", "--samples", tmp_path / "s.jsonl", "--json").json
    got = lines_of(tmp_path / "s.jsonl")
    assert len(got) == len(wanted) == len(items) >= 100
    n_same = n_same_norm = 0
    for item, ours, theirs in zip(items, got, wanted):
        # Both sum in f32 in their own order; items whose tokens differed would be off by far more.
        assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], abs=2e-3), item
        n_same += ours["chosen"] == max(range(len(item["choices"])), key=theirs["log_likelihood"].__getitem__)
        n_same_norm += (ours["chosen_norm"] == item["answer"]) == bool(theirs["acc_norm"])
    assert n_same >= 0.99 * len(items) and n_same_norm >= 0.99 * len(items)
    assert [task["task"] for task in report["tasks"]] == ["northanger_abbey", "handbook_en", "jargon", "special", "all"]
    everything = report["tasks"][-1]
    share = sum(line["acc"] for line in wanted) / len(wanted)
    assert everything["acc"] == pytest.approx(share, abs=0.01)
    assert everything["acc_stderr"] == pytest.approx(math.sqrt(share * (1 - share) / (len(wanted) - 1)), rel=0.05)


@pytest.fixture
def items(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join((TASKS / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[-8:]), encoding="utf-8")
    return path


def test_a_model_beside_itself_has_not_changed(items):
    report = lowbit("eval", "-m", GOLDEN / "qwen2", "--recipe", "a=f32,kv=f32", "--tasks", items, "--reference", GOLDEN / "qwen2", "--json").json
    assert report["change"] == {"acc": 0, "acc_stderr": 0, "acc_norm": 0, "acc_norm_stderr": 0, "same_choice": 1}
    assert report["tasks"] == report["reference"]
    done = lowbit("eval", "-m", GOLDEN / "qwen2", "--recipe", "w=int2.g64", "--tasks", items, "--reference", GOLDEN / "qwen2")
    assert "8 items" in done.out and "(paired)" in done.out and "same choice" in done.out


def test_bad_items_name_their_line(items, tmp_path):
    good = items.read_text(encoding="utf-8")
    for bad, word in (("{", "JSON"), ('{"context": "a", "choices": ["b", "c"], "answer": 2}', "0 .. 1"), ('{"context": "a"}', "choices")):
        items.write_text(good + bad + "\n", encoding="utf-8")
        refused(lowbit("eval", "-m", GOLDEN / "qwen2", "--tasks", items), "items.jsonl", "line 9", word)
    items.write_text("", encoding="utf-8")
    refused(lowbit("eval", "-m", GOLDEN / "qwen2", "--tasks", items), "no item")
    long = {"context": "word " * 300, "choices": [" a", " b"], "answer": 0}
    items.write_text(good + json.dumps(long) + "\n", encoding="utf-8")
    refused(lowbit("eval", "-m", GOLDEN / "qwen2", "--tasks", items), "line 9", "context of 256")


def test_what_cannot_be_meant(items, short_text):
    refused(lowbit("eval", "-m", GOLDEN / "qwen2"), "--text", "--tasks", code=2)
    refused(lowbit("eval", "-m", GOLDEN / "qwen2", "--tasks", items, "--text", short_text), "--tasks", code=2)
    refused(lowbit("eval", "-m", GOLDEN / "qwen2", "--tasks", items, "--max-kld", 1), "--max-kld", code=2)


def test_cloze_items_are_many_and_the_same_every_time(tmp_path):
    import subprocess

    command = [ROOT / "scripts/cloze-tasks", "--cache", CACHE.resolve()]
    outputs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert outputs[0] == outputs[1]
    found = [json.loads(line) for line in outputs[0].splitlines()]
    assert len(found) >= 1000
    assert {item["task"] for item in found} == {"northanger_abbey", "handbook_en", "jargon"}
    calibration = " ".join((CACHE / "texts/emma.txt").read_text().split() + (CACHE / "texts/mansfield_park.txt").read_text().split())
    for item in found:
        assert len(set(item["choices"])) == 4 and 0 <= item["answer"] < 4
        assert item["context"] not in calibration
    answers = [item["answer"] for item in found]
    assert min(answers.count(i) for i in range(4)) > len(answers) / 5
