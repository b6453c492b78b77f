"""deploy/: the files an operator takes are well-formed, and name only options, routes and metrics that there are."""

import json
import re
import shlex
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from conftest import BINARY, GOLDEN, ROOT, lowbit
from serving import Server

DEPLOY = ROOT / "deploy"
TINY = GOLDEN / "qwen2"


def documents(name: str) -> list[dict]:
    return [document for document in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()) if document]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Served as the manifests do it: a folder that holds one .gguf file."""
    models = tmp_path_factory.mktemp("models")
    done = lowbit("convert", TINY, "-o", models / "model.gguf")
    assert done.code == 0, done.err
    server = Server(models)
    server.post("/v1/completions", {"prompt": "One", "max_tokens": 20})
    yield server
    assert server.stop() == 0


def known_options() -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", lowbit("serve", "--help").out))


def containers() -> list[dict]:
    found = []
    for name in ("lowbit.yaml", "kserve.yaml"):
        for document in documents(name):
            spec = document["spec"]
            found += spec.get("containers", []) + spec.get("template", {}).get("spec", {}).get("containers", [])
    assert len(found) == 2
    return found


def test_manifests_fit_the_published_schemas():
    kinds = []
    for document in documents("lowbit.yaml"):
        kubernetes_validate.validate(document, "1.37", strict=True)
        kinds.append(document["kind"])
    assert kinds == ["Deployment", "Service"]
    deployment, service = documents("lowbit.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    broken = json.loads(json.dumps(deployment))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_kserve_runtime_has_what_its_schema_requires():
    runtime, service = documents("kserve.yaml")
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    spec = runtime["spec"]
    assert set(spec) <= {"annotations", "supportedModelFormats", "protocolVersions", "multiModel", "containers"}
    assert all({"name"} <= set(form) <= {"name", "version", "autoSelect", "priority"} for form in spec["supportedModelFormats"])
    assert spec["annotations"] == {"prometheus.kserve.io/port": "8000", "prometheus.kserve.io/path": "/metrics"}
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"  # the one KServe mounts the model into
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, "1.37", strict=True)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"] and model["storageUri"]
    assert model["modelFormat"]["name"] in {form["name"] for form in spec["supportedModelFormats"]}


def test_containers_are_hardened_and_probe_routes_that_there_are(server):
    for container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"]["drop"] == ["ALL"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert server.get(container[probe]["httpGet"]["path"]).status == 200, probe
        words = {word.split("=")[0] for word in container["args"] if word.startswith("-")}
        assert words and words <= known_options(), words - known_options()


def test_the_unit_file(tmp_path):
    text = (DEPLOY / "lowbit.service").read_text()
    command = next(line for line in text.splitlines() if line.startswith("ExecStart=")).removeprefix("ExecStart=")
    options = {word for word in shlex.split(command) if word.startswith("-")}
    assert options <= known_options(), options - known_options()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / "lowbit.service"
    unit.write_text(text.replace("/usr/local/bin/lowbit", str(BINARY.resolve())))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "lowbit.service" in line], done.stderr
    unit.write_text(unit.read_text().replace("KillSignal=SIGTERM", "KillSignal=SIGNONE"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert "SIGNONE" in done.stderr  # it does look


def test_the_dockerfile_installs_what_the_build_needs():
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    stages = re.findall(r"^FROM (\S+)", text, re.M)
    assert len(stages) == 2 and re.search(r"^USER 10001", text, re.M) and "ENTRYPOINT" in text
    packages = (ROOT / "scripts/deps").read_text().split("build_packages=(")[1].split(")")[0].split()
    not_for_a_build = {"ccache", "binutils", "clang-format-14", "git", "valgrind"}
    missing = set(packages) - not_for_a_build - set(text.split())
    assert not missing, f"scripts/deps installs them, the image does not: {missing}"
    for source in re.findall(r"^COPY (?!--from)(.*)", text, re.M):
        for path in source.split()[:-1]:
            assert (ROOT / path).exists(), path


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:vllm|lowbit):[a-z0-9_]+", expression))


def test_the_dashboard_shows_metrics_that_there_are(server):
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(board)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) >= 12
    given = {line.split("{")[0] for line in server.get("/metrics").body.decode().splitlines() if not line.startswith("#")}
    used = set()
    for panel in board["panels"]:
        assert {"type", "title", "gridPos", "targets", "datasource"} <= set(panel)
        for target in panel["targets"]:
            names = metrics_in(target["expr"])
            assert names, target["expr"]
            assert names <= given, f"{panel['title']}: {names - given}"
            assert target["expr"].count("(") == target["expr"].count(")")
            used |= names
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert metrics_in(variable["query"]["query"]) <= given
    assert any(name.startswith("lowbit:roof") for name in used)


def test_metrics_are_well_formed(server):
    """Each family once, its type before its series, no series twice."""
    families, series, current = {}, set(), None
    for line in server.get("/metrics").body.decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, current, kind = line.split()
            assert current not in families
            families[current] = kind
        elif not line.startswith("#"):
            name, labels = line.rsplit(" ", 1)[0].split("{", 1)
            base = re.sub(r"_(bucket|sum|count)$", "", name) if families[current] == "histogram" else name
            assert base == current, line
            assert (name, labels) not in series, line
            series.add((name, labels))
            if families[current] == "counter":
                assert name.endswith("_total"), line
