"""The second half of scripts/demo: quantizes the teacher to several formats, measures each, prints a table.

Everything in the table comes from the --json output of lowbit quantize, eval and bench.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWBIT = ROOT / "build/release/lowbit"

# GGUF where the format has a GGUF type, a safetensors folder otherwise.
FORMATS = [
    ("q8_0", "gguf"),
    ("int8.channel", "folder"),
    ("e4m3.channel", "folder"),
    ("mxfp6_e2m3", "folder"),
    ("q5_0", "gguf"),
    ("q4_1", "gguf"),
    ("q4_0", "gguf"),
    ("int4.g128", "folder"),
    ("nf4.g64", "folder"),
    ("mxfp4", "gguf"),
    ("int3.g32", "folder"),
]
TEXT_BYTES = 13_000  # six windows of 512 tokens: enough to rank formats, not to quote a perplexity
QUESTION = "What is gravity?"
COLUMNS = [
    "format", "bits/weight", "file MB", "perplexity", "KL divergence", "top-1 %",
    "prefill tok/s", "% of roof", "decode tok/s", "% of roof",
]  # fmt: skip


def say(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


def lowbit(*arguments: str | Path) -> dict:
    """Runs a command of lowbit with --json; its progress stays on stderr."""
    command = [str(LOWBIT), *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"demo: exit {done.returncode} from: {' '.join(command)}")
    return json.loads(done.stdout)


def excerpt(text: Path, folder: Path) -> Path:
    """The beginning of a text, cut after a line."""
    start = text.read_bytes()[:TEXT_BYTES]
    path = folder / text.name
    path.write_bytes(start[: start.rindex(b"\n") + 1])
    return path


def measured(name: str, model: Path, text: Path, teacher: Path, bits: float, n_bytes: int) -> dict:
    quality = lowbit("eval", "-m", model, "--text", text, "--reference", teacher)
    speed = {row["phase"]: row for row in lowbit("bench", "-m", model, "-p", 512, "-n", 64)["rows"]}
    return {"name": name, "model": model, "bits": bits, "bytes": n_bytes, **quality, **speed}


def cells(row: dict) -> list[str]:
    return [
        row["name"],
        f"{row['bits']:.2f}",
        f"{row['bytes'] / 1e6:.1f}",
        f"{row['perplexity']:.2f}",
        f"{row['kld_mean']:.4f}",
        f"{100 * row['top1_agreement']:.1f}",
        f"{row['prefill']['tokens_per_second']:.0f}",
        f"{100 * row['prefill']['of_roof']:.0f}",
        f"{row['decode']['tokens_per_second']:.0f}",
        f"{100 * row['decode']['of_roof']:.0f}",
    ]


def table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        aligned = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("| " + " | ".join(aligned) + " |")
    lines.insert(1, "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (width + 1) + ":" for width in widths[1:]]) + "|")
    return "\n".join(lines)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="quantizes, measures and prints a table")
    parser.add_argument("--teacher", type=Path, required=True, help="the full-precision model")
    parser.add_argument("--text", type=Path, required=True, help="what perplexity and KL divergence are measured on")
    parser.add_argument("--formats", nargs="+", help="schemes instead of the usual list")
    args = parser.parse_args()
    out = Path(os.environ.get("LOWBIT_CACHE", ROOT / "cache")) / "demo"
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    known = dict(FORMATS)
    formats = [(name, known.get(name, "folder")) for name in args.formats] if args.formats else FORMATS

    with tempfile.TemporaryDirectory() as folder:
        text = excerpt(args.text, Path(folder))
        say("measuring the teacher itself")
        about = lowbit("inspect", args.teacher)
        rows = [measured("f16 (teacher)", args.teacher, text, args.teacher, about["bits_per_weight"], size_of(args.teacher))]
        for name, container in formats:
            say(f"{name}: quantizing, measuring")
            target = out / (f"{name}.gguf" if container == "gguf" else name)
            written = target if container == "gguf" else f"{target}/"  # the slash says: a folder
            made = lowbit("quantize", "-m", args.teacher, name, "--no-self-test", "-o", written)  # measured next
            rows.append(measured(name, target, text, args.teacher, made["bits_per_weight"], made["bytes"]))

    machine = lowbit("bench")["machine"]
    print(
        f"\nTeacher: {args.teacher.name}. Quality on the first {TEXT_BYTES // 1000} kB of {args.text.stem}, in chunks of 512"
        f" tokens, with the activations that each format runs with; speed with {machine['threads']} threads on"
        f" {machine['cpu']}:\nreads {machine['read_gbs']:.0f} GB/s, {machine['int8_gops']:.0f} GOPS in int8,"
        f" {machine['f32_gflops']:.0f} GFLOPS in f32.\n"
    )
    print(table([COLUMNS, *map(cells, rows)]), flush=True)

    four_bit = [row for row in rows if 3.5 <= row["bits"] < 5.6 and row["name"] != "q5_0"]
    if four_bit:
        best = min(four_bit, key=lambda row: row["kld_mean"])
        print(f"\nThe best 4-bit format here is {best['name']}. It is asked: {QUESTION}\n", flush=True)
        answer = [LOWBIT, "run", "-m", best["model"], "-p", QUESTION, "--temp", "0", "-n", "80"]
        if subprocess.run(answer).returncode != 0:
            sys.exit("demo: the model gave no answer")
        print()
    say(f"done in {time.monotonic() - start:.0f} s; the models are in {out}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, KeyError, json.JSONDecodeError) as error:
        sys.exit(f"demo: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
