"""Makes tests/golden/tasks: items, and what lm_eval with transformers chooses of each.

The model is the teacher (scripts/reference-model) as a folder that transformers reads, in f32. Needs .venv-golden
(scripts/deps golden) with lm_eval 0.4.13 installed beside it:

  .venv-golden/bin/python -m pip install lm_eval==0.4.13 accelerate
  .venv-golden/bin/python tests/golden/make_tasks.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

ROOT = Path(__file__).resolve().parent.parent.parent
TEACHER = ROOT / "cache/models/SmolLM2-135M-Instruct-dithered.gguf"
FOLDER = Path(__file__).resolve().parent / "tasks"
N_CLOZE = 40  # of each text

# Blanks behind the context, none in front of the choices, no context, letters beyond ASCII, choices of several tokens
# that begin alike, a choice that begins another.
SPECIAL = [
    ("The capital of France is", [" Paris", " London", " Rome", " Berlin"], 0),
    ("The capital of France is ", ["Paris", "London", "Rome", "Berlin"], 0),
    ("", ["The weather is nice.", "Weather the nice is."], 0),
    ("Un café, deux", [" cafés", " thés", " été"], 0),
    ("Water boils at", [" one hundred degrees", " one hundred and ten degrees", " one", " ten degrees"], 0),
    ("def add(a, b):\n    return", [" a + b", " a - b", " a", " b + a * 2"], 0),
    ("一二三四", ["五", "六七", "百"], 0),
    ("She opened the door and walked", [" into the room", " into the room and sat down on the floor", " up"], 0),
]


def items() -> list[dict]:
    cloze = subprocess.run([ROOT / "scripts/cloze-tasks", "-n", str(N_CLOZE)], check=True, stdout=subprocess.PIPE, text=True)
    found = [json.loads(line) for line in cloze.stdout.splitlines()]
    return found + [{"task": "special", "context": c, "choices": choices, "answer": answer} for c, choices, answer in SPECIAL]


def judged(folder: Path, path: Path) -> list[dict]:
    """The samples of lm_eval's own run over the file."""
    task = ConfigurableTask(
        config={
            "task": "golden", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path)}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": lambda doc: doc["context"], "doc_to_choice": lambda doc: doc["choices"],
            "doc_to_target": lambda doc: doc["answer"], "target_delimiter": "",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
    )  # fmt: skip
    model = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8)
    return lm_eval.evaluate(lm=model, task_dict={"golden": task}, log_samples=True)["samples"]["golden"]


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "items.jsonl"
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items()), encoding="utf-8", newline="\n")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "teacher"
        subprocess.run([ROOT / "build/release/lowbit", "convert", "-m", TEACHER, "-o", f"{folder}/", "--no-self-test"], check=True)
        config = json.loads((folder / "config.json").read_text())
        config.pop("quantization_config", None)  # every tensor is plain f16 or f32
        (folder / "config.json").write_text(json.dumps(config))
        samples = sorted(judged(folder, path), key=lambda sample: sample["doc_id"])
    lines = []
    for sample in samples:
        sums = [float(response[0]) for response in sample["filtered_resps"]]
        lines.append({"log_likelihood": [round(s, 4) for s in sums], "acc": sample["acc"], "acc_norm": sample["acc_norm"]})
    (FOLDER / "lm_eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(lines)} items, acc {sum(line['acc'] for line in lines) / len(lines):.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
