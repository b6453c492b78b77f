"""Quality beside llama.cpp: its types with an importance matrix, made of the same source and judged by the same eval.

The peer's files are made once (cache/compare/quality) with llama-imatrix on the calibration text and llama-quantize; a
file in which any tensor fell back to another type is no point. lowbit eval --sweep judges them and our recipes alike:
f32 activations, so that only weights differ, sizes from the containers. llama.cpp's own KL tool reads some of the files
too, as a check on our numbers (it rounds activations to int8, which adds about .003).
"""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

from comparison import CACHE, LOWBIT, ROOT, Failed, Peer, output, say

TYPES = (
    "IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M Q2_K_S Q2_K IQ3_XXS IQ3_XS IQ3_S IQ3_M Q3_K_S Q3_K_M Q3_K_L IQ4_XS IQ4_NL Q4_0 Q4_1 "
    "Q4_K_S Q4_K_M Q5_0 Q5_K_S Q5_K_M Q6_K Q8_0"
).split()
CHECKED = ["IQ3_S", "Q4_K_M"]
PEER_FAMILY = "llama.cpp"
TARGETS = [3, 3.5, 4, 4.5, 5.5]  # bits per weight at which fronts are compared
NEAR = 0.01  # sizes within this share are equal
BYTES_OF_TEXT = 60_000
N_SLICES, BYTES_OF_SLICE = 128, 1_800  # about 512 tokens each
CALIBRATION_WINDOWS = 64  # of 512 tokens for our methods: half of what the peer's matrix comes from
FOLDER = (CACHE / "compare/quality").resolve()  # files are known by their paths


