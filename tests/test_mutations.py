"""300 damaged copies of a tiny GGUF file, each inspected and run for two tokens: no crash, no hang, no report.

100 mutations know the structure (counts, lengths, types, dimensions, offsets), 140 change bytes of the
header and the tensor table, 60 bytes of the data. scripts/test runs this with LOWBIT=build/asan/lowbit. The seed
of a mutation is its number, and a failing one is kept in build/mutations/.
"""

import random
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from conftest import GOLDEN, ROOT, lowbit

MODEL = GOLDEN / "llama-llama3/model.gguf"
N_STRUCTURED, N_HEADER, N_DATA = 100, 140, 60
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Field(NamedTuple):
    what: str
    at: int
    form: str  # of struct


class Map:
    """Where the counts, lengths, types, dimensions and offsets of a GGUF file lie."""

    def __init__(self, data: bytes):
        self.data, self.at, self.fields = data, 4, []
        self.number("version", "<I")
        n_tensors = self.number("tensor count", "<Q")
        n_pairs = self.number("pair count", "<Q")
        for _ in range(n_pairs):
            self.string("key length")
            self.value(self.number("value type", "<I"))
        for _ in range(n_tensors):
            self.string("name length")
            for _ in range(self.number("dimension count", "<I")):
                self.number("dimension", "<Q")
            self.number("tensor type", "<I")
            self.number("tensor offset", "<Q")
        self.end = self.at

    def number(self, what: str, form: str) -> int:
        self.fields.append(Field(what, self.at, form))
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self, what: str) -> None:
        n_bytes = self.number(what, "<Q")
        self.at += n_bytes

    def value(self, kind: int) -> None:
        if kind == STRING:
            self.string("string length")
        elif kind == ARRAY:
            element = self.number("array type", "<I")
            count = self.number("array length", "<Q")
            if element == STRING:
                n_fields = len(self.fields)
                for _ in range(count):
                    self.string("string length")
                del self.fields[n_fields + 5 :]  # a vocabulary would drown everything else
            else:
                self.at += count * SIZES[element]
        else:
            if SIZES[kind] == 4:
                self.fields.append(Field("value", self.at, "<I"))
            self.at += SIZES[kind]


def mutation(number: int, original: bytes, where: Map) -> tuple[str, bytes]:
    dice = random.Random(number)
    data = bytearray(original)
    if number < N_STRUCTURED:
        kinds = sorted({field.what for field in where.fields})
        kind = kinds[number % len(kinds)]  # every kind of field gets its turn
        field = dice.choice([field for field in where.fields if field.what == kind])
        (old,) = struct.unpack_from(field.form, data, field.at)
        bits = 8 * struct.calcsize(field.form)
        values = [0, 1, old + 1, old - 1, 2 * old, old ^ (1 << dice.randrange(bits)), 1 << (bits - 1), (1 << bits) - 1, 255, 1 << 20]
        new = dice.choice(values) % (1 << bits)
        struct.pack_into(field.form, data, field.at, new)
        return f"{field.what} at {field.at}: {old} -> {new}", bytes(data)
    start, end = (0, where.end) if number < N_STRUCTURED + N_HEADER else (where.end, len(data))
    changes = []
    for _ in range(dice.choice([1, 1, 1, 2, 4, 16])):
        at = dice.randrange(start, end)
        data[at] = dice.choice([dice.randrange(256), data[at] ^ (1 << dice.randrange(8)), 0, 255])
        changes.append(f"{at}={data[at]}")
    return f"bytes {' '.join(changes)}", bytes(data)


def complaint(number: int, original: bytes, where: Map, folder) -> str | None:
    what, data = mutation(number, original, where)
    path = folder / f"mutation-{number}.gguf"
    path.write_bytes(data)
    # One allocation of gigabytes from a file of 170 kB is an absurd count that was believed.
    env = {"ASAN_OPTIONS": "max_allocation_size_mb=1000:detect_leaks=0"}
    for command in (["inspect", path, "--json"], ["run", "-m", path, "--raw", "-p", "the house", "-n", 2, "-c", 64, "-t", 1]):
        try:
            done = lowbit(*command, timeout=60, env=env)
        except subprocess.TimeoutExpired:
            return f"mutation {number} ({what}): {command[0]} hangs"
        if done.code not in (0, 1) or (done.code == 1 and not done.err.strip()) or "Sanitizer" in done.err:
            kept = ROOT / "build/mutations"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / path.name).write_bytes(data)
            return f"mutation {number} ({what}): {command[0]} exits {done.code}\n{done.err[:1500]}"
    path.unlink()
    return None


def test_damaged_files(tmp_path):
    original = MODEL.read_bytes()
    where = Map(original)
    assert where.end < len(original) and len(where.fields) > 100
    with ThreadPoolExecutor(2) as pool:
        numbers = range(N_STRUCTURED + N_HEADER + N_DATA)
        found = [text for text in pool.map(lambda n: complaint(n, original, where, tmp_path), numbers) if text]
    assert not found, f"{len(found)} of {len(numbers)} fail\n" + "\n".join(found[:10])


def test_the_undamaged_file_runs(tmp_path):
    done = lowbit("run", "-m", MODEL, "--raw", "-p", "the house", "-n", 2, "-c", 64)
    assert done.code == 0, done.err
