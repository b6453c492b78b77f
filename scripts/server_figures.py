"""The figures of lowbit serve in docs/results.md with their targets. Used by scripts/figures.

The client is lowbit bench --serve, on the same machine as the server: what it takes counts against the server.
"""

import json
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import comparison
import serving_comparison
from comparison import LOWBIT, ROOT, Failed
from roof_figures import QUICK, Part, Reached, shown

N_STREAMS = 8
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "email": {"type": "string", "pattern": "^[a-z]{2,12}@[a-z]{2,12}\\.(com|org)$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "role": {"enum": ["admin", "user", "guest"]},
    },
    "required": ["name", "email", "age", "role"],
}
# Longer than any answer that is measured.
PEOPLE = {"type": "json_schema", "json_schema": {"name": "people", "schema": {"type": "array", "items": PERSON, "minItems": 1000}}}


class Served(serving_comparison.Server):
    """lowbit serve, and lowbit bench --serve on it."""

    def __init__(self, model: Path, *options):
        super().__init__([LOWBIT, "serve", "-m", model, "--port", 0, *options])

    def client(self, *options) -> list[str]:
        return list(map(str, [LOWBIT, "bench", "--serve", self.url, "--json", *options]))

    def ask(self, *options) -> dict:
        return report_of(subprocess.run(self.client(*options), capture_output=True, text=True))

    def metric(self, name: str) -> float:
        text = urllib.request.urlopen(self.url + "/metrics", timeout=30).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def report_of(done: subprocess.CompletedProcess) -> dict:
    report = json.loads(done.stdout) if done.returncode == 0 else None
    if not report or report["failed"]:
        raise Failed(f"{' '.join(done.args)}: {done.stderr.strip()[-2000:]}")
    return report


def median_of(reports: list[dict]) -> dict:
    return {key: statistics.median(report[key] for report in reports) for key, value in reports[0].items() if isinstance(value, float)}


def load(n_prompts: int, n_input: int, n_output: int, *more) -> list:
    return ["--num-prompts", n_prompts, "--random-input-len", n_input, "--random-output-len", n_output, *more]


def n_pairs() -> int:
    return 1 if QUICK else 5


def span(values: list[float], form: str) -> str:
    return f"{format(min(values), form)}-{format(max(values), form)}"


def prefix(model: Path) -> Part:
    """The first token of a second prompt that shares 1,500 tokens with the one before."""
    n_shared, n_own = 1500, 20
    asked = load(2, n_own, 4, "--random-prefix-len", n_shared, "--max-concurrency", 1, "--save-detailed")
    firsts, seconds = [], []
    with Served(model, "-c", 2048) as server:
        server.ask(*asked, "--seed", 100)  # warms up, and is not counted
        for seed in range(n_pairs()):
            first, second = server.ask(*asked, "--seed", seed)["ttfts"]
            firsts.append(1000 * first)
            seconds.append(1000 * second)
    ratio = statistics.median(second / first for first, second in zip(firsts, seconds))
    what = f"first token behind {n_shared} tokens of prompt that the request before had too, of the time without"
    note = f" ({statistics.median(seconds):.0f} of {statistics.median(firsts):.0f} ms)"
    lines = ["| prompt | first token after ms, median | range |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {statistics.median(values):.0f} | {span(values, '.0f')} |" for name, values in (("new", firsts), ("shared", seconds))
    ]
    commands = [f"`lowbit serve -m {model.name} -c 2048`", f"`lowbit bench --serve URL {shown(list(map(str, asked)))} --json`"]
    return Part(commands, [Reached(what, 0.10, ratio, at_most=True, note=note)], "\n".join(lines))


