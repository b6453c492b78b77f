"""The speed figures of docs/results.md with their targets: kernels and models as shares of the roof, ratios to llama.cpp.

Each part measures one group with commands anybody can run. A ratio that does not count (scripts/compare says why) and a
measurement that other processes disturbed are marked.
"""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import cold_start
from comparison import CACHE, LOWBIT, ROOT, Failed

FOLDER = CACHE / "figures"
QUICK: list[str] = []  # for scripts/compare: ["--quick"] makes one pair of each, with small numbers
GEMM, GEMV = "512x2048x8192", "1x8192x4096"
ABOVE_ANY_ROOF = 1.1  # who reaches more had a quieter moment than the probe beside it
FOREIGN_LIMIT = 0.05  # as in scripts/compare


class Reached(NamedTuple):
    what: str
    target: float
    value: float | None
    unit: str = "%"  # of a roof or another speed, or x: a ratio
    at_most: bool = False
    note: str = ""

    def line(self) -> str:
        def text(number: float) -> str:
            if self.unit != "%":
                return f"{number:.2f} x"
            return f"{100 * number:.0f} %" if number >= 0.1 else f"{100 * number:.2g} %"

        sign = "<=" if self.at_most else ">="
        if self.value is None:
            return f"| {self.what} | {sign} {text(self.target)} | not measured here | |"
        met = self.value <= self.target if self.at_most else self.value >= self.target
        verdict = "met" if met else "**missed**"
        if self.unit == "%" and not self.at_most and self.value > ABOVE_ANY_ROOF:
            verdict = "disturbed"
        return f"| {self.what} | {sign} {text(self.target)} | {text(self.value)}{self.note} | {verdict} |"


class Part(NamedTuple):
    """What one part found; all of it can be written as JSON."""

    commands: list[str]
    reached: list[Reached]
    details: str  # Markdown of everything measured


def table(reached: list[Reached]) -> str:
    return "\n".join(["| what | target | reached | |", "|---|---:|---:|---|", *(each.line() for each in reached)])


def run(*command: str | Path) -> dict:
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failed(f"exit {done.returncode} from {' '.join(map(str, command))}")
    return json.loads(done.stdout)


def shown(command: list[str]) -> str:
    words = [Path(word).name if word.startswith("/") else word for word in command]
    return " ".join(f"'{word}'" if "*" in word else word for word in words)


