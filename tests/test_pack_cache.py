"""--pack-cache: the same answers from mapped panels; a cache that does not fit is replaced with one sentence."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import GOLDEN, lowbit

RUN = ["--raw", "-p", "Once upon a time", "-n", 8, "--temp", 0, "-v"]


@pytest.fixture
def tiny(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    shutil.copy(GOLDEN / "llama-llama3/model.gguf", path)
    return path


def cache_of(model: Path) -> Path:
    (path,) = model.parent.glob(f"{model.name}.p16x4-v*.pack")
    return path


def answer(model: Path, *arguments) -> tuple[str, str]:
    done = lowbit("run", "-m", model, *RUN, *arguments)
    assert done.code == 0, done.err
    return done.out, done.err


def test_the_same_answer_with_and_without(tiny):
    plain, _ = answer(tiny)
    written, said = answer(tiny, "--pack-cache")
    assert "written" in said and written == plain
    mapped, said = answer(tiny, "--pack-cache")
    assert "mapped and checked" in said and mapped == plain
    for isa in [isa["name"] for isa in lowbit("kernels", "--json").json["isa"] if isa["available"] and not isa["approx"]]:
        done = lowbit("run", "-m", tiny, *RUN, "--pack-cache", env={"LOWBIT_ISA": isa})
        assert done.code == 0 and done.out == plain and "mapped and checked" in done.err, done.err


def test_the_same_logits(model, short_text, tmp_path):
    copy = tmp_path / "model.gguf"
    copy.symlink_to(model)
    rows = []
    for arguments in [[], ["--pack-cache"], ["--pack-cache"]]:
        done = lowbit("eval", "-m", copy, "--text", short_text, "--windows", 1, "--json", *arguments)
        rows.append(done.json)
    assert rows[0] == rows[1] == rows[2]
    assert cache_of(copy).stat().st_size > 0


def test_a_model_that_changed(tiny):
    answer(tiny, "--pack-cache")
    time = tiny.stat().st_mtime_ns
    data = bytearray(tiny.read_bytes())
    data[-5000] ^= 1  # in a tensor
    tiny.write_bytes(data)
    os.utime(tiny, ns=(time, time))
    plain, _ = answer(tiny)
    text, said = answer(tiny, "--pack-cache")
    assert "other weights" in said and "written" in said and text == plain
    text, said = answer(tiny, "--pack-cache")
    assert "mapped and checked" in said and text == plain


def test_another_recipe_for_the_weights(tiny):
    answer(tiny, "--pack-cache")
    plain, _ = answer(tiny, "--recipe", "w=int8.channel")
    text, said = answer(tiny, "--recipe", "w=int8.channel", "--pack-cache")
    assert "another recipe" in said and text == plain
    text, said = answer(tiny, "--recipe", "w=int8.channel", "--pack-cache")
    assert "mapped and checked" in said and text == plain


@pytest.mark.parametrize("at", [0, 9, 20, 100, 300, -100])
def test_a_damaged_cache(tiny, at):
    plain, _ = answer(tiny, "--pack-cache")
    cache = cache_of(tiny)
    data = bytearray(cache.read_bytes())
    data[at] ^= 0x10
    cache.write_bytes(data)
    text, said = answer(tiny, "--pack-cache")
    assert "written anew" in said and text == plain
    text, said = answer(tiny, "--pack-cache")
    assert "mapped and checked" in said and text == plain


@pytest.mark.parametrize("n_bytes", [0, 40, 5000, -64])
def test_a_truncated_cache(tiny, n_bytes):
    plain, _ = answer(tiny, "--pack-cache")
    cache = cache_of(tiny)
    cache.write_bytes(cache.read_bytes()[:n_bytes])
    text, said = answer(tiny, "--pack-cache")
    assert "written anew" in said and text == plain


def test_several_at_once(tiny):
    plain, _ = answer(tiny)
    with ThreadPoolExecutor(4) as pool:
        for text, said in pool.map(lambda _: answer(tiny, "--pack-cache"), range(12)):
            assert text == plain and ("written" in said or "mapped and checked" in said), said
    assert sorted(path.name for path in tiny.parent.iterdir()) == [tiny.name, cache_of(tiny).name]  # no temporaries
    text, said = answer(tiny, "--pack-cache")
    assert "mapped and checked" in said and text == plain


def test_where_it_cannot_be_written(tiny):
    plain, _ = answer(tiny, "--pack-cache")
    cache = cache_of(tiny)
    cache.unlink()
    cache.mkdir()
    text, said = answer(tiny, "--pack-cache")
    assert "no pack cache" in said and str(cache) in said and text == plain


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only(tiny):
    plain, _ = answer(tiny)
    tiny.parent.chmod(0o555)
    text, said = answer(tiny, "--pack-cache")
    tiny.parent.chmod(0o755)
    assert "no pack cache" in said and text == plain
