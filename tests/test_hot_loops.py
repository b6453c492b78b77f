"""The gate on hot loops (scripts/hot_loops.py) on listings written here: what it must see, and what it must not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import hot_loops


def loop_of(*instructions: str, frame: bool = False) -> hot_loops.Loop:
    """The hot loop of a function: the instructions, then a jump back to the first of them."""
    text = ["mov    %rsp,%rbp"] if frame else ["xor    %eax,%eax"]
    text += [*instructions, "jne    401"]
    body = [(0x400 + i, line) for i, line in enumerate(text)] + [(0x500, "ret")]
    (loop,) = hot_loops.hot_loops_of("f", body)
    return loop


def test_products_are_counted_by_width():
    loop = loop_of("vpdpbusd %zmm1,%zmm2,%zmm3", "{vex} vpdpbusd %ymm1,%ymm2,%ymm3", "vfmadd231ss %xmm1,%xmm2,%xmm3")
    assert loop.products == {"vpdpbusd zmm": 1, "vpdpbusd ymm": 1}
    assert not loop.stack and not loop.copies


def test_vectors_on_the_stack_are_seen_and_numbers_are_not():
    spilled = "vmovdqa %ymm1,0x20(%rsp)"
    added = "vpaddd -0x40(%rbp),%ymm1,%ymm1"
    product = "vpmaddwd %ymm1,%ymm2,%ymm3"
    assert loop_of(product, spilled, "mov    %rax,0x8(%rsp)", "vmovdqu (%rsi),%ymm1").stack == [spilled]
    assert loop_of(product, added, frame=True).stack == [added]
    assert loop_of(product, added).stack == []  # rbp is a register like others


def test_copies_are_seen_and_loads_are_not():
    copy = "vmovdqa64 %zmm1,%zmm2"
    loop = loop_of("vfmadd231ps %zmm1,%zmm2,%zmm3", copy, "vmovdqu64 (%rax),%zmm4", "vmovups %zmm4,(%rax)")
    assert loop.copies == [copy]


def test_only_the_innermost_loop_counts():
    body = [
        (0x400, "vmovdqa %ymm1,0x20(%rsp)"),
        (0x401, "vpmaddwd %ymm1,%ymm2,%ymm3"),
        (0x402, "jne    401"),
        (0x403, "jne    400"),
    ]
    (loop,) = hot_loops.hot_loops_of("f", body)
    assert len(loop.instructions) == 2 and not loop.stack


def test_every_exception_says_why():
    for (isa, family), (stack, copies, why) in hot_loops.LIMITS.items():
        assert isa in hot_loops.EXPECTED and family in hot_loops.TILES
        assert stack or copies
        assert why


def judged(monkeypatch, name: str, *instructions: str) -> list[str]:
    body = [(0x400 + i, line) for i, line in enumerate([*instructions, "jne    400"])] + [(0x500, "ret")]
    monkeypatch.setattr(hot_loops, "EXPECTED", {"avx512_vnni": ("vpdpbusd zmm", None)})
    monkeypatch.setattr(hot_loops, "hot_loops", lambda _: {"avx512_vnni": hot_loops.hot_loops_of(name, body)})
    monkeypatch.setattr(hot_loops, "LIMITS", {("avx512_vnni", "int8_row_tile"): (25, 0, "for the test")})
    return hot_loops.judge(Path("no library is read"))[0]


def test_judging_names_what_is_wrong(monkeypatch):
    products, spill = ["vpdpbusd %zmm1,%zmm2,%zmm3"] * 4, "vmovdqa64 %zmm1,0x40(%rsp)"
    assert judged(monkeypatch, "int8_tile", *products) == []
    (wrong,) = judged(monkeypatch, "int8_tile", *products, spill)
    assert "int8_tile" in wrong and "on the stack 1 times" in wrong
    assert judged(monkeypatch, "int8_row_tile", *products, spill) == []  # within its exception
    (wrong,) = judged(monkeypatch, "int8_tile", *["vpmaddubsw %zmm1,%zmm2,%zmm3"] * 4)
    assert "has no vpdpbusd zmm" in wrong
    (wrong,) = judged(monkeypatch, "attention", *products)
    assert "no loop with products was found" in wrong
