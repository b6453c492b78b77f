"""lowbit eval --sweep: recipes quantized in memory, a table, a picture, and going on where it stopped."""

import csv
import shutil
import xml.etree.ElementTree as xml

import pytest
from conftest import CACHE, GOLDEN, lowbit, refused

LIST = """# recipes of a test
int8.channel
four bits: q4_k --fallback int4.g16
w=int3.g64,a=int8.token
int4.g16 --rule *embed*=keep
[another's]
{file}
"""


@pytest.fixture
def sweep(tmp_path, short_text):
    """Runs a list on a copy of the model, beside which sensitivities are kept; where its outputs lie."""
    source = shutil.copytree(GOLDEN / "qwen2", tmp_path / "qwen2")

    def run(text: str, *more):
        path = tmp_path / "list.txt"
        path.write_text(text.format(file=GOLDEN / "qwen2/model.gguf"))
        return lowbit("eval", "-m", source, "--text", short_text, "-c", 64, "--windows", 6,
                      "--sweep", path, "-o", tmp_path / "out", *more)  # fmt: skip

    run.output = tmp_path / "out"
    return run


def rows_of(path) -> list[dict]:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# qwen2; short.txt, 8000 bytes; llama, at most 6 windows of 64 tokens, a=f32,kv=f32")
    return list(csv.DictReader(lines[1:]))


def test_a_sweep_measures_what_the_commands_measure(sweep, short_text, tmp_path):
    report = sweep(LIST, "--json").json
    points = {point["label"]: point for point in report["points"]}
    assert list(points) == ["int8.channel", "four bits", "w=int3.g64,a=int8.token", "int4.g16 --rule *embed*=keep", str(GOLDEN / "qwen2/model.gguf")]
    assert [row["recipe"] for row in rows_of(tmp_path / "out.csv")] == [point["recipe"] for point in report["points"]]

    exact = ["--reference", GOLDEN / "qwen2", "--text", short_text, "-c", 64, "--windows", 6, "--json"]
    alone = lowbit("eval", "-m", GOLDEN / "qwen2", "--recipe", "w=int8.channel,a=f32,kv=f32", *exact).json
    assert points["int8.channel"]["kld_mean"] == alone["kld_mean"]
    assert points["int8.channel"]["perplexity"] == alone["perplexity"]
    alone = lowbit("eval", "-m", GOLDEN / "qwen2", "--recipe", "w=int3.g64,a=int8.token,kv=f32", *exact).json
    assert points["w=int3.g64,a=int8.token"]["kld_mean"] == alone["kld_mean"]

    written = tmp_path / "four.gguf"
    command = ["quantize", "-m", GOLDEN / "qwen2", "q4_0", "--fallback", "q8_0", "--rule", "*down*=f16"]
    assert lowbit(*command, "-o", written, "--no-self-test").code == 0
    again = sweep("q4_0 --fallback q8_0 --rule *down*=f16\n[files]\n" + str(written) + "\n", "--json").json["points"]
    assert again[0]["bits_per_weight"] == pytest.approx(again[1]["bits_per_weight"], rel=1e-6)
    assert again[0]["kld_mean"] == again[1]["kld_mean"]

    folder = tmp_path / "folder"
    assert lowbit("quantize", "-m", GOLDEN / "qwen2", "int8.channel", "-o", f"{folder}/", "--no-self-test").code == 0
    stored = lowbit("inspect", folder, "--json").json["bits_per_weight"]
    assert points["int8.channel"]["bits_per_weight"] == pytest.approx(stored, rel=1e-6)
    assert points[str(GOLDEN / "qwen2/model.gguf")]["family"] == "another's"
    assert points[str(GOLDEN / "qwen2/model.gguf")]["kld_mean"] < 1e-9


def test_a_sweep_goes_on_where_it_stopped(sweep):
    done = sweep("int8.channel\n")
    assert "1 of 1: int8.channel" in done.err
    csv_path = sweep.output.with_suffix(".csv")
    first = csv_path.read_text().splitlines()[2]
    done = sweep("eight: int8.channel\nint4.g16\n")
    assert "2 of 2: int4.g16" in done.err and "int8.channel" not in done.err
    assert csv_path.read_text().splitlines()[2].split(",")[2:] == first.split(",")[2:]  # also its seconds: not made again
    assert "| eight" in done.out
    done = sweep("int4.g16\n")
    assert done.err == ""
    other = sweep("int4.g16\n", "--recipe", "a=int8.token")
    refused(other, "table of another sweep", "a=int8.token")