def overhead(model: Path) -> Part:
    """A step of eight streams, seen by their clients, over a step of eight sequences of lowbit bench, in turns."""
    lines = ["| model | route | gap between tokens ms | step of lowbit bench ms | overhead | range |", "|---|---|---:|---:|---:|---:|"]
    reached, commands = [], []
    for name, file, route, limit in (
        ("llama-1b shape, q4_0", comparison.of_shape("llama-1b", "q4_0"), "completions", 0.05),
        ("default model", model, "chat", 0.10),
    ):
        asked = load(N_STREAMS, 128, 64, "--max-concurrency", N_STREAMS, "--endpoint", route, "--extra-body", '{"temperature": 1}')
        alone = ["bench", "-m", str(file), "-p", "0", "-n", "64", "-d", "128", "-b", str(N_STREAMS), "-r", "1", "--recipe", "kv=f16"]
        gaps, steps = [], []
        with Served(file, "-c", 512, "--max-num-seqs", N_STREAMS, "--recipe", "kv=f16") as server:
            server.ask(*asked, "--seed", 100)

            def gap(seed: int) -> None:
                gaps.append(server.ask(*asked, "--seed", seed)["median_itl_ms"])

            def step() -> None:
                (row,) = json.loads(comparison.output([LOWBIT, *alone, "--json"])[0])["rows"]
                steps.append(1000 * N_STREAMS / row["tokens_per_second"])

            for i in range(n_pairs()):
                for measure in (lambda: gap(i), step)[:: 1 if i % 2 == 0 else -1]:
                    measure()
        over = [gap / step - 1 for gap, step in zip(gaps, steps)]
        what = f"HTTP, template, sampling and client at {N_STREAMS} streams, {name}, of a decode step"
        reached.append(Reached(what, limit, statistics.median(over), at_most=True, note=f" ({span(over, '.0%')})"))
        lines.append(
            f"| {name} | {route} | {statistics.median(gaps):.2f} | {statistics.median(steps):.2f} | {statistics.median(over):.1%} |"
            f" {span(over, '.1%')} |"
        )
        commands += [f"`lowbit bench --serve URL {shown(list(map(str, asked)))}`", f"`lowbit {shown(alone)}`"]
    return Part(commands, reached, "\n".join(lines))


def long_prompt(model: Path) -> Part:
    """What eight streams see of a prompt of 4,096 tokens, with --max-itl at twice their median and without it."""
    n_prompt = 512 if QUICK else 4096
    streams = load(N_STREAMS, 128, 1536, "--max-concurrency", N_STREAMS)
    intruder = load(1, n_prompt, 8)

    def gaps_beside(seed: int, *options) -> dict:
        with Served(model, "-c", 8192, "--kv-tokens", 20480, *options) as server:
            server.ask(*load(N_STREAMS, 128, 32, "--max-concurrency", N_STREAMS, "--seed", 100))
            command = server.client(*streams, "--seed", seed)
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                while server.metric("vllm:num_requests_running") < N_STREAMS:
                    time.sleep(0.05)
                    if process.poll() is not None:
                        raise Failed(f"{' '.join(command)}: {process.stderr.read()}")
                time.sleep(1)
                other = server.ask(*intruder)
                still_there = server.metric("vllm:num_requests_running")
                text, said = process.communicate()
            report = report_of(subprocess.CompletedProcess(command, process.returncode, text, said))
            if still_there < N_STREAMS:
                raise Failed("the streams ended before the prompt was read: they prove nothing")
            return report | {"other_ttft_ms": other["median_ttft_ms"]}

    with Served(model, "-c", 8192, "--kv-tokens", 20480) as server:
        median = server.ask(*streams, "--seed", 1)["median_itl_ms"]
    limit = 2 * median
    seeds = range(1 if QUICK else 3)
    free = gaps_beside(0)
    kept = median_of([gaps_beside(seed, "--max-itl", f"{limit:.1f}") for seed in seeds])
    lines = ["| --max-itl | ITL median ms | ITL p99 ms | first token of the long prompt ms |", "|---|---:|---:|---:|"]
    for name, found in (("none", free), (f"{limit:.1f}", kept)):
        lines.append(f"| {name} | {found['median_itl_ms']:.1f} | {found['p99_itl_ms']:.1f} | {found['other_ttft_ms']:.0f} |")
    what = f"p99 gap between tokens of {N_STREAMS} streams while a prompt of {n_prompt} tokens is read, of --max-itl at twice the median"
    note = f" ({kept['p99_itl_ms']:.1f} of {limit:.1f} ms; {free['p99_itl_ms']:.1f} without)"
    commands = [
        f"`lowbit serve -m {model.name} -c 8192 --kv-tokens 20480 --max-itl {limit:.1f}`",
        f"`lowbit bench --serve URL {shown(list(map(str, streams)))}`, and beside it `lowbit bench --serve URL {shown(list(map(str, intruder)))}`",
    ]
    return Part(commands, [Reached(what, 1.0, kept["p99_itl_ms"] / limit, at_most=True, note=note)], "\n".join(lines))


