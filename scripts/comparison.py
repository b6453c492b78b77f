"""What scripts/compare measures with: both engines as programs that print JSON, and how much of the machine others took.

A machine's speed drifts between process starts, so only runs made in turns are compared, and each carries the
share of the machine that other processes used while it ran.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOWBIT = ROOT / "build/release/lowbit"
CACHE = Path(os.environ.get("LOWBIT_CACHE", ROOT / "cache"))
KV_RECIPE = {"f16": "f16", "int8": "int8.token"}
KV_PEER = {"f16": "f16", "int8": "q8_0"}


class Row(NamedTuple):
    """One line of the table: prefill of `tokens`, or decode of `tokens` by `batch` sequences, behind `depth` tokens."""

    phase: str
    tokens: int
    depth: int
    batch: int
    kv: str

    def __str__(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        depth = f" at depth {self.depth}, KV {self.kv}" if self.depth else ""
        return f"{self.phase} {self.tokens}{batch}{depth}"


class Setting(NamedTuple):
    """How the peer runs."""

    threads: int
    attention: str  # of -fa: auto (its default), on, off

    def __str__(self) -> str:
        words = [f"{self.threads} thread{'s' * (self.threads > 1)}"]
        return ", ".join(words + ["-fa " + self.attention] * (self.attention != "auto"))


class Measured(NamedTuple):
    speed: dict[Row, float]  # tokens/s
    of_roof: dict[Row, float]
    foreign: float  # share of the machine's CPU time that was not ours


class Failed(Exception):
    pass


def say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


def busy_seconds() -> float:
    """CPU time that the whole machine has spent, from the first line of /proc/stat."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def output(command: list, binary: bool = False) -> tuple[str, float]:
    """Standard output of a command, and the share of the machine that others used while it ran."""
    busy, own, start = busy_seconds(), children_seconds(), time.monotonic()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=not binary)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{str(done.stderr).strip()[-2000:]}")
    foreign = (busy_seconds() - busy) - (children_seconds() - own)
    return done.stdout, max(0.0, foreign) / ((time.monotonic() - start) * os.cpu_count())


def made(name: str, source: Path | None, *command) -> Path:
    """A file of the cache, made by lowbit where it is not there or older than its source."""
    path = CACHE / "compare" / name
    newest = max(LOWBIT.stat().st_mtime, source.stat().st_mtime) if source else 0
    if not path.exists() or path.stat().st_mtime < newest:
        path.parent.mkdir(parents=True, exist_ok=True)
        output([LOWBIT, *command, path])
    return path


def in_scheme(model: Path, scheme: str) -> Path:
    return made(f"{model.stem}-{scheme}.gguf", model, "quantize", "-m", model, scheme, "--no-self-test", "-o")


def of_shape(shape: str, scheme: str) -> Path:
    return made(f"{shape}-{scheme}.gguf", None, "bench", "--shape", shape, "--recipe", f"w={scheme}", "--write")


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def lists_of(rows: list[Row]) -> tuple[str, int]:
    """The prompts, and how many tokens to generate, of rows that one process measures."""
    prompts = ",".join(str(row.tokens) for row in rows if row.phase == "prefill") or "0"
    return prompts, max([row.tokens for row in rows if row.phase == "decode"], default=0)


def run_lowbit(model: Path, rows: list[Row], threads: int, repetitions: int) -> Measured:
    """Rows of one depth, one batch and one kind of KV cache."""
    prompts, n_generate = lists_of(rows)
    _, _, depth, batch, kv = rows[0]
    command = [LOWBIT, "bench", "-m", model, "-p", prompts, "-n", n_generate, "-d", depth, "-b", batch, "-t", threads]
    text, foreign = output([*command, "-r", repetitions, "--recipe", f"kv={KV_RECIPE[kv]}", "--json"])
    found = {(row["phase"], row["tokens"]): row for row in json.loads(text)["rows"]}
    lines = {row: found[row.phase, row.tokens] for row in rows}
    return Measured(
        {row: line["tokens_per_second"] for row, line in lines.items()}, {row: line["of_roof"] for row, line in lines.items()}, foreign
    )


