"""Every command of the binary: what its --json object holds, against gguf and the golden models."""

import json
import platform
import signal
import subprocess
import time

import gguf
import numpy as np
import pytest
from conftest import BINARY, GOLDEN, GOLDEN_NAMES, lowbit, refused

ISAS = "scalar avx2 avx_vnni avx512 avx512_vnni avx512_bf16 amx_int8 amx_bf16 neon_dotprod neon_i8mm".split()
COMMANDS = "run inspect quantize convert eval bench formats kernels".split()


def test_help_lists_the_commands():
    done = lowbit("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert command in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples(command):
    done = lowbit(command, "--help")
    assert done.code == 0
    assert f"lowbit {command}" in done.out


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_inspect_agrees_with_gguf(name):
    path = GOLDEN / name / "model.gguf"
    about = lowbit("inspect", path, "--json").json
    reader = gguf.GGUFReader(path)
    assert about["architecture"] == reader.fields["general.architecture"].contents()
    assert about["parameters"] == sum(int(t.n_elements) for t in reader.tensors)
    assert about["file_bytes"] == path.stat().st_size
    assert {"bits_per_weight", "tensors", "metadata"} <= set(about)
    assert [t["name"] for t in about["tensors"]] == [t.name for t in reader.tensors]
    for ours, theirs in zip(about["tensors"], reader.tensors):
        assert ours["scheme"] == theirs.tensor_type.name.lower()
        assert ours["shape"] == [int(n) for n in reversed(theirs.shape)]
        assert ours["bytes"] == theirs.n_bytes


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_inspect_reads_a_folder(name):
    about = lowbit("inspect", GOLDEN / name, "--json").json
    config = json.loads((GOLDEN / name / "config.json").read_text())
    assert about["architecture"] == config["model_type"]
    weights = sum(path.stat().st_size for path in (GOLDEN / name).glob("*.safetensors"))
    assert sum(t["bytes"] for t in about["tensors"]) <= weights


def test_inspect_for_people(model):
    done = lowbit("inspect", model)
    assert done.code == 0
    assert "llama" in done.out and "q4_1" in done.out


def test_run_answers(model):
    answer = lowbit("run", "-m", model, "-p", "What is gravity?", "--temp", 0, "-n", 24, "--json").json
    assert "gravity is" in answer["text"].lower()
    assert 1 <= answer["generated_tokens"] <= 24
    assert answer["prompt_tokens"] > 10  # the chat template is around the question
    assert answer["ttft_ms"] > 0 and answer["tokens_per_second"] > 0
    assert answer["finish_reason"] in ("stop", "length")


def test_run_prints_the_same_text_without_json(model):
    command = ["run", "-m", model, "--raw", "-p", "Once upon a time", "--temp", 0, "-n", 16]
    assert lowbit(*command).out.strip() == lowbit(*command, "--json").json["text"].strip()


def test_run_reads_stdin(model):
    command = ["run", "-m", model, "--raw", "--temp", 0, "-n", 8, "--json"]
    piped = lowbit(*command, stdin="Once upon a time")
    assert piped.json["text"] == lowbit(*command, "-p", "Once upon a time").json["text"]


def test_run_is_a_function_of_its_seed(model):
    command = ["run", "-m", model, "-p", "Tell me a story.", "--temp", 1.2, "-n", 24, "--json", "--seed"]
    first, again, other = (lowbit(*command, seed).json["text"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("threads", [1, 3])
def test_run_does_not_depend_on_threads(model, threads):
    command = ["run", "-m", model, "--raw", "-p", "The old house", "--temp", 0, "-n", 12, "--json", "-t"]
    assert lowbit(*command, threads).json["text"] == lowbit(*command, 2).json["text"]


def test_run_does_not_depend_on_the_instruction_set(model):
    command = ["run", "-m", model, "--raw", "-p", "The old house", "--temp", 0, "-n", 8, "--json"]
    isas = [isa["name"] for isa in lowbit("kernels", "--json").json["isa"] if isa["available"] and not isa["approx"]]
    texts = {isa: lowbit(*command, env={"LOWBIT_ISA": isa}).json["text"] for isa in isas}
    assert len(set(texts.values())) == 1, texts


def test_run_stops_at_an_interrupt(model):
    """Ctrl-C ends a one-shot answer with 130 and leaves what was said."""
    command = [BINARY, "run", "-m", str(model), "--raw", "-p", "Count from one to a thousand:", "-n", "4000", "--temp", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(1)  # it speaks
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start < 10


def test_formats():
    known = lowbit("formats", "--json").json
    codes = {code["name"]: code["bits"] for code in known["codes"]}
    schemes = {scheme["name"]: scheme for scheme in known["schemes"]}
    assert codes["e2m1"] == 4 and codes["nf4"] == 4 and codes["e4m3"] == 8 and codes["int3"] == 3
    for name in gguf.GGMLQuantizationType.__members__:
        if name in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"):
            continue  # integers and activation types, no weight formats
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
        assert schemes[name.lower()]["bits_per_weight"] == pytest.approx(8 * size / block), name
    # Written schemes: the smallest packing, an f16 scale for each group.
    assert schemes["nf4.g64"]["bits_per_weight"] == pytest.approx(4 + 16 / 64)


def test_kernels():
    known = lowbit("kernels", "--json").json
    isas = {isa["name"]: isa for isa in known["isa"]}
    assert set(isas) <= set(ISAS)
    assert isas["scalar"]["available"]
    assert sum(isa["selected"] for isa in isas.values()) == 1
    assert known["kernels"]
    approximate = {name for name, isa in isas.items() if isa["approx"]}
    assert approximate == {"avx512_bf16", "amx_bf16"}
    assert not any(isas[name]["default"] for name in approximate)
    forced = lowbit("kernels", "--json", env={"LOWBIT_ISA": "scalar"}).json
    assert [isa["name"] for isa in forced["isa"] if isa["selected"]] == ["scalar"]


def test_an_unknown_instruction_set_is_refused():
    refused(lowbit("kernels", env={"LOWBIT_ISA": "mmx"}), "mmx", code=lowbit("kernels", env={"LOWBIT_ISA": "mmx"}).code or 1)


def test_eval_of_a_model_against_itself(model, short_text):
    """The teacher runs with f32 activations; with the same recipe on both sides nothing may be lost."""
    same = lowbit(
        "eval", "-m", model, "--text", short_text, "--reference", model, "--recipe", "a=f32,kv=f32", "--ctx", 256, "--json"
    ).json
    assert same["kld_max"] < 1e-6 and same["top1_agreement"] == 1.0
    assert 5 < same["perplexity"] < 100 and same["perplexity_stderr"] > 0
    assert {"protocol", "recipe", "tokens", "kld_mean", "kld_median", "kld_p99", "kld_p999", "top1_stderr", "rms_delta_p"} <= set(same)


def test_eval_gate(model, teacher, short_text):
    """The dithered teacher differs from its source by much more than 0.001: exit 3, with the figures."""
    command = ["eval", "-m", model, "--text", short_text, "--reference", teacher, "--ctx", 256, "--json", "--max-kld"]
    failed = lowbit(*command, 0.001)
    assert failed.code == 3
    assert json.loads(failed.out)["kld_mean"] > 0.001
    assert lowbit(*command, 5).code == 0


def test_bench(model):
    report = lowbit("bench", "-m", model, "-p", 64, "-n", 8, "--json").json
    machine = report["machine"]
    assert machine["cpu"] and machine["threads"] >= 1
    assert min(machine["read_gbs"], machine["int8_gops"], machine["f32_gflops"]) > 0
    phases = {row["phase"]: row for row in report["rows"]}
    for phase in ("prefill", "decode"):
        row = phases[phase]
        assert row["tokens_per_second"] > 0 and 0 < row["of_roof"] < 1.5
        assert row["activations"] == "int8.g32"
    # llama-bench's names, for tools that read its output
    assert {"n_prompt", "n_gen", "avg_ts", "stddev_ts"} <= set(phases["prefill"])


def test_bench_measures_many_values_at_once():
    report = lowbit("bench", "--shape", "tiny", "-p", "16,64", "-d", "0,100", "-b", "1,3", "-n", 4, "-r", 1, "--json").json
    rows = [(row["phase"], row["tokens"], row["depth"], row["batch"]) for row in report["rows"]]
    expected = [[("prefill", 16, d, 1), ("prefill", 64, d, 1), ("decode", 4, d, 1), ("decode", 4, d, 3)] for d in (0, 100)]
    assert rows == sum(expected, [])
    assert all("joules_per_token" in row for row in report["rows"])


def test_bench_says_what_it_chose(model):
    done = lowbit("bench", "--shape", "tiny", "--recipe", "w=q8_0", "-p", 16, "-n", 4, "-r", 1, "-t", 2, "-v")
    assert done.code == 0, done.err
    assert "tiny (random weights): w=q8_0" in done.out and "barriers" in done.out
    assert "q_proj" in done.err and "2 threads: as asked for" in done.err
    assert ("energy: not readable" in done.out) == ("|       - |\n" in done.out)  # joules, or why there are none


@pytest.mark.parametrize("arguments", [["--shape", "tiny"], ["--kernels"], []])
def test_bench_keeps_no_panels_without_a_file(arguments):
    refused(lowbit("bench", "--pack-cache", *arguments), "--pack-cache", "-m", code=2)


@pytest.mark.parametrize("scheme, ggml", [("q4_0", "Q4_0"), ("q4_k", "Q4_K"), ("mxfp4", "MXFP4"), ("f16", "F16")])
def test_a_shape_as_a_file(tmp_path, scheme, ggml):
    """Random weights that gguf reads: finite, of the declared types; and we run the file as we run the shape."""
    path = tmp_path / "tiny.gguf"
    assert lowbit("bench", "--shape", "tiny", "--recipe", f"w={scheme}", "--write", path).code == 0
    tensors = gguf.GGUFReader(path).tensors
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2]
    assert len(tensors) == 2 * 11 + 3 and len(matrices) == 2 * 7 + 2
    assert {tensor.tensor_type.name for tensor in matrices} == {ggml}
    weights = gguf.quants.dequantize(matrices[1].data, matrices[1].tensor_type)
    assert np.isfinite(weights).all() and 0.5 < weights.std() * 256**0.5 < 2
    file = lowbit("bench", "-m", path, "-p", 16, "-n", 2, "-r", 1, "--json").json
    shape = lowbit("bench", "--shape", "tiny", "--recipe", f"w={scheme}", "-p", 16, "-n", 2, "-r", 1, "--json").json
    for key in ("scheme", "activations", "model_size"):
        assert file["rows"][0][key] == shape["rows"][0][key]


@pytest.mark.parametrize(
    "arguments, words, code",
    [
        (["--shape", "llama-1000b"], ["llama-1000b", "llama-1b"], 2),
        (["--shape", "tiny", "-m", "x.gguf"], ["-m", "--shape"], 2),
        (["--shape", "qwen2.5-0.5b", "--recipe", "w=q4_k"], ["896", "256"], 1),
        (["--shape", "tiny", "--recipe", "w=gptq:q4_0"], ["gptq"], 1),
        (["--shape", "tiny", "--write", "there/is/no/folder/x.gguf"], ["x.gguf"], 1),
        (["--shape", "tiny", "--write", "x.bin"], ["x.bin"], 1),
        (["--shape", "tiny", "-d", "4000", "-p", "512"], ["beyond the model's context"], 1),
        (["--recipe", "w=q4_0"], ["--shape"], 2),
    ],
)
def test_bench_refuses(arguments, words, code):
    refused(lowbit("bench", *arguments), *words, code=code)


def test_bench_of_kernels():
    """Every scheme of docs/results.md on a matrix with a short last panel, with every instruction set here."""
    report = lowbit("bench", "--kernels", "--isa", "all", "--size", "1x40x512,7x40x512", "-r", 2, "-t", 1, "--json").json
    assert report["cold"] and report["machine"]["cpu"]
    isas = {row["isa"] for row in report["rows"]}
    assert "scalar" in isas
    products = {(row["scheme"], row["activations"]) for row in report["rows"]}
    assert {("int8.channel", "int8.token"), ("q4_k", "int8.g256"), ("q4_0", "f32")} <= products
    assert len(report["rows"]) == len(isas) * len(products) * 2
    for row in report["rows"]:
        assert row["us_min"] <= row["us"] <= row["us_max"] and row["of_roof_min"] <= row["of_roof"] <= row["of_roof_max"]
        assert row["gops"] == pytest.approx(2 * 40 * 512 * row["batch"] / row["us"] / 1e3)
        assert row["gbs"] == pytest.approx(row["weight_bytes"] / row["us"] / 1e3)
        assert row["roof"] in ("int8", "f32", "read") and row["kernel"] and row["threads"] == 1


def test_bench_of_kernels_in_words():
    done = lowbit("bench", "--kernels", "--scheme", "q4_0", "--size", "1x32x64", "-r", 1, "-t", 2, "--warm")
    assert done.code == 0, done.err
    assert "left in the caches" in done.out and done.out.count("| q4_0 ") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--isa", "avx1024"], ["avx1024", "not known", "scalar"]),
        (["--isa", "neon_i8mm" if platform.machine() == "x86_64" else "avx2"], ["not available", "scalar"]),
        (["--scheme", "int9"], ["int9"]),
        (["--activations", "int3"], ["int3", "int8.g32"]),
        (["--scheme", "nf4.g64", "--activations", "int8.token"], ["nf4.g64"]),
        (["--size", "512x2048"], ["512x2048", "tokens x outputs x inputs"]),
        (["--size", "0x1x1"], ["0x1x1"]),
        (["--scheme", "q4_k", "--size", "1x16x100"], ["100", "256"]),
        (["-m", "x.gguf"], ["--kernels"]),
    ],
)
def test_bench_of_kernels_refuses(arguments, words):
    refused(lowbit("bench", "--kernels", *arguments), *words, code=2)


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["run"], ["inspect", "--nonsense"], ["quantize", "-m", "x"]])
def test_usage_errors(arguments):
    done = lowbit(*arguments)
    assert done.code == 2, f"exit {done.code}: {done.err}"
    assert done.err.strip() and done.out == ""
