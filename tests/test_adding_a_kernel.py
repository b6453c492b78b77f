"""docs/adding-a-kernel.md stays true: its skeleton of an instruction set is compiled as it stands there and put in
the place of avx2 in the unit tests of products, which compare every set with the scalar reference, bit by bit."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, ROOT

PAGE = ROOT / "docs/adding-a-kernel.md"
BUILD = BINARY.parent
TEST_OBJECTS = BUILD / "CMakeFiles/kernels_test.dir/lowbit/kernels"


def blocks() -> dict[str, str]:
    """{file name: text} of the C++ blocks; the second line of each names its file."""
    found = re.findall(r"^```cpp\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {re.match(r"//.*\n// (\w+\.\w+): ", text)[1]: text for text in found}


def compile_flags() -> list[str]:
    """Those of avx2.cc in the release build."""
    (entry,) = [e for e in json.loads((BUILD / "compile_commands.json").read_text()) if e["file"].endswith("kernels/avx2.cc")]
    words = entry["command"].split()
    return [word for word in words if word.startswith(("-O", "-D", "-W", "-f", "-std"))]


def has_avx2() -> bool:
    known = json.loads(subprocess.run([BINARY, "kernels", "--json"], check=True, capture_output=True, text=True).stdout)
    return any(isa["name"] == "avx2" and isa["available"] for isa in known["isa"])


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    if not has_avx2():
        pytest.skip("this CPU lacks AVX2, which the skeleton is for")
    folder = tmp_path_factory.mktemp("skeleton")
    kernels = folder / "lowbit/kernels"
    kernels.mkdir(parents=True)
    assert set(blocks()) == {"dot_skeleton.h", "skeleton.cc"}
    for name, text in blocks().items():
        (kernels / name).write_text(text)
    # Its rows of the two lists (steps 1 and 4) are those of avx2.
    as_avx2 = ["-Dskeleton=avx2", "-Dskeleton_table=avx2_table"]
    include = [f"-I{folder}", f"-I{ROOT}"]
    built = folder / "skeleton.o"
    subprocess.run(["g++", *compile_flags(), *include, *as_avx2, "-c", kernels / "skeleton.cc", "-o", built], check=True)
    tests = [TEST_OBJECTS / f"{name}.cc.o" for name in ("matmul_test", "amx_int8_test")]
    libraries = [BUILD / f"liblowbit_{name}.a" for name in ("kernels", "formats", "base")]
    # The linker takes avx2_table from the first object that has it, so avx2.cc.o stays in its library.
    linked = folder / "skeleton_test"
    outside = ["-lgtest", "-lgtest_main", "-lfmt", "-lpthread"]
    subprocess.run(["g++", *tests, built, *libraries, *libraries, *outside, "-o", linked], check=True)
    return linked


def test_the_skeleton_has_the_bits_of_the_reference(program):
    symbols = subprocess.run(["nm", "-C", program], check=True, capture_output=True, text=True).stdout
    assert symbols.count("lowbit::avx2_table()") == 1
    done = subprocess.run([program, "--gtest_filter=*HasTheBitsOfTheReference*:Matmul.*", "--gtest_brief=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"PASSED\s*\]\s*(\d+)", done.stdout)[1]) > 100