def sha8(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def logged(command: list, log: Path, target: Path) -> None:
    """Runs a command of the peer that writes `target`: whole or not at all, its words in a log beside it."""
    temporary = target.with_name(f"new-{target.name}")
    words = [str(temporary if word is target else word) for word in command]
    with log.open("wb") as words_of_peer:
        done = subprocess.run(words, stdout=words_of_peer, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        temporary.unlink(missing_ok=True)
        raise Failed(f"{' '.join(words)}: exit {done.returncode}, see {log}")
    os.replace(temporary, target)


def evaluation_text(text: Path) -> Path:
    """The first 60 kB, to a whole character."""
    path = FOLDER / f"{text.stem}-{BYTES_OF_TEXT}.txt"
    path.write_text(text.read_bytes()[:BYTES_OF_TEXT].decode("utf-8", "ignore"), encoding="utf-8", newline="\n")
    return path


def slices(calibration: Path) -> Path:
    """128 slices of the calibration text, spread evenly as our methods spread their windows."""
    data = calibration.read_bytes()
    path = FOLDER / f"{calibration.stem}-{sha8(calibration)}-{N_SLICES}.txt"
    step = max(1, len(data) // N_SLICES)
    parts = [data[at : at + BYTES_OF_SLICE] for at in range(0, len(data) - BYTES_OF_SLICE, step)] or [data]
    path.write_text("\n\n".join(part.decode("utf-8", "ignore") for part in parts), encoding="utf-8", newline="\n")
    return path


def imatrix(peer: Peer, source: Path, calibration: Path) -> Path:
    """What each column's inputs are worth, as llama-imatrix measures it: on the Q8_0 form, because its F16 products crawl."""
    path = FOLDER / f"{source.stem}-{sha8(calibration)}.imatrix.gguf"
    if not path.exists():
        say(f"importance matrix of {source.name} from {calibration.name} (minutes)")
        eight = FOLDER / f"{source.stem}-Q8_0.gguf"
        if not eight.exists():
            logged([peer.folder / "llama-quantize", source, eight, "Q8_0", os.cpu_count()], eight.with_suffix(".log"), eight)
        command = [peer.folder / "llama-imatrix", "-m", eight, "-f", slices(calibration), "-c", 512, "-t", 1, "-o", path]  # spinning threads crawl on a busy machine
        logged([*command, "--output-format", "gguf"], path.with_suffix(".log"), path)
    return path


def fallbacks(log: str) -> list[str]:
    """Lines in which llama-quantize says that it could not give a tensor the type of the mix."""
    return [line.strip() for line in log.splitlines() if "fallback" in line]


def peer_file(peer: Peer, source: Path, matrix: Path, kind: str) -> Path | None:
    path = FOLDER / f"{source.stem}-{matrix.name.split('.')[-3].split('-')[-1]}-{kind}.gguf"
    log = path.with_suffix(".log")
    if not path.exists():
        say(f"llama-quantize {kind}")
        logged([peer.folder / "llama-quantize", "--imatrix", matrix, source, path, kind, os.cpu_count()], log, path)
    if found := fallbacks(log.read_text(errors="replace")):
        say(f"{kind} is no point: {found[0]}")
        return None
    return path


def divergence_by_peer(peer: Peer, source: Path, model: Path, text: Path, windows: int) -> tuple[float, float]:
    """What llama-perplexity says of the file, with its standard error."""
    base = FOLDER / f"{source.stem}-{windows}.kld"
    command = [peer.folder / "llama-perplexity", "-f", text, "-c", 512, "--chunks", windows, "--kl-divergence-base", base]
    if not base.exists():
        say(f"logits of {source.name} by llama-perplexity")
        temporary = base.with_name(f"new-{base.name}")
        output([*command[:-1], temporary, "-m", source], binary=True)
        os.replace(temporary, base)
    printed = output([*command, "-m", model, "--kl-divergence"], binary=True)[0].decode("utf-8", "replace")
    found = re.search(r"Mean\s+KLD:\s*(-?[0-9.]+)\s*±\s*([0-9.]+)", printed)
    if not found:
        raise Failed(f"llama-perplexity printed no mean KLD\n{printed[-2000:]}")
    return float(found[1]), float(found[2])


def front(points: list[dict]) -> list[dict]:
    return sorted((p for p in points if p["front"]), key=lambda p: p["bits_per_weight"])


def peer_at(points: list[dict], bits: float) -> dict | None:
    """The peer's divergence at a size: its best point within 1 %, else log-linear between its front's neighbours."""
    near = [p for p in points if abs(p["bits_per_weight"] / bits - 1) <= NEAR]
    if near:
        best = min(near, key=lambda p: p["kld_mean"])
        return {"kld": best["kld_mean"], "how": f"{best['label']} at {best['bits_per_weight']:.3f}"}
    line = front(points)
    for low, high in zip(line, line[1:]):
        if low["bits_per_weight"] <= bits <= high["bits_per_weight"]:
            share = (bits - low["bits_per_weight"]) / (high["bits_per_weight"] - low["bits_per_weight"])
            kld = math.exp((1 - share) * math.log(low["kld_mean"]) + share * math.log(high["kld_mean"]))
            return {"kld": kld, "how": f"between {low['label']} and {high['label']}"}
    return None


def at_targets(points: list[dict]) -> list[dict]:
    """Of each of our families, the point of its front that is nearest to each target, beside the peer at its size."""
    peers = [p for p in points if p["family"] == PEER_FAMILY]
    lines = []
    for family in dict.fromkeys(p["family"] for p in points if p["family"] != PEER_FAMILY):
        ours = front([p for p in points if p["family"] == family])
        for target in TARGETS:
            if not ours:
                continue
            best = min(ours, key=lambda p: abs(p["bits_per_weight"] - target))
            theirs = peer_at(peers, best["bits_per_weight"])
            if theirs is None or abs(best["bits_per_weight"] - target) > 0.25:
                continue
            lines.append(
                {
                    "family": family, "target": target, "label": best["label"], "bits_per_weight": best["bits_per_weight"],
                    "kld": best["kld_mean"], "kld_stderr": best["kld_stderr"], "peer_kld": theirs["kld"], "peer": theirs["how"],
                    "below": 1 - best["kld_mean"] / theirs["kld"],
                }
            )  # fmt: skip
    return lines


def sweep(source: Path, text: Path, calibration: Path, windows: int, lines: list[str]) -> tuple[dict, Path]:
    """Points of all lines by lowbit eval --sweep, and the prefix of its outputs; what was measured before is kept."""
    prefix = FOLDER / f"{source.stem}-{windows}"
    listed = prefix.with_name(prefix.name + ".list.txt")
    listed.write_text("\n".join(lines) + "\n")
    command = [LOWBIT, "eval", "-m", source, "--text", text, "--windows", windows, "--calibration", calibration]
    command += ["--calibration-windows", CALIBRATION_WINDOWS, "--sweep", listed, "-o", prefix, "--json"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if not done.stdout:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}")
    return json.loads(done.stdout), prefix


def measure(args, peer: Peer, path_from) -> dict:
    FOLDER.mkdir(parents=True, exist_ok=True)
    source = args.model or path_from("reference-model", "--wide", path_from("fetch", "--model"))
    text = evaluation_text(args.text or path_from("fetch", "--texts"))
    calibration = args.calibration or path_from("fetch", "--calibration")
    matrix = imatrix(peer, source, calibration)
    lines = [f"[{PEER_FAMILY}]"]
    for kind in args.types or TYPES:
        if path := peer_file(peer, source, matrix, kind):
            lines.append(f"{kind}: {path}")
    if len(lines) == 1:
        raise Failed("none of the types can be made of this model: its rows are no multiples of 256; --wide makes one that they fit")
    if args.recipes:
        lines += ["[lowbit]", *args.recipes.read_text().splitlines()]
    report, prefix = sweep(source, text, calibration, args.windows, lines)
    report["imatrix"] = calibration.name
    report["targets"] = at_targets(report["points"])
    report["checks"] = []
    for point in report["points"]:
        if point["label"] in args.check and point["family"] == PEER_FAMILY:
            kld, stderr = divergence_by_peer(peer, source, Path(point["recipe"]), text, args.windows)
            found = {"label": point["label"], "lowbit": point["kld_mean"], "lowbit_stderr": point["kld_stderr"], "peer": kld, "peer_stderr": stderr}
            report["checks"].append(found)
            say(f"{point['label']}: KL divergence by lowbit {point['kld_mean']:.5f}, by llama-perplexity {kld:.5f}")
    for path in args.check_files:
        kld, stderr = divergence_by_peer(peer, source, path, text, args.windows)
        report["checks"].append({"label": path.name, "lowbit": None, "lowbit_stderr": None, "peer": kld, "peer_stderr": stderr})
    report["table"] = prefix.with_name(prefix.name + ".md").read_text()
    if args.svg:
        args.svg.write_text(prefix.with_name(prefix.name + ".svg").read_text())
    return report


def markdown(report: dict) -> str:
    lines = [f"{report['model']}, {report['cpu']}, {report['cores']} cores; importance matrix from {report['imatrix']}", ""]
    lines += [report["table"]]
    if report["targets"]:
        lines += [
            "| ours | about | recipe | bits per weight | KL divergence | llama.cpp there | how | below it |",
            "|---|---:|---|---:|---:|---:|---|---:|",
        ]
    for row in report["targets"]:
        lines.append(
            f"| {row['family']} | {row['target']:g} | {row['label']} | {row['bits_per_weight']:.3f} | {row['kld']:.5f} ± {row['kld_stderr']:.5f} |"
            f" {row['peer_kld']:.5f} | {row['peer']} | {row['below']:.0%} |"
        )
    if report["checks"]:
        lines += ["", "| file | KL divergence by lowbit eval, a=f32 | by llama-perplexity |", "|---|---:|---:|"]
    for row in report["checks"]:
        ours = f"{row['lowbit']:.5f} ± {row['lowbit_stderr']:.5f}" if row["lowbit"] is not None else ""
        lines.append(f"| {row['label']} | {ours} | {row['peer']:.5f} ± {row['peer_stderr']:.5f} |")
    return "\n".join(lines)