def masks(model: Path) -> Part:
    """Eight streams with a JSON schema and without, in turns."""
    lines = ["| model | with a schema ms a token | without ms | cost | range |", "|---|---:|---:|---:|---:|"]
    reached = []
    bodies = [json.dumps({"temperature": 1, "response_format": PEOPLE}), json.dumps({"temperature": 1})]
    asked = load(N_STREAMS, 16, 200, "--max-concurrency", N_STREAMS)  # few prompts between the tokens
    for name, file, limit in (("llama-1b shape, q4_0", comparison.of_shape("llama-1b", "q4_0"), 0.05), ("default model", model, None)):
        gaps = [[], []]
        with Served(file, "-c", 512, "--max-num-seqs", N_STREAMS) as server:
            for body in bodies:
                server.ask(*asked, "--seed", 100, "--extra-body", body)
            for i in range(n_pairs()):
                for which in (0, 1) if i % 2 == 0 else (1, 0):
                    gaps[which].append(server.ask(*asked, "--seed", i, "--extra-body", bodies[which])["mean_itl_ms"])
        cost = [with_it / without - 1 for with_it, without in zip(*gaps)]
        found = statistics.median(cost)
        lines.append(f"| {name} | {statistics.median(gaps[0]):.2f} | {statistics.median(gaps[1]):.2f} | {found:.1%} | {span(cost, '.1%')} |")
        if limit:
            what = f"token masks of a JSON schema at {N_STREAMS} streams, {name}, of a decode step"
            reached.append(Reached(what, limit, found, at_most=True, note=f" ({span(cost, '.1%')})"))
    command = f"`lowbit bench --serve URL {shown(list(map(str, asked)))} --extra-body '{{\"temperature\": 1, \"response_format\": ...}}'`"
    return Part([command], reached, "\n".join(lines))


def slow_clients(model: Path) -> Part:
    few = ["--idle", "100", "--slow", "10", "--pairs", "1"] if QUICK else []
    found = json.loads(comparison.output([ROOT / "scripts/slow-clients", "-m", model, *few, "--json"])[0])
    what = f"throughput beside {found['idle']} idle and {found['slow']} slow connections, change"
    note = f" ({found['with']:.1f} and {found['without']:.1f} tokens/s)"
    lines = [
        "| at once | with them tok/s | without | ratio | range | other load, at most |", "|---:|---:|---:|---:|---:|---:|",
        f"| {found['at_once']} | {found['with']:.1f} | {found['without']:.1f} | {found['ratio']:.3f} |"
        f" {found['ratio_min']:.3f}-{found['ratio_max']:.3f} | {found['foreign_load']:.0%} |",
    ]  # fmt: skip
    return Part(
        [f"`scripts/slow-clients -m {model.name}`"], [Reached(what, 0.05, abs(found["ratio"] - 1), at_most=True, note=note)], "\n".join(lines)
    )


def loading(model: Path) -> Part:
    """Gaps between the tokens of a stream while the server loads another model."""
    other = comparison.of_shape("llama-1b", "q4_0")
    stream = load(1, 16, 1900, "-m", "one", "--save-detailed")
    with Served(f"one={model}", "--model", f"two={other},ctx=512", "-c", 2048) as server:
        command = server.client(*stream)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(1)
            begin = time.monotonic()
            server.ask(*load(1, 8, 1, "-m", "two"))
            seconds = time.monotonic() - begin
            if process.poll() is not None:
                raise Failed("the stream ended before the model was loaded: it proves nothing")
            text, said = process.communicate()
        (gaps,) = report_of(subprocess.CompletedProcess(command, process.returncode, text, said))["itls"]
    gaps = sorted(1000 * gap for gap in gaps)
    lines = [
        "| loaded beside it | in s | gap between tokens ms, median | largest | the one before |", "|---|---:|---:|---:|---:|",
        f"| {other.name} | {seconds:.1f} | {statistics.median(gaps):.1f} | {gaps[-1]:.0f} | {gaps[-2]:.0f} |",
    ]  # fmt: skip
    commands = [
        f"`lowbit serve --model one={model.name} --model two={other.name},ctx=512 -c 2048`",
        f"`lowbit bench --serve URL {shown(list(map(str, stream)))}`, and after a second one request to `two`",
    ]
    return Part(commands, [], "\n".join(lines))


PARTS = {"prefix": prefix, "overhead": overhead, "long-prompt": long_prompt, "masks": masks, "slow-clients": slow_clients, "loading": loading}
