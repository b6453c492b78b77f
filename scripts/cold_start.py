#!/usr/bin/env python3
"""From starting a program to the first byte of its answer, beside llama.cpp on the same file, in turns.

Three ways to start: lowbit (packs the weights), lowbit --pack-cache (maps weights that an earlier start packed) and
llama-completion without its warm-up; the same prompt of the same tokens for all. The file is in the page cache, or
dropped from it before every start (with the pack cache beside it); programs and libraries stay in memory.

  scripts/cold_start.py                     the model of scripts/fetch
  scripts/cold_start.py -m model.gguf --rounds 9 --json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparison import CACHE, LOWBIT, ROOT

PROMPT = "Write a long story about a lighthouse keeper and the sea."
WAYS = ["lowbit", "lowbit --pack-cache", "llama.cpp"]


def seconds_to_first_byte(command: list) -> float:
    start = time.monotonic()
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        first = process.stdout.read(1)
        seconds = time.monotonic() - start
        process.kill()
    if not first:
        raise OSError(f"{' '.join(map(str, command))} printed nothing")
    return seconds


def is_cached(file) -> bool:
    """Whether a page in the middle of the file is in memory; reading it would bring it there otherwise."""
    middle = os.fstat(file.fileno()).st_size // 2
    try:
        return os.preadv(file.fileno(), [bytearray(1)], middle, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError:  # a file system that cannot tell
        return True


def drop(paths: list[Path]) -> bool:
    """The files leave the page cache; false where they stay."""
    dropped = True
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            dropped = dropped and not is_cached(file)
    return dropped


def commands(model: Path, peer: Path, threads: int) -> dict[str, list]:
    usual = ["-m", model, "-p", PROMPT, "-n", 16, "--temp", 0, "-t", threads]
    lowbit = [LOWBIT, "run", "--raw", *usual]
    return {
        "lowbit": lowbit,
        "lowbit --pack-cache": [*lowbit, "--pack-cache"],
        "llama.cpp": [peer / "llama-completion", *usual, "--no-display-prompt", "--no-warmup", "-no-cnv"],
    }


def measure(model: Path, peer: Path, threads: int, rounds: int) -> list[dict]:
    """A row for every way and place of the file; `over_peer` is the median of the ratios within a round."""
    rows = []
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:  # the pack cache goes where the model seems to be
        link = Path(folder) / "model.gguf"
        link.symlink_to(model.resolve())
        starts = commands(link, peer, threads)
        for start in starts.values():  # writes the pack cache, and brings programs and libraries to memory
            subprocess.run(list(map(str, start)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        for place in ("page cache", "disk"):
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            dropped = True
            for i in range(rounds):
                for way in WAYS[i % len(WAYS) :] + WAYS[: i % len(WAYS)]:  # each goes first in its turn
                    if place == "disk":
                        dropped = drop([model, *Path(folder).glob("*.pack")]) and dropped
                    found[way].append(seconds_to_first_byte(starts[way]))
            if not dropped:
                print("cold_start: the system keeps the file in memory, nothing is read from the disk", file=sys.stderr)
                continue
            for way in WAYS:
                ratios = [ours / theirs for ours, theirs in zip(found[way], found["llama.cpp"])]
                rows.append(
                    {
                        "file_in": place, "way": way, "seconds": statistics.median(found[way]), "least": min(found[way]),
                        "most": max(found[way]), "over_peer": statistics.median(ratios), "ratio_min": min(ratios),
                        "ratio_max": max(ratios), "rounds": rounds,
                    }
                )  # fmt: skip
    return rows


def markdown(rows: list[dict]) -> str:
    lines = ["| file in | start | seconds to the first byte | range | over llama.cpp's | range |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['file_in']} | {row['way']} | {row['seconds']:.3f} | {row['least']:.3f}-{row['most']:.3f} |"
            f" {row['over_peer']:.2f} | {row['ratio_min']:.2f}-{row['ratio_max']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (default: the one of scripts/fetch)")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count(), help="threads (all cores)")
    parser.add_argument("--rounds", type=int, default=7, help="starts of each way (7)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of Markdown")
    args = parser.parse_args()
    if args.model and not args.model.is_file():
        parser.error(f"there is no file {args.model}")
    if min(args.rounds, args.threads) < 1:
        parser.error("rounds and threads are at least 1")
    if not LOWBIT.exists():
        sys.exit("cold_start: build first: cmake --preset release && cmake --build --preset release")

    def path_from(*command: str) -> Path:
        done = subprocess.run([str(ROOT / "scripts" / command[0]), *command[1:]], check=True, stdout=subprocess.PIPE, text=True)
        return Path(done.stdout.split("\n")[0])

    model = args.model or path_from("fetch", "--model")
    rows = measure(model, path_from("peer"), args.threads, args.rounds)
    print(json.dumps({"model": model.name, "threads": args.threads, "rows": rows}) if args.json else markdown(rows))


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"cold_start: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
