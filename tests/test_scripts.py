"""The scripts themselves: every gate of scripts/check can fail, and the teacher is made as described."""

import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import CACHE, GOLDEN, ROOT, lowbit

sys.path.insert(0, str(ROOT / "scripts"))  # where scripts find their modules


def load(name: str):
    """A script without a suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def write_program(path: Path, command: str) -> None:
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


@pytest.fixture
def check(tmp_path, monkeypatch):
    """scripts/check on a repository of its own: one good file, one library made from what a test adds."""
    module = load("check")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "BUILD", tmp_path / "build")
    monkeypatch.setattr(module, "bring_up_to_date", lambda build, targets: None)  # `add` below compiles
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
    write_program(binary, "echo '| code | bits |'")
    with pytest.raises(check.Broken):
        check.check_docs()
    (tmp_path / "docs/formats.md").write_text("| code | bits |\n")
    check.check_docs()


def test_docs_gate_builds_first(check, tmp_path, monkeypatch):
    """A program of older sources prints what the page says; those of now print more."""
    binary = tmp_path / "build/lowbit"
    write_program(binary, "echo old")
    (tmp_path / "docs/formats.md").write_text("old\n")
    built = []

    def build(folder: Path, targets: list[str]) -> None:
        built.append((folder, targets))
        write_program(binary, "echo new")

    monkeypatch.setattr(check, "bring_up_to_date", build)
    with pytest.raises(check.Broken, match="not what this build prints"):
        check.check_docs()
    assert built == [(tmp_path / "build", ["lowbit"])]


def test_what_cannot_be_built_says_why(tmp_path, monkeypatch, capfd):
    check = load("check")
    write_program(tmp_path / "cmake", 'echo "-- GLOB mismatch!" >&2; echo "a.cc:1: error: no"; exit ${STATUS:-0}')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    check.bring_up_to_date(tmp_path / "release", ["lowbit"])
    assert capfd.readouterr() == ("", "check: bringing build/release up to date (minutes where sources changed)\n")
    check.bring_up_to_date(tmp_path / "release", ["lowbit"])
    assert capfd.readouterr() == ("", "")  # said once
    monkeypatch.setenv("STATUS", "1")
    with pytest.raises(check.Broken, match="cannot be brought up to date\n  a.cc:1: error: no\n  -> cmake --preset release"):
        check.bring_up_to_date(tmp_path / "release", ["lowbit"])


def test_the_table_of_folders_is_read():
    rules = load("check").folder_rules()
    assert rules["base"] == {"base"}
    assert rules["runtime"] == {"base", "formats", "kernels", "backend", "model", "runtime"}
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


@pytest.mark.parametrize("name, more_in_each_group", [("qwen2", False), ("qwen2", True), ("llama-linear", False)])
def test_a_wide_model_says_the_same(name, more_in_each_group, tmp_path, monkeypatch, short_text):
    """Zero channels, zero heads (whole groups, or more in each), zero neurons: rows of 256 and the same logits."""
    import wide_model

    narrow, wide = GOLDEN / name / "model.gguf", tmp_path / "wide.gguf"
    if more_in_each_group:
        monkeypatch.setattr(wide_model, "widened", lambda old: wide_model.Shape(256, 256, 2, 8, 16))
    load("reference-model").write_wide(narrow, wide)
    for tensor in gguf.GGUFReader(wide).tensors:
        if len(tensor.shape) == 2:
            assert tensor.shape[0] % 256 == 0, tensor.name
    command = ["--reference", narrow, "--text", short_text, "-c", 32, "--recipe", "a=f32,kv=f32", "--json"]
    report = lowbit("eval", "-m", wide, *command).json
    assert 0 <= report["kld_max"] < 1e-9  # logits off by 1e-5 cost half its square
    assert report["rms_delta_p"] < 1e-5


def test_shapes_of_the_models_that_are_measured():
    import wide_model

    assert wide_model.widened(wide_model.Shape(576, 1536, 3, 3, 64)) == wide_model.Shape(768, 1536, 4, 3, 64)
    assert wide_model.widened(wide_model.Shape(896, 4864, 2, 7, 64)) == wide_model.Shape(1024, 4864, 2, 8, 64)


def test_novels_are_read_from_an_r_database(tmp_path):
    """A database made here: a record is its length, then zlib over an XDR vector of strings."""
    import struct
    import zlib

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


def bars_of(svg: str) -> list[xml.Element]:
    space = "{http://www.w3.org/2000/svg}"
    return [rect for rect in xml.fromstring(svg).iter(space + "rect") if rect.get("class") in ("bar", "void")]


def test_the_chart_draws_ratios():
    import ratio_chart

    def bar(label, ratio, counts=True):
        return {"label": label, "ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1, "counts": counts}

    svg = ratio_chart.chart("a <model> & more", [bar("q4_0 <decode>", 2.0), bar("q8_0", 6.0), bar("q4_k", 0.5, counts=False)])
    widths = [float(rect.get("width")) for rect in bars_of(svg)]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.01) and widths[2] / widths[0] == pytest.approx(0.25, rel=0.01)
    assert [rect.get("class") for rect in bars_of(svg)] == ["bar", "bar", "void"]
    assert "does not count" in svg and "prefers-color-scheme: dark" in svg
    assert "does not count" not in ratio_chart.chart("", [bar("q4_0", 2.0)])


def test_a_comparison_is_made_of_rows_of_one_process():
    module = load("compare")
    args = module.argparse.Namespace(prompts=[512, 2048], generate=64, depths=[0, 2048], batches=[1, 8], kv=["f16", "int8"])
    tasks = [[str(row) for row in task] for task in module.tasks_of(args)]
    assert tasks == [
        ["prefill 512", "prefill 2048", "decode 64"],
        ["prefill 512 at depth 2048, KV f16", "decode 64 at depth 2048, KV f16"],
        ["prefill 512 at depth 2048, KV int8", "decode 64 at depth 2048, KV int8"],
        ["decode 64, batch 8"],
    ]


def test_the_peer_runs_each_row_in_its_best_setting():
    from comparison import Measured, Peer, Row, Setting

    prompt, token = Row("prefill", 512, 2048, 1, "f16"), Row("decode", 64, 2048, 1, "f16")
    asked = []

    class Fake(Peer):
        def run(self, model, rows, setting, repetitions):
            asked.append((setting, rows))
            best = {prompt: Setting(2, "off"), token: Setting(1, "auto")}
            return Measured({row: 2.0 if setting == best[row] else 1.0 for row in rows}, {}, 0.0)

    peer = Fake(Path())
    best = peer.best_settings(Path(), [prompt, token], 2)
    assert best == {prompt: Setting(2, "off"), token: Setting(1, "auto")}
    assert {str(setting) for setting, _ in asked} == {"2 threads", "2 threads, -fa on", "2 threads, -fa off", "1 thread"}
    asked.clear()
    assert peer.run_best(Path(), best, 2).speed == {prompt: 2.0, token: 2.0}
    assert asked == [(Setting(2, "off"), [prompt]), (Setting(1, "auto"), [token])]


def test_a_ratio_of_worse_activations_does_not_count():
    import comparison

    found = {"lowbit": 0.0030, "lowbit_stderr": 0.0001, "peer": 0.0029, "peer_stderr": 0.0001}
    assert comparison.is_no_worse(found)  # within the noise
    assert not comparison.is_no_worse(found | {"lowbit": 0.0033})
    assert comparison.is_no_worse(found | {"lowbit": 0.0001})


def test_figures_of_the_roof_are_kept_and_resumed(tmp_path, monkeypatch, capsys):
    figures, measured = load("figures"), []
    roof = figures.roof_figures
    (tmp_path / "lowbit").touch()
    monkeypatch.setattr(figures, "LOWBIT", tmp_path / "lowbit")
    monkeypatch.setattr(roof, "FOLDER", tmp_path / "figures")

    def part(name, broken=False):
        def measure(model):
            measured.append(name)
            if broken:
                raise figures.Failed("exit 3")
            return roof.Part([f"`{name} of {model}`"], [roof.Reached(f"speed of {name}", 0.9, 0.95)], f"all of {name}")

        return measure

    monkeypatch.setattr(roof, "PARTS", {"a": part("a"), "b": part("b", broken=True), "c": part("c")})
    run = lambda **more: figures.figures_of(["a", "b", "c"], "m.gguf", **{"resume": False, "report": False} | more)  # noqa: E731
    first = run()
    assert "b failed: exit 3" in capsys.readouterr().err
    assert "| speed of a | >= 90 % | 95 % | met |" in first and "`c of m.gguf`" in first and "all of c" in first
    assert "speed of b" not in first
    monkeypatch.setattr(roof, "PARTS", {"a": part("a"), "b": part("b"), "c": part("c")})
    assert run(report=True) == first  # measures nothing, tells the same
    assert "speed of b" in run(resume=True)
    assert measured == ["a", "b", "c", "b"]
    (tmp_path / "lowbit").write_text("another build")
    figures.os.utime(tmp_path / "lowbit", (1, 1))
    run(resume=True)
    assert measured == ["a", "b", "c", "b", "a", "b", "c"]


def test_targets_are_met_missed_or_disturbed():
    from roof_figures import Reached

    assert Reached("w", 1.9, 2.0, "x", note=" (1.9-2.1)").line() == "| w | >= 1.90 x | 2.00 x (1.9-2.1) | met |"
    assert Reached("w", 0.5, 0.6, "x", at_most=True).line() == "| w | <= 0.50 x | 0.60 x | **missed** |"
    assert Reached("w", 0.5, 0.4, at_most=True).line().endswith("| met |")
    assert Reached("w", 0.9, 1.4).line().endswith("| disturbed |")
    assert Reached("w", 0.9, None).line().endswith("| not measured here | |")


def test_every_target_of_a_comparison_finds_its_row(tmp_path, monkeypatch):
    """What the parts ask of scripts/compare and what they look up in its answer fit together."""
    import roof_figures as roof

    compare = load("compare")
    monkeypatch.setattr(roof, "FOLDER", tmp_path)

    speeds = {"tokens_per_second_min": 1.0, "tokens_per_second_max": 99.0, "of_roof": 0.5}
    busy = {"engine": "lowbit", "phase": "decode", "tokens": 64, "quiet": 2.0, "busy": 1.0, "share": 0.5, "share_min": 0.4, "share_max": 0.6}
    start = {
        "file_in": "disk", "way": "lowbit", "seconds": 1.0, "least": 1.0, "most": 1.0,
        "over_peer": 0.25, "ratio_min": 0.2, "ratio_max": 0.3,
    }  # fmt: skip
    speed = {
        "lowbit": 4.0, "peer": 2.0, "peer_setting": "auto", "ratio": 2.0, "ratio_min": 1.9, "ratio_max": 2.1,
        "of_roof": 0.5, "foreign_load": 0.0, "counts": True,
    }  # fmt: skip

    def answer(program, *arguments):
        if program == roof.LOWBIT:
            return {"rows": [speeds | {"batch": batch, "tokens_per_second": batch * 10.0} for batch in (1, 8)]}
        if program.name == "cold_start.py":
            return {"rows": [start]}
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        args = compare.parsed()
        if args.busy:
            return {"rows": [busy]}
        rows = [row for task in compare.tasks_of(args) for row in task]
        return {"rows": [row._asdict() | speed | {"scheme": args.scheme[0]} for row in rows], "divergence": {}}

    monkeypatch.setattr(roof, "run", answer)
    model = tmp_path / "m.gguf"
    model.touch()
    for name, part in roof.PARTS.items():
        if name not in ("kernels", "formats"):
            found = part(model)
            assert found.reached and found.commands and found.details, name
            for reached in found.reached:
                assert reached.value in (0.25, 0.5, 1.0, 2.0, 8.0), reached


@pytest.mark.skipif(not (CACHE / "peer/bin/llama-batched-bench").exists(), reason="the peer is not built: scripts/peer")
def test_compare_runs_beside_the_peer(tmp_path):
    chart = tmp_path / "chart.svg"
    command = [ROOT / "scripts/compare", "--shape", "tiny", "--scheme", "q4_0,q4_k", "--quick", "--no-divergence", "--json", "--svg", chart]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["scheme"], row["phase"], row["depth"], row["batch"]) for row in rows[:7]] == [
        ("q4_0", "prefill", 0, 1), ("q4_0", "decode", 0, 1), ("q4_0", "prefill", 64, 1), ("q4_0", "decode", 64, 1),
        ("q4_0", "prefill", 64, 1), ("q4_0", "decode", 64, 1), ("q4_0", "decode", 0, 2),
    ]  # fmt: skip
    assert len(rows) == 14
    for row in rows:
        assert row["lowbit"] > 0 and row["peer"] > 0 and row["of_roof"] > 0 and row["pairs"] == 1
        assert row["ratio"] == pytest.approx(row["lowbit"] / row["peer"])
    assert len(bars_of(chart.read_text())) == 14


@pytest.mark.parametrize(
    "arguments, word",
    [(["-m", "no/such.gguf"], "no/such.gguf"), (["--kv", "int3"], "int3"), (["--pairs", "0"], "at least 1"), (["-p", "x"], "-p")],
)
def test_compare_refuses(arguments, word):
    done = subprocess.run([ROOT / "scripts/compare", *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and word in done.stderr


def points_of(family: str, *sizes_and_divergences) -> list[dict]:
    return [
        {"family": family, "label": f"{family}{i}", "bits_per_weight": bits, "kld_mean": kld, "kld_stderr": kld / 50, "front": front}
        for i, (bits, kld, front) in enumerate(sizes_and_divergences)
    ]


def test_the_peer_is_read_off_at_equal_size():
    """Its best point within 1 %, else log-linear between the neighbours on its front, else nothing."""
    import quality

    peers = points_of("llama.cpp", (3.0, 0.4, True), (4.0, 0.1, True), (4.02, 0.12, False), (5.0, 0.025, True))
    assert quality.peer_at(peers, 4.03) == {"kld": 0.1, "how": "llama.cpp1 at 4.000"}
    between = quality.peer_at(peers, 3.5)
    assert between["kld"] == pytest.approx(0.2) and between["how"] == "between llama.cpp0 and llama.cpp1"
    assert quality.peer_at(peers, 2.5) is None and quality.peer_at(peers, 6) is None
    ours = points_of("ours", (3.1, 0.2, True), (4.6, 0.02, True), (5.4, 0.01, True), (3.02, 0.5, False))
    lines = quality.at_targets(peers + ours)
    assert [(line["target"], line["label"]) for line in lines] == [(3, "ours0"), (4.5, "ours1")]
    assert lines[0]["below"] == pytest.approx(1 - 0.2 / (0.4**0.9 * 0.1**0.1))


def test_a_file_with_a_fallback_is_no_point(tmp_path, monkeypatch):
    import quality

    monkeypatch.setattr(quality, "FOLDER", tmp_path)
    source, matrix = Path("model.gguf"), Path("model-12345678.imatrix.gguf")
    path = tmp_path / "model-12345678-Q4_K_M.gguf"
    path.write_text("made before")
    log = path.with_suffix(".log")
    log.write_text("[ 1/ 2] a - [ 256, 1], type = f16, converting to q4_K .. size = 1 MiB\n")
    assert quality.peer_file(None, source, matrix, "Q4_K_M") == path
    log.write_text("tensor cols 576 x 576 are not divisible by 256 - using fallback quantization q5_0\n")
    assert quality.peer_file(None, source, matrix, "Q4_K_M") is None
