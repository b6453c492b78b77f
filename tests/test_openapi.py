"""schemathesis against /openapi.json: what it makes of every route's description, valid and not, gets an answer that
the description allows, and never a server error. The same examples every time."""

import os
import time

import hypothesis
import pytest
import requests
import schemathesis
from conftest import GOLDEN
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from serving import Server

N_EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "20"))  # of each kind, for every route
MODES = {"valid": GenerationMode.POSITIVE, "invalid": GenerationMode.NEGATIVE}
CHECKED = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def server():
    server = Server(GOLDEN / "qwen2", "-c", 64)  # short answers: what is asked matters, not what is said
    yield server
    assert server.get("/health").status == 200
    assert server.stop() == 0


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        yield session


def operations(schema) -> dict:
    return {result.ok().label: result.ok() for result in schema.get_all_operations()}


def test_the_description_is_valid_and_whole(schema, server):
    schema.validate()
    assert {"GET /health", "GET /v1/models/{name}", "POST /v1/chat/completions", "POST /v1/completions"} <= set(operations(schema))
    for label in operations(schema):
        method, path = label.split()
        answer = server.request(method, path.replace("{name}", "unknown"), b"{}" if method == "POST" else None)
        assert answer.status == 404 if "{name}" in path else answer.status in (200, 400), label


@pytest.mark.parametrize("kind", MODES)
def test_every_route_answers_as_described(schema, session, kind):
    start = time.monotonic()
    n_answers = 0
    for label, operation in operations(schema).items():
        n_of_route = 0
        try:
            strategy = operation.as_strategy(generation_mode=MODES[kind])
            has_body = label.startswith("POST")

            @hypothesis.seed(1)
            @hypothesis.settings(
                max_examples=N_EXAMPLES if has_body else 5,
                database=None,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                print_blob=False,
            )
            @hypothesis.given(strategy)
            def ask(case):
                nonlocal n_of_route
                n_of_route += 1
                case.call_and_validate(session=session, checks=CHECKED, timeout=60)

            ask()
        except hypothesis.errors.Unsatisfiable:
            assert kind == "invalid" and not has_body, label  # a route without parameters cannot be asked wrongly
        n_answers += n_of_route
    assert n_answers >= N_EXAMPLES
    print(f"{n_answers} {kind} requests in {time.monotonic() - start:.1f} s")