def test_the_picture_is_xml_with_every_point(sweep):
    assert sweep(LIST).code == 0
    root = xml.parse(sweep.output.with_suffix(".svg")).getroot()
    space = {"svg": "http://www.w3.org/2000/svg"}
    titles = [title.text for title in root.iterfind(".//svg:title", space)]
    assert len(titles) == 5
    assert any(title.startswith("lowbit, four bits: ") for title in titles)
    assert len(root.findall("svg:polyline", space)) == 2
    table = sweep.output.with_suffix(".md").read_text()
    assert table.count("\n| ") == 6


def test_recipes_that_need_text_and_mixes(sweep, tmp_path):
    calibration = tmp_path / "calibration.txt"
    calibration.write_bytes((CACHE / "texts/emma.txt").read_bytes()[:20000])
    recipes = "gptq:int4.g16\nrtn:int4.g16\nmixed: --target-bpw 6 --candidates int4.g16,int8.channel\nfolder: --target-bpw 5 --candidates folder\n"
    done = sweep(recipes)
    assert done.code == 1 and "gptq needs calibration text" in done.err and "| mixed" in done.out
    sweep.output.with_suffix(".csv").unlink()
    points = sweep(recipes, "--calibration", calibration, "--calibration-windows", 8, "--json").json["points"]
    gptq, rtn, mixed, folder = points
    assert 4 < folder["bits_per_weight"] <= 5
    assert gptq["kld_mean"] < rtn["kld_mean"]
    assert 5 < mixed["bits_per_weight"] <= 6 and mixed["kld_mean"] < rtn["kld_mean"]
    written = tmp_path / "written/"
    command = ["quantize", "-m", GOLDEN / "qwen2", "--recipe", "gptq:int4.g16", "--calibration", calibration, "--calibration-windows", 8]
    assert lowbit(*command, "-o", f"{written}/", "--no-self-test").code == 0
    again = sweep(f"gptq:int4.g16\n{written}/\n", "--calibration", calibration, "--calibration-windows", 8, "--json").json["points"]
    assert again[0]["kld_mean"] == again[1]["kld_mean"]
    assert again[0]["bits_per_weight"] == pytest.approx(again[1]["bits_per_weight"], rel=1e-6)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["no recipe"]),
        ("q4_0\n\nnonsense:q4_0\n", ["line 3", "nonsense"]),
        ("q4_0 --rule\n", ["line 1", "--rule"]),
        ("q4_0 --colour red\n", ["line 1", "--colour"]),
        ("q4_0\nq4_0\n", ["line 2", "twice"]),
        ("q4_0,a=int9\n", ["line 1", "int9"]),
        ("./model.gguf q4_0\n", ["line 1", "q4_0"]),
        ("gptq:q4_0 --target-bpw 5\n", ["line 1", "names a scheme"]),
        ("--target-bpw 5 --candidates int99\n", ["line 1", "int99"]),
        ("--target-bpw much --candidates folder\n", ["line 1", "much"]),
    ],
)
def test_a_bad_list_is_refused_before_anything_runs(sweep, text, words):
    refused(sweep(text), *words, code=2)
    assert not sweep.output.with_suffix(".csv").exists()


def test_a_recipe_that_does_not_fit_leaves_the_others(sweep):
    done = sweep("q4_k\nint8.channel\n./nothing.gguf\n")
    assert done.code == 1
    assert "q4_k" in done.err and "256" in done.err and "2 of 3 recipes failed" in done.err
    assert "int8.channel" in done.out and len(rows_of(sweep.output.with_suffix(".csv"))) == 1


def test_other_sweep_errors(sweep, tmp_path, short_text):
    command = ["eval", "-m", GOLDEN / "qwen2", "--text", short_text, "--sweep"]
    refused(lowbit(*command, tmp_path / "none.txt"), "none.txt", code=2)
    refused(sweep("q8_0\n", "--recipe", "w=q4_0"), "stand in the list", code=2)
    (tmp_path / "list.txt").write_text("int8.channel\n")
    done = lowbit(*command, tmp_path / "list.txt", "-c", 64, "--windows", 2, "-o", tmp_path / "no/such/folder/out")
    assert done.code == 1 and "no/such/folder" in done.err and done.out == ""
