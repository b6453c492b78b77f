"""The scripts themselves: every gate of scripts/check can fail, and the teacher is made as described."""

import importlib.machinery
import importlib.util
import shutil
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import ROOT


def load(name: str):
    """A script without a suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def check(tmp_path, monkeypatch):
    """scripts/check on a repository of its own: one good file, one library made from what a test adds."""
    module = load("check")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    for folder in ("docs", "lowbit/kernels", "lowbit/io", "build"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "docs/design.md", tmp_path / "docs")
    shutil.copy(ROOT / ".clang-format", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def add(name: str, text: str) -> None:
        path = tmp_path / "lowbit" / name
        path.write_text("// SPDX-License-Identifier: Apache-2.0\n" + text)
        subprocess.run(["git", "-C", tmp_path, "add", path], check=True)
        if path.suffix == ".cc":
            compiled = path.with_suffix(".cc.o")
            subprocess.run(["g++", "-std=c++20", "-O2", "-c", path, "-o", compiled, "-I", tmp_path], check=True)
            library = tmp_path / f"build/liblowbit_{path.parent.name}.a"
            subprocess.run(["ar", "rc", library, compiled], check=True)

    add("io/good.h", "int good();\n")
    add("kernels/good.cc", "#include <cmath>\nfloat root(float x) {\n  return std::sqrt(x) + std::floor(x);\n}\n")
    module.add = add
    return module


def test_the_good_tree_passes(check):
    for gate in ("format", "includes", "libm", "wide", "init"):
        check.GATES[gate]()


@pytest.mark.parametrize(
    "gate, name, text, word",
    [
        ("format", "kernels/a.cc", "int  f( ){return 1;}\n", "a.cc"),
        ("includes", "kernels/a.cc", '#include "lowbit/io/good.h"\n', "kernels/ includes io/"),
        ("includes", "io/a.cc", '#include "good.h"\n', "not written from lowbit/"),
        ("libm", "kernels/a.cc", "#include <cmath>\nfloat f(float x) { return std::exp(x); }\n", "expf"),
        (
            "wide",
            "kernels/avx2.cc",
            '#include <immintrin.h>\n#pragma GCC push_options\n#pragma GCC target("avx2")\n'
            "[[gnu::noinline]] inline float leak(const float* p) { return _mm256_cvtss_f32(_mm256_loadu_ps(p)); }\n"
            "float f(const float* p) { return leak(p) + leak(p + 1); }\n#pragma GCC pop_options\n",
            "leak",
        ),
        ("init", "kernels/a.cc", "#include <cstdlib>\nextern const int first = std::rand();\n", "before main"),
    ],
)
def test_every_gate_can_fail(check, gate, name, text, word):
    check.add(name, text)
    with pytest.raises(check.Broken, match=word):
        check.GATES[gate]()


def test_docs_gate_compares(check, tmp_path):
    binary = tmp_path / "build/lowbit"
    binary.write_text("#!/bin/sh\necho '| code | bits |'\n")
    binary.chmod(0o755)
    with pytest.raises(check.Broken):
        check.check_docs()
    (tmp_path / "docs/formats.md").write_text("| code | bits |\n")
    check.check_docs()


def test_the_table_of_folders_is_read():
    rules = load("check").folder_rules()
    assert rules["base"] == {"base"}
    assert rules["runtime"] == {"base", "formats", "backend", "model", "runtime"}
    assert rules["app"] >= {"io", "server", "compress"}


def test_the_noise_of_the_teacher_is_half_a_step():
    """On random blocks of each type: decoded weights lie on the computed grid, the dithered ones beside it."""
    module = load("reference-model")
    dice = np.random.default_rng(1)
    for kind, steps_of in module.STEPS.items():
        block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
        blocks = dice.integers(0, 256, (64, type_size), dtype=np.uint8)
        for at in {gguf.GGMLQuantizationType.Q6_K: [208], gguf.GGMLQuantizationType.Q4_K: [0, 2], gguf.GGMLQuantizationType.Q5_K: [0, 2],
                   gguf.GGMLQuantizationType.Q4_1: [0, 2], gguf.GGMLQuantizationType.Q5_1: [0, 2]}.get(kind, [0]):  # fmt: skip
            blocks[:, at : at + 2] = np.float16([0.25]).view(np.uint8)  # exact products: the grid shows itself
        weights = gguf.quants.dequantize(blocks, kind).reshape(64, -1)
        steps = steps_of(blocks)
        groups, steps = weights.reshape(-1, block_size // steps.shape[1]), np.abs(steps.reshape(-1, 1))
        groups, steps = groups[steps[:, 0] > 0], steps[steps[:, 0] > 0]
        counts = (groups - groups[:, :1]) / steps
        assert np.array_equal(counts, np.rint(counts)), kind.name
        assert np.gcd.reduce(np.rint(counts).astype(int).ravel()) == 1, kind.name  # and no coarser grid holds them

        class Tensor:
            name, tensor_type, data = "blk.0.attn_q.weight", kind, blocks

        moved = module.dithered(Tensor).astype(np.float32).reshape(weights.shape) - weights
        moved = moved.reshape(-1, block_size // steps_of(blocks).shape[1])
        scale = np.abs(steps_of(blocks).reshape(-1, 1))
        rounding = np.abs(weights).max() * 2.0**-10
        assert np.all(np.abs(moved) <= scale / 2 + rounding), kind.name
        assert np.abs(moved).max() > scale.max() / 4, kind.name


def test_novels_are_read_from_an_r_database(tmp_path):
    """A database made here: a record is its length, then zlib over an XDR vector of strings."""
    import struct
    import sys
    import zlib

    sys.path.insert(0, str(ROOT / "scripts"))
    import extract_texts

    def vector(lines):
        packed = b"X\n" + struct.pack(">3i", 3, 0x40201, 0x30500) + struct.pack(">i", 5) + b"UTF-8"
        packed += struct.pack(">2i", 16, len(lines))
        return packed + b"".join(struct.pack(">2i", 0x40009, len(x.encode())) + x.encode() for x in lines)

    folder = tmp_path / "usr/lib/R/site-library/janeaustenr/data"
    folder.mkdir(parents=True)
    stories = [["NORTHANGER ABBEY", "", "No one"], ["Emma", "Émma — Woodhouse"]]
    records = [struct.pack(">I", len(vector(s))) + zlib.compress(vector(s)) for s in stories]
    (folder / "Rdata.rdb").write_bytes(b"".join(records))
    assert extract_texts.novels(tmp_path) == {
        "northanger_abbey.txt": "NORTHANGER ABBEY\n\nNo one\n",
        "emma.txt": "Emma\nÉmma — Woodhouse\n",
    }
