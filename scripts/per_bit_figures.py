"""The figures of "Quality per bit": methods on one scheme, and task accuracy at 8, 4, 3 and 2 bits. Used by scripts/figures.

Everything is kept in cache/figures while it is measured, so that a run that was broken off goes on where it stopped.
"""

import json
import math
import shutil
import subprocess
from pathlib import Path

import quality
from comparison import CACHE, LOWBIT, ROOT, Failed, output, say

FOLDER = CACHE / "figures"
METHODS = ROOT / "scripts/recipes/methods.txt"
# (this, must diverge less than that), of the recipes in METHODS
ORDER = [
    (f"{better}:{scheme}", f"{worse}:{scheme}")
    for scheme in ("int4.g128", "int3.g64")
    for better, worse in (("rtn", "rtn-absmax"), ("awq", "rtn"), ("gptq", "rtn"))
] + [("gptq:mxfp4", "rtn:mxfp4"), ("hadamard+gptq:mxfp4", "rtn:mxfp4"), ("rtn:nvfp4", "rtn-absmax:nvfp4")]
# What the literature says is retained: "<0.5 %" of accuracy lost at INT8, "0.5-1 %" at INT4.
TASKS = [
    ("W8A16", "rtn:int8.channel"), ("W4A16 g128", "gptq:int4.g128"), ("W4A16 g128, plain", "rtn-absmax:int4.g128"),
    ("W4A16 g128, rotated", "hadamard+gptq:int4.g128"), ("W3A16 g128", "gptq:int3.g128"),
    ("W3A16 g128, rotated", "hadamard+gptq:int3.g128"), ("W2A16 g64", "gptq:int2.g64"),
]  # fmt: skip


def methods(teacher: Path, text: Path, calibration: Path) -> str:
    """The sweep's table, and which of the orders hold."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    prefix = FOLDER / f"methods-{teacher.stem}"
    command = [LOWBIT, "eval", "-m", teacher, "--text", quality.evaluation_text(text), "--windows", 16]
    command += ["--calibration", calibration, "--calibration-windows", quality.CALIBRATION_WINDOWS]
    done = subprocess.run(list(map(str, [*command, "--sweep", METHODS, "-o", prefix, "--json"])), stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise Failed(f"the sweep of {METHODS.name} failed")
    found = {point["recipe"]: point for point in json.loads(done.stdout)["points"]}
    lines = [
        f"`lowbit eval -m {teacher.name} --text TEXT --windows 16 --calibration calibration.txt --calibration-windows {quality.CALIBRATION_WINDOWS} --sweep scripts/recipes/{METHODS.name}`\n",
        prefix.with_name(prefix.name + ".md").read_text(), "| diverges less | KL divergence | than | KL divergence | |", "|---|---:|---|---:|---|",
    ]  # fmt: skip
    for better, worse in ORDER:
        a, b = found.get(better), found.get(worse)
        if a is None or b is None:
            lines.append(f"| {better} | | {worse} | | not measured |")
            continue
        mark = "met" if a["kld_mean"] < b["kld_mean"] else "**missed**"
        lines.append(f"| {better} | {a['kld_mean']:.5f} | {worse} | {b['kld_mean']:.5f} | {mark} |")
    return "\n".join(lines)


def answers(model: Path, items: Path, samples: Path) -> list[dict]:
    """What a model chose of every item; kept."""
    if not samples.exists():
        temporary = samples.with_name(f"new-{samples.name}")
        output([LOWBIT, "eval", "-m", model, "--recipe", "a=f32,kv=f32", "--tasks", items, "--samples", temporary, "--json"])
        temporary.rename(samples)
    return [json.loads(line) for line in samples.read_text().splitlines()]


def share(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def tasks(teacher: Path, calibration: Path) -> str:
    folder = FOLDER / f"tasks-{teacher.stem}"
    folder.mkdir(parents=True, exist_ok=True)
    items = folder / "items.jsonl"
    output([ROOT / "scripts/cloze-tasks", "--cache", CACHE, "-o", items])
    base = answers(teacher, items, folder / "teacher.jsonl")
    n = len(base)
    right = [a["chosen"] == a["answer"] for a in base]
    mean, error = share([float(r) for r in right])
    lines = [
        f"`scripts/cloze-tasks -o items.jsonl` ({n} items), then for each recipe `lowbit quantize -m {teacher.name} --recipe RECIPE --calibration"
        f" calibration.txt --calibration-windows {quality.CALIBRATION_WINDOWS} -o X/` and `lowbit eval -m X --recipe a=f32,kv=f32 --tasks items.jsonl`; the change is paired, item by item\n",
        "| weights | recipe | acc | change in points | retained |", "|---|---|---:|---:|---:|",
        f"| source | f16 | {mean:.2%} ± {error:.2%} | | |",
    ]  # fmt: skip
    for name, recipe in TASKS:
        samples = folder / f"{recipe.replace(':', '-')}.jsonl"
        made = folder / f"{recipe.replace(':', '-')}/"
        if not samples.exists() and not made.exists():
            say(f"quantizing {recipe}")
            learned = ["--calibration", calibration, "--calibration-windows", quality.CALIBRATION_WINDOWS]
            output([LOWBIT, "quantize", "-m", teacher, "--recipe", recipe, *learned, "--no-self-test", "-o", f"{made}/"])
        found = answers(made, items, samples)
        shutil.rmtree(made, ignore_errors=True)
        got = [a["chosen"] == a["answer"] for a in found]
        acc, acc_error = share([float(g) for g in got])
        change, change_error = share([float(g) - float(r) for g, r in zip(got, right)])
        lines.append(
            f"| {name} | {recipe} | {acc:.2%} ± {acc_error:.2%} | {100 * change:+.2f} ± {100 * change_error:.2f} |"
            f" {acc / mean:.1%} ± {change_error / mean:.1%} |"
        )
        say(lines[-1])
    return "\n".join(lines)
