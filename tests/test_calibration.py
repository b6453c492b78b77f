"""Calibrated quantization from the command line: the same bits after kill -9, what is refused, what is left behind."""

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BINARY, GOLDEN, GOLDEN_NAMES, lowbit, refused

MODEL = GOLDEN / GOLDEN_NAMES[0]
RECIPE = ("--recipe", "rtn:int4.g16", "--no-self-test")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Some 40,000 words in a fixed disorder."""
    path = tmp_path_factory.mktemp("calibration") / "text.txt"
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "fünf", "dogs", "run(x);", "42"]
    path.write_text(" ".join(words[(i * i + i // 7) % len(words)] for i in range(40_000)), encoding="utf-8")
    return path


def contents(path: Path) -> dict[str, bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


def quantize(output: Path, text: Path, *more) -> list[str]:
    return ["quantize", "-m", str(MODEL), *RECIPE, "--calibration", str(text), "-o", f"{output}", *map(str, more)]


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "model"
    done = lowbit(*quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32))
    assert done.code == 0, done.err
    assert [file.name for file in output.parent.iterdir()] == ["model"]
    return contents(output)


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(text, tmp_path, whole):
    output = tmp_path / "model"
    command = [BINARY, *quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32, "--json", "-t", 1)]
    manifest = tmp_path / "model.work/manifest.json"
    resumed = 0
    for wanted in (1, 2):  # killed once after each of the first blocks
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if manifest.exists() and json.loads(manifest.read_text())["finished"] >= wanted:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
        assert [file.name for file in tmp_path.iterdir()] == ["model.work"]
    done = lowbit(*command[1:])
    resumed = done.json["calibration"]["resumed_blocks"]
    assert resumed >= 2
    assert contents(output) == whole
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_threads_do_not_change_the_bits(text, tmp_path, whole):
    for threads in (1, 3):
        output = tmp_path / f"m{threads}"
        done = lowbit(*quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32, "-t", threads))
        assert done.code == 0, done.err
        assert contents(output) == whole


@pytest.mark.parametrize("recipe", ["rtn:int4.g16", "gptq:int4.g16"])
def test_instruction_sets_do_not_change_the_bits(recipe, text, tmp_path):
    """Statistics and the Hessian have defined sums: what is rounded on them is the same on every CPU."""
    sets = [row["name"] for row in lowbit("kernels", "--json").json["isa"] if row["available"] and not row["approx"]]
    assert "scalar" in sets
    outputs = []
    for isa in sets:
        output = tmp_path / isa
        command = quantize(output, text, "--calibration-windows", 40, "--calibration-ctx", 32)
        command[command.index("rtn:int4.g16")] = recipe
        done = lowbit(*command, env={"LOWBIT_ISA": isa})
        assert done.code == 0, done.err
        outputs.append(contents(output))
    assert all(each == outputs[0] for each in outputs)


def test_another_request_starts_anew(text, tmp_path):
    output = tmp_path / "model"
    settings = ("--calibration-windows", 200, "--calibration-ctx", 32)
    process = subprocess.Popen([BINARY, *quantize(output, text, *settings)], stderr=subprocess.DEVNULL)
    manifest = tmp_path / "model.work/manifest.json"
    while process.poll() is None and not manifest.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = lowbit(*quantize(output, text, "--rule", "*down_proj*=int8.g16", *settings, "--json"))
    assert done.json["calibration"]["resumed_blocks"] == 0
    assert not (tmp_path / "model.work").exists()


def test_a_text_changes_what_is_rounded(text, tmp_path, whole):
    output = tmp_path / "plain"
    assert lowbit("quantize", "-m", MODEL, *RECIPE, "-o", output).code == 0
    assert contents(output) != whole


def test_a_folder_has_its_work_beside_it(text, tmp_path):
    done = lowbit(*quantize(f"{tmp_path}/model/", text, "--calibration-windows", 8, "--calibration-ctx", 32))
    assert done.code == 0, done.err
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "bytes_, words",
    [
        (b"", ["empty"]),
        (b"two words", ["has", "tokens, one window needs 32"]),
        (b"\x7fELF\x00\x01" * 1000, ["zero byte at byte 4"]),
        (b"caf\xe9 " * 1000, ["no UTF-8 text from byte 3"]),
    ],
)
def test_a_bad_text_is_refused(bytes_, words, tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(bytes_)
    refused(lowbit(*quantize(tmp_path / "out", text, "--calibration-ctx", 512)), str(text), *words)
    assert [file.name for file in tmp_path.iterdir()] == ["text.txt"]


def test_a_missing_text_is_refused(tmp_path):
    refused(lowbit(*quantize(tmp_path / "out", tmp_path / "no.txt")), "no.txt")
    refused(lowbit(*quantize(tmp_path / "out", tmp_path)), "is not a file")
    assert not list(tmp_path.iterdir())


def test_a_budget_that_is_too_small_says_what_is_enough(text, tmp_path):
    done = lowbit(*quantize(tmp_path / "out", text, "--memory", "1MiB"))
    refused(done, "use --memory ")
    least = done.err.split("--memory ")[1].split()[0]
    assert lowbit(*quantize(tmp_path / "out", text, "--memory", least)).code == 0
    refused(lowbit(*quantize(tmp_path / "out", text, "--memory", "much")), "2GiB", code=2)


def test_slices_of_a_matrix_round_to_the_same_bits(tmp_path):
    outputs = []
    for memory in ("2GiB", "4kB"):
        output = tmp_path / f"m{memory}"
        done = lowbit("quantize", "-m", MODEL, *RECIPE, "--memory", memory, "-o", output)
        assert done.code == 0, done.err
        outputs.append(contents(output))
    assert outputs[0] and outputs[0] == outputs[1]


def test_a_folder_of_someone_else_is_left_alone(text, tmp_path):
    work = tmp_path / "out.work"
    work.mkdir()
    (work / "thesis.tex").write_text("...")
    refused(lowbit(*quantize(tmp_path / "out", text)), "thesis.tex")
    assert (work / "thesis.tex").exists()


def test_a_full_disk_is_said_and_the_run_goes_on_later(text, tmp_path, whole):
    output = tmp_path / "model"
    command = quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32, "--json")

    def small_files():  # writes beyond fail as on a full disk, with another reason
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run([BINARY, *command], capture_output=True, text=True, preexec_fn=small_files)
    assert done.returncode == 1 and "cannot write" in done.stderr and "model.work/" in done.stderr, done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["model.work"]
    assert lowbit(*command).code == 0
    assert contents(output) == whole


def test_interrupted_runs_say_so(text, tmp_path):
    output = tmp_path / "model"
    process = subprocess.Popen(
        [BINARY, *quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32, "-t", 1)],
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    while process.poll() is None and not (tmp_path / "model.work/manifest.json").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGINT), err
    assert b"interrupted" in err
    assert lowbit(*quantize(output, text, "--calibration-windows", 600, "--calibration-ctx", 32, "--json")).json["calibration"]["resumed_blocks"] >= 1
