"""--target-bpw, --target-size and --max-kld of quantize: what is chosen, written and refused."""

import os

import pytest
from conftest import GOLDEN, lowbit, refused


@pytest.fixture
def model(tmp_path):
    """A small model of its own: sensitivities are kept beside it."""
    path = tmp_path / "model.gguf"
    path.write_bytes((GOLDEN / "llama-llama3" / "model.gguf").read_bytes())
    return path


def test_the_file_is_as_large_as_the_table_says(model, tmp_path):
    made = tmp_path / "made.gguf"
    arguments = ["quantize", "-m", model, "--target-bpw", "5.5", "--candidates", "q4_0,q5_0,q8_0", "-o", made, "--json"]
    planned = lowbit(*arguments, "--dry-run")
    assert planned.code == 0, planned.err
    assert not made.exists()
    table = planned.json
    assert table["bits_per_weight"] <= 5.5
    done = lowbit(*arguments, "--no-self-test")
    assert done.code == 0, done.err
    assert done.json["mix"] == table
    assert done.json["bits_per_weight"] == pytest.approx(table["bits_per_weight"])
    assert os.path.getsize(made) == table["bytes"]
    assert lowbit("eval", "-m", made, "--text", __file__, "-c", "16", "--windows", "2").code == 0


@pytest.mark.parametrize("method", ["hadamard+rtn", "hadamard-folded+rtn"])
def test_what_a_transform_adds_to_the_file_counts(method, model, tmp_path):
    """Norms become f32, and a matrix with a basis has a line of its own in the description."""
    made = tmp_path / "made"
    arguments = ["quantize", "-m", model, "--recipe", method, "--candidates", "int4.g32,int6.g32,int8.g32", "-o", f"{made}/", "--no-self-test", "--json"]
    size = lowbit(*arguments, "--target-bpw", "6", "--dry-run").json["bytes"]
    done = lowbit(*arguments, "--target-size", size)
    assert done.code == 0, done.err
    assert done.json["mix"]["bytes"] == done.json["bytes"] <= size


def test_a_second_target_measures_nothing(model, tmp_path):
    arguments = ["quantize", "-m", model, "--candidates", "int4.g32,int8.g32", "-o", f"{tmp_path}/made/", "--dry-run", "--json"]
    first = lowbit(*arguments, "--target-bpw", "6")
    assert first.code == 0, first.err
    kept = model.with_name("model.gguf.sensitivity.json")
    before = kept.read_bytes()
    second = lowbit(*arguments, "--target-bpw", "5.5")
    assert second.code == 0, second.err
    assert kept.read_bytes() == before
    again = lowbit(*arguments, "--target-bpw", "6")
    assert again.json == first.json


def test_a_broken_cache_is_measured_anew(model, tmp_path):
    model.with_name("model.gguf.sensitivity.json").write_text('{"format": "lowbit sensitivity 1", "entries": {"x": 3')
    done = lowbit("quantize", "-m", model, "--target-bpw", "6", "--candidates", "int4.g32,int8.g32", "-o", f"{tmp_path}/made/", "--dry-run")
    assert done.code == 0, done.err


def test_max_kld_holds(model, tmp_path):
    arguments = ["quantize", "-m", model, "--candidates", "int3.g32,int4.g32,int6.g32,int8.g32", "-o", f"{tmp_path}/made/"]
    limits = [1e-2, 1e-3]
    sizes = []
    for limit in limits:
        done = lowbit(*arguments, "--max-kld", limit, "--dry-run", "--json")
        assert done.code == 0, done.err
        assert done.json["measured_kld"] <= limit
        sizes.append(done.json["bytes"])
    assert sizes[0] < sizes[1]


def test_what_cannot_be_is_refused(model, tmp_path):
    start = ["quantize", "-m", model, "-o", f"{tmp_path}/made/"]
    refused(lowbit(*start, "--target-bpw", "1.5", "--candidates", "int4.g32"), "1.5 bits per weight cannot be reached", "bytes")
    refused(lowbit(*start, "--target-size", "1kB", "--candidates", "int4.g32"), "cannot be reached", "bits per weight")
    refused(lowbit(*start, "--target-bpw", "many"), "--target-bpw", "number of bits", code=2)
    refused(lowbit(*start, "--target-size", "90XB"), "--target-size", "90MB", code=2)
    refused(lowbit(*start, "--target-bpw", "4", "--target-size", "90MB"), "give one", code=2)
    refused(lowbit(*start, "--target-bpw", "4", "--recipe", "rtn:int4.g32"), "names a scheme", code=2)
    refused(lowbit(*start, "--target-bpw", "4", "--candidates", "int4.g32,nonsense"), "nonsense", code=2)
    refused(lowbit(*start, "--target-bpw", "4", "--estimator", "guess"), "guess", "probe", code=2)
    refused(lowbit(*start, "--max-kld", "0.1", "--estimator", "error"), "--max-kld", "probe", code=2)
    refused(lowbit(*start, "int4.g32", "--dry-run"), "--dry-run", code=2)
    refused(lowbit(*start, "--target-bpw", "5", "--calibration", tmp_path / "none.txt"), "none.txt")
    assert not (tmp_path / "made").exists()


def test_sensitivity_prints_every_group(model):
    done = lowbit("sensitivity", "-m", model, "--candidates", "int3.g32,int8.g32", "--estimator", "relative", "--estimator", "probe",
                  "--mixes", "3", "--bpw", "6", "--json")  # fmt: skip
    assert done.code == 0, done.err
    answer = done.json
    assert [each["name"] for each in answer["estimators"]] == ["relative", "probe"]
    assert len(answer["measured"]) == 3
    for each in answer["estimators"]:
        assert all(group["losses"][0] > group["losses"][1] for group in each["groups"])
