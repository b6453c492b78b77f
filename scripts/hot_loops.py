"""Hot loops in a library: the innermost loops that hold products, as objdump prints them, and what they may do.

A loop is a backward jump inside a function: everything between its target and the jump. It is hot when it
holds a product (of bytes, of words, an fma on vectors, a tile product) and no smaller loop with products
lies in it. What slows such a loop without any test of results noticing: a vector that goes through the
stack, or a vector copied from register to register. scripts/check runs judge() over every x86 set.

Held to the limits: the tiles of products of several tokens, in their loops that only multiply (no conversion
of int32 sums: where steps are short one loop holds products and the end of a step, and copies there cost
nothing between products). Held to the expected instruction alone: these and the one-token loops, which wait
for memory. Not held: attention, norms and activations.
"""

import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

PRODUCT = re.compile(
    r"vpdp(busd|wssd)s?|vpmaddubsw|vpmaddwd|vdpbf16ps|vf(n?)m(add|sub)\d+ps|tdp\w+"  # x86
)
COPY = re.compile(r"v?mov(dq|ap|up)[ausd]?(8|16|32|64)?\s+%([xyz]mm\d+),%([xyz]mm\d+)$")
VECTOR = re.compile(r"%[xyz]mm\d+")
JUMP = re.compile(r"j\w+\s+([0-9a-f]+)\b")
LINE = re.compile(r"\s*([0-9a-f]+):\t(.*)$")


# What the products of integers and of floats of a set must be; None: it has none of its own.
EXPECTED = {
    "avx2": ("vpmaddubsw ymm", "vfmadd231ps ymm"),
    "avx_vnni": ("vpdpbusd ymm", "vfmadd231ps ymm"),
    "avx512": ("vpmaddubsw zmm", "vfmadd231ps zmm"),
    "avx512_vnni": ("vpdpbusd zmm", "vfmadd231ps zmm"),
    "avx512_bf16": (None, "vdpbf16ps zmm"),
    "amx_int8": ("tdpbsud tmm", None),
}
TILES = {"int8_row_tile": 0, "int8_tile": 0, "int8_super_tile": 0, "f32_tile": 1, "gram_tile": 1, "amx_products_of": 0}
ONE_TOKEN = {"gemv_planes": 0}
LEAST_PRODUCTS = 4  # of a loop that is judged

# Exceptions to "no vector on the stack, no copy": at most so many of each per 100 products, and why. g++ 12.1 is
# what they were read from; a loop that needs less may lower its line, one that needs more has lost something.
LIMITS = {
    ("avx2", "int8_row_tile"): (20, 8, "int16 sums of 3 tokens, their codes and 6 int32 sums are more than 16 registers"),
    ("avx2", "int8_tile"): (10, 25, "the same for 2 tokens; the sums are copied on the way into the loop's last round"),
    ("avx2", "int8_super_tile"): (28, 50, "sums of a group and of a chunk both live: more than 16 registers"),
    ("avx_vnni", "int8_row_tile"): (0, 3, "12 int32 sums, 2 codes, 1 token and the f32 sums' address: two sums are swapped"),
    ("avx_vnni", "int8_tile"): (19, 38, "two-level sums of 6 tokens in f32 and int32: more than 16 registers"),
    ("avx_vnni", "int8_super_tile"): (242, 67, "groups of no tile's size (third argument 0) reload their sums at each of them"),
    ("avx512", "int8_row_tile"): (88, 25, "g++ reorders integer sums and keeps products on the stack; in one chain decode loses 5 %"),
    ("avx512", "int8_tile"): (75, 25, "as above"),
    ("avx512", "int8_super_tile"): (200, 63, "as above"),
    ("avx512_vnni", "int8_tile"): (0, 7, "4 tokens: the start of a step is broadcast once and copied for the second panel"),
    ("avx512_vnni", "int8_row_tile"): (0, 8, "24 sums, 2 codes and a token in 32 registers: 14 copies among 192 products"),
    ("avx512_vnni", "int8_super_tile"): (0, 44, "the group's sum starts from a constant that is copied; at most 19 among 48 products"),
}  # fmt: skip


@dataclass
class Loop:
    function: str  # mangled
    instructions: list[str]
    products: dict[str, int] = field(default_factory=dict)  # "vpdpbusd zmm": how often
    stack: list[str] = field(default_factory=list)  # vectors that go through the stack
    copies: list[str] = field(default_factory=list)  # vectors copied from register to register

    in_function: frozenset[str] = frozenset()  # all its products, in loops or not

    @property
    def n_products(self) -> int:
        return sum(self.products.values())


def functions(lines):
    """(mangled name, [(address, instruction)]) of every function in objdump's output."""
    name, body = "", []
    for line in lines:
        if line.endswith(">:\n"):
            if body:
                yield name, body
            name, body = line[line.index("<") + 1 : -3], []
        elif match := LINE.match(line):
            text = re.sub(r"\s*(<.*>)?\s*(#.*)?$", "", match[2])
            body.append((int(match[1], 16), text))
    if body:
        yield name, body