class Peer:
    def __init__(self, folder: Path):
        self.folder = folder

    def run(self, model: Path, rows: list[Row], setting: Setting, repetitions: int) -> Measured:
        if rows[0].batch > 1:
            return self.run_batch(model, rows[0], setting)
        prompts, n_generate = lists_of(rows)
        kv = KV_PEER[rows[0].kv]
        command = [self.folder / "llama-bench", "-m", model, "-p", prompts, "-n", n_generate, "-d", rows[0].depth]
        command += ["-t", setting.threads, "-fa", setting.attention, "-ctk", kv, "-ctv", kv, "-r", repetitions, "-o", "json"]
        text, foreign = output(command)
        found = {
            ("decode", line["n_gen"]) if line["n_gen"] else ("prefill", line["n_prompt"]): statistics.median(line["samples_ts"])
            for line in json.loads(text)
        }
        return Measured({row: found[row.phase, row.tokens] for row in rows}, {}, foreign)

    def run_batch(self, model: Path, row: Row, setting: Setting) -> Measured:
        n_prompt = 16  # it cannot do without
        command = [self.folder / "llama-batched-bench", "-m", model, "-c", row.batch * (n_prompt + row.tokens), "-npp", n_prompt]
        # Its log is lost where the program ends before its log's thread has run: short rows behind the one that counts
        # give that thread time, and a lost line is asked for again.
        command += ["-ntg", ",".join([str(row.tokens), "1", "1", "1"]), "-npl", row.batch]
        command += ["-t", setting.threads, "-fa", setting.attention, "--output-format", "jsonl"]
        for _ in range(20):
            text, foreign = output(command)
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            if lines and lines[0]["tg"] == row.tokens:
                return Measured({row: lines[0]["speed_tg"]}, {}, foreign)
        raise Failed(f"{' '.join(map(str, command))} printed no line of JSON\n{text[-2000:]}")

    def settings(self, row: Row, threads: int) -> list[Setting]:
        """Its own default, flash attention, and one thread for decode; behind a depth no flash attention as well."""
        if row.kv != "f16":  # quantized values ask for it
            found = [Setting(threads, "on")]
        else:
            found = [Setting(threads, "auto"), Setting(threads, "on")] + [Setting(threads, "off")] * (row.depth > 0)
        if row.phase == "decode" and row.batch == 1 and threads > 1:
            found.append(Setting(1, found[0].attention))
        return found

    def best_settings(self, model: Path, rows: list[Row], threads: int) -> dict[Row, Setting]:
        """Each row's fastest setting, by one run of each."""
        asked: dict[Setting, list[Row]] = {}
        for row in rows:
            for setting in self.settings(row, threads):
                asked.setdefault(setting, []).append(row)
        speeds: dict[Row, dict[Setting, float]] = {row: {} for row in rows}
        for setting, group in asked.items():
            for row, speed in self.run(model, group, setting, 1).speed.items():
                speeds[row][setting] = speed
        return {row: max(found, key=found.get) for row, found in speeds.items()}

    def run_best(self, model: Path, best: dict[Row, Setting], repetitions: int) -> Measured:
        """Every row in its own best setting."""
        parts = [
            self.run(model, [row for row in best if best[row] == setting], setting, repetitions)
            for setting in dict.fromkeys(best.values())
        ]
        return Measured({row: speed for part in parts for row, speed in part.speed.items()}, {}, max(part.foreign for part in parts))


def divergences(model: Path, text: Path, peer: Peer, windows: int, folder: Path) -> dict:
    """Mean KL divergence of each engine with its own activations from itself with none quantized, same text and windows.

    Ours: default activations against a=f32. The peer quantizes them whenever weights are, so its reference is the
    F16 file of the same weights.
    """
    report = json.loads(
        output([LOWBIT, "eval", "-m", model, "--reference", model, "--text", text, "--windows", windows, "--recipe", "kv=f32", "--json"])[0]
    )
    f16, base = folder / "f16.gguf", folder / "base.kld"
    perplexity = [peer.folder / "llama-perplexity", "-f", text, "-c", 512, "--chunks", windows, "--kl-divergence-base", base]
    try:
        output([peer.folder / "llama-quantize", "--allow-requantize", model, f16, "F16", os.cpu_count()], binary=True)
        output([*perplexity, "-m", f16], binary=True)
        printed = output([*perplexity, "-m", model, "--kl-divergence"], binary=True)[0].decode("utf-8", "replace")
    finally:
        f16.unlink(missing_ok=True)
        base.unlink(missing_ok=True)
    found = re.search(r"Mean\s+KLD:\s*(-?[0-9.]+)\s*±\s*([0-9.]+)", printed)
    if not found:
        raise Failed(f"llama-perplexity printed no mean KLD\n{printed[-2000:]}")
    return {
        "file": model.name, "activations": report["recipe"], "lowbit": report["kld_mean"], "lowbit_stderr": report["kld_stderr"],
        "peer": float(found[1]), "peer_stderr": float(found[2]),
    }  # fmt: skip


def is_no_worse(found: dict) -> bool:
    """Whether our divergence is not above the peer's by more than two standard errors of the difference."""
    return found["lowbit"] - found["peer"] <= 2 * (found["lowbit_stderr"] ** 2 + found["peer_stderr"] ** 2) ** 0.5
