"""Throughput of lowbit serve beside llama.cpp's llama-server: the same file, prompts, threads and client, in turns.

Both servers stay up and only one of them is asked at a time; an idle server takes no processor time. The client is
lowbit bench --serve, whose definitions are those of vllm bench serve. Before the pairs the peer's settings are tried
once each at every concurrency, and the fastest of them is what it is compared in.
"""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from comparison import LOWBIT, Failed, Setting, busy_seconds, children_seconds, say

TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Shape(NamedTuple):
    """What is asked: requests of one size, so many at a time."""

    concurrency: int
    n_input: int
    n_output: int

    @property
    def n_prompts(self) -> int:
        return max(8, 2 * self.concurrency)

    @property
    def context(self) -> int:
        """Tokens that one request needs, rounded up to what both servers like."""
        return -(-(self.n_input + self.n_output + 16) // 256) * 256


class Served(NamedTuple):
    report: dict  # of lowbit bench --serve --json
    foreign: float  # share of the machine that neither the server nor the client used

    @property
    def speed(self) -> float:
        return self.report["output_throughput"]


class Server:
    """A server process that answers at `url` until the block ends; without one, where it says that it listens."""

    def __init__(self, command: list, url: str | None = None):
        self.command, self.url = list(map(str, command)), url
        self.said: list[str] = []

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()

    def _read(self) -> None:
        """The last lines are kept for when it ends too early."""
        for line in self.process.stderr:
            self.said = [*self.said[-20:], line]
            if not self.url and (found := re.search(r"listening on (http://[^ ]*:\d+)", line)):
                self.url = found[1]

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if self.process.poll() is not None:
                self.reader.join()
                raise Failed(f"{' '.join(self.command)}: ended with {self.process.returncode}\n{''.join(self.said)}")
            try:
                if self.url and urllib.request.urlopen(self.url + "/health", timeout=5).status == 200:
                    return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise Failed(f"{' '.join(self.command)}: not ready after 5 minutes")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def load(self, shape: Shape, seed: int) -> Served:
        command = [LOWBIT, "bench", "--serve", self.url, "--num-prompts", shape.n_prompts, "--max-concurrency", shape.concurrency]
        command += ["--random-input-len", shape.n_input, "--random-output-len", shape.n_output, "--seed", seed, "--json"]
        busy, own, start = busy_seconds(), self.cpu_seconds() + children_seconds(), time.monotonic()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr.strip()[-2000:]}")
        foreign = (busy_seconds() - busy) - (self.cpu_seconds() + children_seconds() - own)
        report = json.loads(done.stdout)
        if report["failed"]:
            raise Failed(f"{report['failed']} requests to {self.command[0]} failed: {done.stderr.strip()[-2000:]}")
        return Served(report, max(0.0, foreign) / ((time.monotonic() - start) * os.cpu_count()))


def ours(model: Path, shape: Shape, threads: int) -> Server:
    command = [LOWBIT, "serve", "-m", model, "--port", 0, *(["-t", threads] if threads else []), "--recipe", "kv=f16", "-c", shape.context]
    return Server([*command, "--max-num-seqs", shape.concurrency, "--kv-tokens", shape.concurrency * shape.context])


def theirs(folder: Path, model: Path, shape: Shape, setting: Setting) -> Server:
    """A slot for every request, each with room for one; continuous batching is its default."""
    port = free_port()
    command = [folder / "llama-server", "-m", model, "--host", "127.0.0.1", "--port", port, "-t", setting.threads, "--no-webui"]
    command += ["-np", shape.concurrency, "-c", shape.concurrency * shape.context, "-fa", setting.attention]
    return Server(command, f"http://127.0.0.1:{port}")


def settings(shape: Shape, threads: int) -> list[Setting]:
    found = [Setting(threads, "on"), Setting(threads, "off")]
    return found + [Setting(1, "on")] * (shape.concurrency == 1 and threads > 1)


def best_setting(folder: Path, model: Path, shape: Shape, threads: int) -> Setting:
    speeds = {}
    for setting in settings(shape, threads):
        with theirs(folder, model, shape, setting) as server:
            speeds[setting] = server.load(shape, seed=0).speed
    return max(speeds, key=speeds.get)


def row_of(shape: Shape, threads: int, setting: Setting, pairs: list[tuple[Served, Served]]) -> dict:
    ratios = [our.speed / their.speed for our, their in pairs]

    def median(which: int, key: str) -> float:
        return statistics.median(pair[which].report[key] for pair in pairs)

    return {
        "concurrency": shape.concurrency, "input": shape.n_input, "output": shape.n_output, "requests": shape.n_prompts,
        "threads": threads, "peer_setting": str(setting), "pairs": len(pairs),
        "lowbit": median(0, "output_throughput"), "peer": median(1, "output_throughput"),
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        "lowbit_ttft_ms": median(0, "median_ttft_ms"), "peer_ttft_ms": median(1, "median_ttft_ms"),
        "lowbit_itl_p99_ms": median(0, "p99_itl_ms"), "peer_itl_p99_ms": median(1, "p99_itl_ms"),
        "foreign_load": max(run.foreign for pair in pairs for run in pair),
    }  # fmt: skip


def measure(folder: Path, model: Path, shapes: list[Shape], threads: int, n_pairs: int) -> list[dict]:
    rows = []
    for shape in shapes:
        setting = best_setting(folder, model, shape, threads)
        pairs = []
        with ours(model, shape, threads) as our_server, theirs(folder, model, shape, setting) as their_server:
            for i in range(n_pairs):
                seed = i + 1  # the same prompts for both, others in the next pair
                if i % 2 == 0:
                    pairs.append((our_server.load(shape, seed), their_server.load(shape, seed)))
                else:
                    pairs.append(tuple(reversed((their_server.load(shape, seed), our_server.load(shape, seed)))))
                our, their = pairs[-1]
                say(f"{shape.concurrency} at once, pair {i + 1} of {n_pairs}: {our.speed:.1f} and {their.speed:.1f} tokens/s")
        rows.append(row_of(shape, threads, setting, pairs))
    return rows


def markdown(rows: list[dict]) -> str:
    lines = [
        "| at once | prompt | answer | threads | lowbit tok/s | llama-server tok/s | its setting | ratio | range of the ratios |"
        " TTFT ms (median) | ITL ms (p99) | other load, at most |",
        "|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['concurrency']} | {row['input']} | {row['output']} | {row['threads']} | {row['lowbit']:.1f} | {row['peer']:.1f} |"
            f" {row['peer_setting']} | {row['ratio']:.2f} | {row['ratio_min']:.2f}-{row['ratio_max']:.2f} |"
            f" {row['lowbit_ttft_ms']:.0f} and {row['peer_ttft_ms']:.0f} | {row['lowbit_itl_p99_ms']:.1f} and {row['peer_itl_p99_ms']:.1f} |"
            f" {row['foreign_load']:.0%} |"
        )
    return "\n".join(lines)