def product_of(instruction: str) -> str | None:
    """ "vpdpbusd zmm": the product and the widest register it works on; scalar fmas are none."""
    name = instruction.removeprefix("{vex} ").split()[0] if instruction else ""
    if not PRODUCT.fullmatch(name):
        return None
    widths = {width for width in ("zmm", "ymm", "xmm", "tmm") if "%" + width in instruction}
    for width in ("tmm", "zmm", "ymm", "xmm"):
        if width in widths:
            return f"{name} {width}"
    return None


def hot_loops_of(name: str, body: list[tuple[int, str]]) -> list[Loop]:
    index_at = {address: i for i, (address, _) in enumerate(body)}
    has_products = [product_of(text) is not None for _, text in body]
    spans = set()
    for last, (address, text) in enumerate(body):
        if (jump := JUMP.match(text)) and (first := index_at.get(int(jump[1], 16))) is not None and first <= last:
            if any(has_products[first : last + 1]):
                spans.add((first, last))
    # Several jumps back to one place (continue) are one loop: its longest span.
    longest = {}
    for first, last in spans:
        longest[first] = max(longest.get(first, last), last)
    spans = set(longest.items())
    innermost = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    # rbp is a pointer to the frame where the function says so, else a register like others.
    frame = r"%rsp|%rbp" if any(re.fullmatch(r"mov\s+%rsp,%rbp", text) for _, text in body[:12]) else r"%rsp"
    on_stack = re.compile(rf"\(({frame})[,)]")
    in_function = frozenset(product for _, text in body if (product := product_of(text)))
    loops = []
    for first, last in sorted(innermost):
        loop = Loop(name, [text for _, text in body[first : last + 1]], in_function=in_function)
        for text in loop.instructions:
            if product := product_of(text):
                loop.products[product] = loop.products.get(product, 0) + 1
            if on_stack.search(text) and VECTOR.search(text):
                loop.stack.append(text)
            if COPY.match(text):
                loop.copies.append(text)
        loops.append(loop)
    return loops


def family(demangled_name: str) -> str:
    """"int8_tile" of "void int8_tile<6, 2, ...>(Int8Tile const&)"."""
    return re.match(r"(?:void )?(\w*)", demangled_name)[1]


def hot_loops(library: Path) -> dict[str, list[Loop]]:
    """{instruction set: hot loops} of the objects <set>.cc.o that EXPECTED names."""
    command = ["objdump", "-d", "--no-show-raw-insn", "--wide", library]
    found = defaultdict(list)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dump:
        lines, member = [], ""
        for line in [*dump.stdout, "end: file format\n"]:
            if "file format" not in line:
                if member in EXPECTED:
                    lines.append(line)
                continue
            for name, body in functions(lines):
                found[member] += hot_loops_of(name, body)
            lines, member = [], line.split(":")[0].removesuffix(".cc.o")
    if dump.returncode != 0:
        raise subprocess.CalledProcessError(dump.returncode, command)
    return dict(found)


def is_judged(loop: Loop) -> bool:
    """Only multiplies, and is more than a remainder."""
    return loop.n_products >= LEAST_PRODUCTS and not any("vcvtdq2ps" in text for text in loop.instructions)


def judge(library: Path) -> tuple[list[str], int]:
    """(what is wrong, how many loops were judged)."""
    wrong, n_judged = [], 0
    loops_of = hot_loops(library)
    for isa, expected in EXPECTED.items():
        loops = loops_of.get(isa, [])
        names = demangled([loop.function for loop in loops])
        products = defaultdict(set)
        for loop, name in zip(loops, names):
            products[name] |= loop.in_function
            if family(name) not in TILES or not is_judged(loop):
                continue
            n_judged += 1
            most_stack, most_copies, _ = LIMITS.get((isa, family(name)), (0, 0, ""))
            for what, found, most in (("on the stack", loop.stack, most_stack), ("copied", loop.copies, most_copies)):
                if 100 * len(found) > most * loop.n_products:
                    wrong.append(f"{isa}: {name.split('(Int8')[0].split('(F32')[0]}: vectors {what} {len(found)} times "
                                 f"among {loop.n_products} products (limit {most} per 100): {found[0]}")  # fmt: skip
        for kind, product in enumerate(expected):
            wanted = [name for name in products if {**TILES, **ONE_TOKEN}.get(family(name)) == kind]
            if product and not wanted:
                wrong.append(f"{isa}: no loop with products was found where {product} was expected")
            wrong += [f"{isa}: {name} has no {product}" for name in wanted if product and product not in products[name]]
    return wrong, n_judged


def demangled(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [re.sub(r"lowbit::|\(anonymous namespace\)::", "", name) for name in done.stdout.splitlines()]