class Kernels:
    """Rows of lowbit bench --kernels, found by what they are."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.commands: list[str] = []

    def measure(self, *arguments: str, repetitions: int = 20) -> None:
        command = ["bench", "--kernels", *arguments, "-r", "2" if QUICK else str(repetitions)]
        report = run(LOWBIT, *command, "--json")
        self.rows += [row | {"cold": report["cold"]} for row in report["rows"]]
        self.commands.append(f"`lowbit {shown(command)}`")

    def find(self, scheme: str, activations: str, shape: str, threads: int, isa: str | None = None, cold: bool = True) -> dict | None:
        wanted = {"scheme": scheme, "activations": activations, "shape": shape, "threads": threads, "cold": cold}
        for row in self.rows:
            if all(row[key] == value for key, value in wanted.items()) and isa in (None, row["isa"]):
                return row
        return None

    def share(self, *what, key: str = "of_roof", **more) -> float | None:
        row = self.find(*what, **more)
        return row.get(key) if row else None

    def markdown(self) -> str:
        lines = [
            "| weights | activations | instruction set | threads | shape | us | GB/s | GOPS | of roof | spread |",
            "|---|---|---|---:|---|---:|---:|---:|---:|---:|",
        ]
        for row in self.rows:
            where = "" if row["cold"] else ", warm"
            lines.append(
                f"| {row['scheme']} | {row['activations']} | {row['isa']} | {row['threads']} | {row['shape']}{where} | {row['us']:.0f} |"
                f" {row['gbs']:.1f} | {row['gops']:.0f} | {100 * row['of_roof']:.0f} % of {row['roof']} |"
                f" {100 * row['of_roof_min']:.0f}-{100 * row['of_roof_max']:.0f} |"
            )
        return "\n".join(lines)


def isas_here() -> list[str]:
    return [isa["name"] for isa in run(LOWBIT, "kernels", "--json")["isa"] if isa["available"]]


def kernels(_model: Path) -> Part:
    here, found, n = isas_here(), Kernels(), 2
    found.measure("-t", str(n))
    found.measure("--scheme", "nf4.g64,e4m3.channel,f16", "--activations", "f32", "--size", f"{GEMM},{GEMV}", "-t", str(n))
    found.measure("--scheme", "q5_0,int3.g64", "--size", GEMV, "-t", str(n))
    found.measure("--scheme", "int4.g32", "--activations", "int8.token", "--size", GEMV, "-t", str(n), "--warm")
    for isa in ("avx_vnni", "avx2"):
        if isa in here:
            found.measure("--isa", isa, "--scheme", "int4.g32", "--activations", "int8.token", "--size", GEMM, "-t", str(n))
    gemms = [
        ("int8.channel", "int8.token", 0.90), ("int4.g128", "int8.token", 0.84), ("int4.g32", "int8.token", 0.76),
        ("q4_0", "int8.g32", 0.70), ("q8_0", "int8.g32", 0.70), ("mxfp4", "int8.g32", 0.68), ("q4_k", "int8.g256", 0.68),
        ("q6_k", "int8.g256", 0.62), ("nvfp4", "int8.g32", 0.62), ("int2.g64", "int8.g32", 0.74),
        ("q4_0", "f32", 0.90), ("nf4.g64", "f32", 0.90), ("e4m3.channel", "f32", 0.90),
    ]  # fmt: skip
    reached = [
        Reached(f"gemm {GEMM}, 2 threads, {scheme}, a={activations}", target, found.share(scheme, activations, GEMM, n))
        for scheme, activations, target in gemms
    ]
    for isa, target, key in (("avx_vnni", 0.72, "of_roof"), ("avx2", 0.62, "of_vnni256")):
        share = found.share("int4.g32", "int8.token", GEMM, n, isa=isa, key=key)
        reached.append(Reached(f"the same, {isa}, int4.g32, a=int8.token, of the 256-bit VNNI peak", target, share))
    for scheme, activations in (
        ("int2.g64", "int8.g32"), ("int3.g64", "int8.g32"), ("q4_0", "int8.g32"), ("mxfp4", "int8.g32"), ("q4_k", "int8.g256"),
        ("q5_0", "int8.g32"), ("q6_k", "int8.g256"), ("q8_0", "int8.g32"),
    ):  # fmt: skip
        share = found.share(scheme, activations, GEMV, n)
        reached.append(Reached(f"gemv {GEMV} from memory, 2 threads, {scheme}, a={activations}", 0.92, share))
    warm = found.share("int4.g32", "int8.token", GEMV, n, cold=False)
    reached.append(Reached(f"gemv {GEMV} from the last-level cache, int4.g32, a=int8.token", 0.80, warm))
    for scheme in ("q4_0", "nf4.g64", "e4m3.channel"):
        reached.append(Reached(f"gemv {GEMV} from memory, {scheme}, a=f32", 0.50, found.share(scheme, "f32", GEMV, n)))
    return Part(found.commands, reached, found.markdown())


def formats(_model: Path) -> Part:
    """Every scheme with int8 products beside the fastest: of equal bits in decode, of equal scales in prefill."""
    known = run(LOWBIT, "formats", "--json")
    bits = {code["name"]: code["bits"] for code in known["codes"]}
    # What stands in the way of a share of a matrix is left out: scales of a whole tensor or a block, plain floats.
    schemes = {s["name"]: s for s in known["schemes"] if s["group"] not in ("-", "tensor") and "x" not in s["group"]}
    found, prefill = Kernels(), "128x2048x4096"
    found.measure("--scheme", ",".join(schemes), "--size", f"{GEMV},{prefill}", "-t", "1", repetitions=7)
    rows = [row for row in found.rows if row["activations"] != "f32"]

    def is_grid(row: dict) -> bool:
        return row["scheme"].startswith(("iq1", "iq2", "iq3"))

    def behind(what: str, key: str, limit: float, group: list[dict], all_rows: list[dict]) -> Reached:
        slowest = min(group, key=lambda row: row[key])
        value = max(row[key] for row in all_rows) / slowest[key]
        return Reached(f"{what}: fastest over slowest ({slowest['scheme']})", limit, value, "x", at_most=True)

    reached = []
    decode = [row for row in rows if row["shape"] == GEMV]
    for width in sorted({-(-bits[schemes[row["scheme"]]["code"]] // 1) for row in decode}):
        equal = [row for row in decode if -(-bits[schemes[row["scheme"]]["code"]] // 1) == width]
        for grids, limit in ((False, 1.3), (True, 2.0)):
            if group := [row for row in equal if is_grid(row) == grids]:
                # Scales are bits too: bytes per second compares formats of equal bits.
                what = f"decode, GB/s, {'grids' if grids else 'formats'} of {width:g} bits"
                reached.append(behind(what, "gbs", limit, group, equal))
    scales: dict[tuple, list[dict]] = {}
    for row in rows:
        scheme = schemes[row["scheme"]]
        if row["shape"] == prefill and not is_grid(row):
            key = scheme["group"], scheme["zero"] not in ("-", ""), row["activations"]
            scales.setdefault(key, []).append(row)
    for (group, has_zero, activations), equal in sorted(scales.items()):
        if len(equal) > 1:
            what = f"prefill, GOPS, groups of {group}{' with zeros' * has_zero}, a={activations}"
            reached.append(behind(what, "gops", 1.3, equal, equal))
    command = f"`lowbit bench --kernels --scheme {','.join(schemes)} --size {GEMV},{prefill} -t 1 -r 7`"
    return Part([command], reached, found.markdown())


class Compared:
    """Rows of scripts/compare, found by what they are."""

    def __init__(self, chart: str) -> None:
        self.rows: list[dict] = []
        self.divergence: dict = {}
        self.commands: list[str] = []
        self.chart = chart

    def measure(self, *arguments: str) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        chart = FOLDER / f"{self.chart}.svg"
        report = run(ROOT / "scripts/compare", *arguments, *QUICK, "--json", "--svg", chart)
        self.rows += report["rows"]
        self.divergence |= report["divergence"]
        self.commands.append(f"`scripts/compare {shown(list(arguments))}`")

    def find(self, scheme: str, phase: str, depth: int = 0, kv: str = "f16", batch: int = 1) -> dict | None:
        wanted = {"scheme": scheme, "phase": phase, "depth": depth, "kv": kv, "batch": batch}
        return next((row for row in self.rows if all(row[key] == value for key, value in wanted.items())), None)

    def ratio(self, what: str, target: float, *which, **more) -> Reached:
        row = self.find(*which, **more)
        if row is None:
            return Reached(what, target, None, "x")
        marks = ", does not count" * (row["counts"] is False) + ", disturbed" * (row["foreign_load"] > FOREIGN_LIMIT)
        return Reached(what, target, row["ratio"], "x", note=f" ({row['ratio_min']:.2f}-{row['ratio_max']:.2f}{marks})")

    def share(self, what: str, target: float, *which, **more) -> Reached:
        row = self.find(*which, **more)
        return Reached(what, target, row["of_roof"] if row else None)

    def markdown(self) -> str:
        lines = [
            "| weights | what | lowbit tok/s | of roof | llama.cpp tok/s | its setting | ratio | range | other load, at most |",
            "|---|---|---:|---:|---:|---|---:|---:|---:|",
        ]
        for row in self.rows:
            place = f" at depth {row['depth']}, KV {row['kv']}" * (row["depth"] > 0) + f", batch {row['batch']}" * (row["batch"] > 1)
            lines.append(
                f"| {row['scheme']} | {row['phase']} {row['tokens']}{place} | {row['lowbit']:.1f} | {100 * row['of_roof']:.0f} % |"
                f" {row['peer']:.1f} | {row['peer_setting']} | {row['ratio']:.2f} | {row['ratio_min']:.2f}-{row['ratio_max']:.2f} |"
                f" {row['foreign_load']:.0%} |"
            )
        lines += ["", "| weights | divergence of our activations | of llama.cpp's | measured on |", "|---|---:|---:|---|"]
        for scheme, found in self.divergence.items():
            lines.append(
                f"| {scheme} | {found['lowbit']:.5f} | {found['peer']:.5f} | {found['file']} |"
                if found
                else f"| {scheme} | not known | not known | |"
            )
        return "\n".join(lines)


def llama_1b(scheme: str, prefill: float, decode: float) -> Part:
    found = Compared(f"llama-1b-{scheme}")
    found.measure("--shape", "llama-1b", "--scheme", scheme, "-p", "512", "-n", "32", "-d", "0", "-b", "1", "-r", "1")
    reached = [
        found.ratio(f"llama-1b prefill 512, {scheme}, over llama.cpp", prefill, scheme, "prefill"),
        found.ratio(f"llama-1b decode, {scheme}, over llama.cpp", decode, scheme, "decode"),
    ]
    if scheme == "q4_0":
        reached.append(found.share("llama-1b prefill 512, q4_0, of the VNNI peak", 0.46, "q4_0", "prefill"))
        reached.append(found.share("llama-1b decode, q4_0, of read bandwidth", 0.90, "q4_0", "decode"))
    return Part(found.commands, reached, found.markdown())


def batch(model: Path) -> Part:
    """Eight sequences together over one, both models; the two alternate within one process."""
    reached, commands = [], []
    lines = ["| model | batch | tokens/s | spread | of roof |", "|---|---:|---:|---:|---:|"]
    for name, source in (("llama-1b", ["--shape", "llama-1b"]), ("default model", ["-m", str(model)])):
        command = ["bench", *source, "--recipe", "w=q4_0", "-p", "0", "-n", "8" if QUICK else "32", "-b", "1,8", "-r", "2" if QUICK else "5"]
        rows = run(LOWBIT, *command, "--json")["rows"]
        one, eight = (row["tokens_per_second"] for row in rows)
        reached.append(Reached(f"{name} decode of 8 sequences over one, q4_0", 5, eight / one, "x"))
        commands.append(f"`lowbit {shown(command)}`")
        for row in rows:
            low, high = row["tokens_per_second_min"], row["tokens_per_second_max"]
            lines.append(
                f"| {name} | {row['batch']} | {row['tokens_per_second']:.1f} | {low:.1f}-{high:.1f} | {100 * row['of_roof']:.0f} % |"
            )
    return Part(commands, reached, "\n".join(lines))


def default_model(model: Path, scheme: str, prefill: float, decode: float) -> Part:
    found = Compared(f"default-{scheme}")
    found.measure("-m", str(model), "--scheme", scheme, "-p", "512", "-d", "0", "-b", "1")
    reached = [
        found.ratio(f"default model prefill 512, {scheme}, over llama.cpp", prefill, scheme, "prefill"),
        found.ratio(f"default model decode, {scheme}, over llama.cpp", decode, scheme, "decode"),
    ]
    if scheme == "q4_0":
        reached.append(found.share("default model prefill 512, q4_0, of the VNNI peak", 0.34, "q4_0", "prefill"))
    return Part(found.commands, reached, found.markdown())


def deep(model: Path) -> Part:
    """Behind 2048 tokens: only a share of the speed at depth 0 of the same minutes means something."""
    found, depth = Compared("depth"), 64 if QUICK else 2048
    pairs = [] if QUICK else ["--pairs", "3"]
    found.measure(
        "-m", str(model), "--scheme", "q4_0", "-p", "512", "-n", "32", "-d", f"0,{depth}", "-b", "1", "-r", "1", *pairs, "--no-divergence"
    )
    at_0, reached = found.find("q4_0", "prefill"), []
    for kv, target, kept in (("f16", 2.5, 0.40), ("int8", 8, 0.50)):
        row = found.find("q4_0", "prefill", depth, kv)
        reached.append(found.ratio(f"prefill 512 at depth {depth}, KV {kv}, over llama.cpp", target, "q4_0", "prefill", depth, kv))
        share = row["lowbit"] / at_0["lowbit"] if row and at_0 else None
        reached.append(Reached(f"prefill 512 at depth {depth}, KV {kv}, of its speed at depth 0", kept, share))
    row = found.find("q4_0", "decode", depth, "int8")
    theirs = [other["peer"] for kv in ("f16", "int8") if (other := found.find("q4_0", "decode", depth, kv))]
    best = row["lowbit"] / max(theirs) if row and theirs else None
    reached.append(Reached(f"decode at depth {depth}, KV int8, over llama.cpp's best KV setting", 1.8, best, "x"))
    return Part(found.commands, reached, found.markdown())


def busy(model: Path) -> Part:
    command = [ROOT / "scripts/compare", "-m", model, "--scheme", "q4_0", "--busy", "--pairs", "3", "-p", "512"]
    rows = run(*command, *QUICK, "--json")["rows"]
    reached = [
        Reached(f"{row['phase']} {row['tokens']} beside one busy process, of the quiet speed", 0.55, row["share"])
        for row in rows
        if row["engine"] == "lowbit"
    ]
    lines = ["| engine | what | quiet tok/s | beside it | share | range |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['engine']} | {row['phase']} {row['tokens']} | {row['quiet']:.1f} | {row['busy']:.1f} | {row['share']:.0%} |"
            f" {row['share_min']:.0%}-{row['share_max']:.0%} |"
        )
    return Part([f"`scripts/compare -m {model.name} --scheme q4_0 --busy --pairs 3 -p 512`"], reached, "\n".join(lines))


def cold_starts(model: Path) -> Part:
    command = ["-m", str(model), *["--rounds", "1"] * bool(QUICK)]
    rows = run(ROOT / "scripts/cold_start.py", *command, "--json")["rows"]
    reached = []
    for row in rows:
        if row["way"] != "llama.cpp":
            what = f"first token, default model in the {row['file_in']}, {row['way']}, our time over llama.cpp's"
            note = f" ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
            reached.append(Reached(what, 0.5, row["over_peer"], "x", at_most=True, note=note))
    return Part([f"`scripts/cold_start.py -m {model.name}`"], reached, cold_start.markdown(rows))


LLAMA_1B = {"q4_0": (1.9, 1.3), "mxfp4": (2.0, 1.2), "q4_k": (2.3, 1.1), "q8_0": (3.4, 1.0)}
DEFAULT = {"q4_0": (2.2, 1.7), "q8_0": (3.2, 1.3)}
PARTS = {
    "kernels": kernels,
    "formats": formats,
    **{f"llama-1b-{scheme}": lambda _, s=scheme, t=targets: llama_1b(s, *t) for scheme, targets in LLAMA_1B.items()},
    **{f"default-{scheme}": lambda model, s=scheme, t=targets: default_model(model, s, *t) for scheme, targets in DEFAULT.items()},
    "depth": deep,
    "batch": batch,
    "busy": busy,
    "cold-start": cold_starts,
}
