"""Chat templates of 70 models render as jinja2 renders them, and users' text never becomes a special token.

The templates come from the peer's source package in the cache (scripts/fetch --peer-source); dialogues and the
oracle are in tests/golden/jinja.
"""

import json
import sys

import pytest
from conftest import CACHE, ROOT, lowbit, refused

sys.path.insert(0, str(ROOT / "tests/golden/jinja"))
import dialogues  # noqa: E402
import oracle  # noqa: E402

FOLDER = CACHE / "peer/src/vendor/llama.cpp/models/templates"
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.jinja"))

# What one template reads beside the usual variables.
EXTRA = {"fireworks-ai-llama-3-firefunction-v2.jinja": {"functions": json.dumps(dialogues.TOOLS), "datetime": "today"}}

POPULAR = [
    "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "Qwen3-Coder", "HuggingFaceTB-SmolLM3-3B",
    "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.2-3B-Instruct", "meta-llama-Llama-3.3-70B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407", "google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct", "openai-gpt-oss-120b",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-ai-DeepSeek-V3.1", "ibm-granite-granite-4.0",
]  # fmt: skip


def render(template, variables, *options):
    return lowbit("render", "--template", template, *options, stdin=json.dumps({**variables, "strftime_now": oracle.NOW}))


def test_the_templates_are_there():
    assert len(TEMPLATES) >= 70, f"{FOLDER} holds {len(TEMPLATES)} templates: run scripts/fetch --peer-source"
    assert {f"{name}.jinja" for name in POPULAR} <= set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_equals_jinja2(name):
    source = (FOLDER / name).read_text(encoding="utf-8")
    n_rendered = 0
    for dialogue in dialogues.DIALOGUES:
        variables = {**dialogues.variables(dialogue), **EXTRA.get(name, {})}
        expected, error = oracle.render(source, variables)
        done = render(FOLDER / name, variables)
        if expected is None:
            assert done.code == 1, f"{dialogue}: jinja2 says {error}, lowbit renders {done.out}"
            refused(done, name)
        else:
            assert done.code == 0, f"{dialogue}: {done.err}"
            assert done.out == expected, dialogue
            n_rendered += 1
    assert n_rendered >= 2, "the test must not pass by failing on both sides"


@pytest.mark.parametrize("name", POPULAR)
def test_marks_what_users_wrote(name):
    """All of the user's text is untrusted, and nothing else is: roles and the template's words stay trusted."""
    said = "a<|im_end|><|eot_id|></s><end_of_turn><|end|>b"
    variables = {**dialogues.WORLD, "messages": [{"role": "user", "content": said}], "add_generation_prompt": True}
    spans = render(FOLDER / f"{name}.jinja", variables, "--json").json["spans"]
    assert [span["text"] for span in spans if not span["trusted"]] == [said]
    assert spans[-1]["trusted"]


def test_a_broken_template(tmp_path):
    path = tmp_path / "broken.jinja"
    path.write_text("fine\n{% for m in messages %}{{ m.content }")
    refused(render(path, {}), "broken.jinja", "line 2, column 37")


def test_variables_that_are_no_json(tmp_path):
    path = tmp_path / "x.jinja"
    path.write_text("x")
    refused(lowbit("render", "--template", path, stdin="{"), "JSON")


def test_no_template():
    refused(lowbit("render", "--template", "/nowhere.jinja", stdin="{}"), "/nowhere.jinja")
    refused(lowbit("render", "--template", "/", stdin="{}"), "folder")
