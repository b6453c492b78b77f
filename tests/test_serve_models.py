"""Several models in one server, the memory they take, and what an operator does to them, over real sockets."""

import concurrent.futures
import json
import re
import shutil
import socket
import struct
import threading
import time

import openai
import pytest
from conftest import GOLDEN, lowbit, refused
from serving import Server, openai_client, post_head

QWEN, MISTRAL = GOLDEN / "qwen2", GOLDEN / "mistral"
TEXTS = [f"Text number {i}" for i in range(6)]


def complete(server, model: str, prompt: str = "Once upon", **fields):
    return server.post("/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 24, "seed": 5, "ignore_eos": True, **fields})


def text_of(answer) -> str:
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]["text"]


def models(server) -> dict:
    return {model["id"]: model for model in server.get("/v1/models").json["data"]}


def resident_bytes(server) -> int:
    status = open(f"/proc/{server.process.pid}/status").read()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture(scope="module")
def two():
    server = Server(f"qwen={QWEN}", "--model", f"mistral={MISTRAL},kv=int8.token,ctx=128")
    yield server
    assert server.stop() == 0


def test_models_are_listed_and_loaded_on_first_use(two):
    listed = models(two)
    assert list(listed) == ["qwen", "mistral"]
    assert listed["qwen"]["loaded"] and not listed["mistral"]["loaded"] and listed["mistral"]["max_model_len"] is None
    assert two.metric("lowbit:model_loaded", model_name="mistral") == 0
    with openai_client(two, api_key="-") as client:
        answer = client.completions.create(model="mistral", prompt="Once", max_tokens=4, seed=1)
        assert answer.model == "mistral" and answer.usage.completion_tokens == 4
        assert client.models.retrieve("mistral").model_dump()["loaded"]
        with pytest.raises(openai.NotFoundError) as error:
            client.completions.create(model="gpt", prompt="Once", max_tokens=4)
    assert error.value.code == "model_not_found"
    assert models(two)["mistral"]["max_model_len"] == 128
    assert two.metric("lowbit:model_loaded", model_name="mistral") == 1
    assert two.metric("lowbit:model_loads_total", model_name="mistral") == 1
    assert two.get("/v1/models/mistral").json["root"] == "mistral" and two.get("/v1/models/none").status == 404


def test_a_request_without_a_model_gets_the_first(two):
    assert two.post("/v1/completions", {"prompt": "One", "max_tokens": 1}).json["model"] == "qwen"


def test_two_models_at_once_answer_as_alone(two):
    alone = {}
    for model, path, more in (("qwen", QWEN, ""), ("mistral", MISTRAL, ",kv=int8.token,ctx=128")):
        server = Server(f"{path}{more}")
        alone |= {(model, text): text_of(complete(server, "", text)) for text in TEXTS}
        assert server.stop() == 0
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = dict(zip(alone, pool.map(lambda key: text_of(complete(two, *key)), alone), strict=True))
    assert together == alone
    for model in ("qwen", "mistral"):
        assert two.metric("vllm:generation_tokens_total", model_name=model) >= 24 * len(TEXTS)
        assert two.metric("vllm:request_decode_time_seconds_count", model_name=model) >= len(TEXTS)


def test_the_batch_of_one_model_does_not_stop_the_other(two):
    """A client that is killed in the middle of a stream of one model: the other goes on, the pages are free."""
    body = json.dumps({"model": "mistral", "prompt": "a", "stream": True, "ignore_eos": True, "max_tokens": 100, "n": 8}).encode()
    connection = two.connect()
    connection.sendall(post_head("/v1/completions", len(body)) + body)
    connection.recv(1)
    expected = text_of(complete(two, "qwen"))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert text_of(complete(two, "qwen")) == expected
    two.wait_for(lambda: two.metric("vllm:num_requests_running", model_name="mistral") == 0)
    assert two.metric("vllm:kv_cache_usage_perc", model_name="mistral") == 0


def test_idle_models_are_unloaded_and_come_back():
    server = Server(f"a={QWEN}", "--model", f"b={MISTRAL},kv-memory=64MiB", "--idle-unload", 1, "--max-num-seqs", 512)
    server.wait_for(lambda: not models(server)["a"]["loaded"])
    before = resident_bytes(server)
    expected = text_of(complete(server, "b"))
    assert resident_bytes(server) - before > 14 << 20  # all of the KV cache is taken at once, as far as it can be used
    server.wait_for(lambda: not models(server)["b"]["loaded"])
    server.wait_for(lambda: resident_bytes(server) - before < 7 << 20)  # the engine's thread gives it back a moment later
    assert server.get("/health").status == 200 and models(server)["b"]["max_model_len"] > 0
    assert text_of(complete(server, "b")) == expected
    assert server.metric("lowbit:model_loads_total", model_name="b") == 2
    assert server.metric("vllm:generation_tokens_total", model_name="b") == 48  # counters outlive the engine
    assert server.stop() == 0


def test_work_in_flight_keeps_a_model():
    server = Server(f"a={QWEN}", "--idle-unload", 0.1)
    stream = {"prompt": "a", "stream": True, "ignore_eos": True, "max_tokens": 200, "n": 16}
    assert server.post("/v1/completions", stream).body.endswith(b"data: [DONE]\n\n")
    assert server.metric("lowbit:model_loads_total") <= 2
    assert server.stop() == 0


def test_models_take_turns_in_little_memory():
    """Room for one: each request finds its model, whatever was loaded before, with the same answers."""
    server = Server(f"a={QWEN},kv-memory=2MB", "--model", f"b={MISTRAL},kv-memory=2MB", "--memory", "3MB")
    first = [text_of(complete(server, name)) for name in "ab"]
    for _ in range(2):
        assert [text_of(complete(server, name)) for name in "ab"] == first
    assert sum(model["loaded"] for model in models(server).values()) == 1
    assert server.metric("lowbit:model_loads_total", model_name="b") == 3
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: text_of(complete(server, "ab"[i % 2])), range(8)))
    assert answers == first * 4
    used, budget = server.metric("lowbit:memory_used_bytes", engine="0"), server.metric("lowbit:memory_budget_bytes", engine="0")
    assert 0 < used <= budget == 3e6
    assert server.stop() == 0


def test_a_model_in_use_is_waited_for_and_then_503():
    server = Server(
        f"a={QWEN},kv-memory=2MB", "--model", f"b={MISTRAL},kv-memory=2MB", "--memory", "3MB", "--load-timeout", 0.5
    )
    held = threading.Event()

    def hold():
        body = json.dumps({"model": "a", "prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 240, "n": 64}).encode()
        with server.connect() as connection:
            connection.sendall(post_head("/v1/completions", len(body)) + body)
            connection.recv(1)
            held.set()
            while not done.is_set():
                time.sleep(0.01)  # takes nothing: the answer waits in memory, the model is held

    # Whoever asks for the other model meanwhile gets it afterwards, or a 503 with the time to try again.
    done = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    answer = complete(server, "b")
    done.set()
    thread.join()
    if answer.status == 503:
        assert answer.error["code"] == "overloaded" and answer.headers["retry-after"] == "1"
    server.wait_for(lambda: complete(server, "b").status == 200)
    assert server.stop() == 0


def test_a_model_that_never_fits():
    server = Server(f"a={QWEN},kv-memory=1MB", "--model", f"b={MISTRAL},kv-memory=8MB", "--memory", "5MB", "--max-num-seqs", 512)
    answer = complete(server, "b")
    assert answer.status == 503 and answer.error["code"] == "model_does_not_fit" and "5.0 MB" in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert complete(server, "a").status == 200
    assert server.stop() == 0


def test_a_replaced_file_does_not_disturb_what_is_loaded(tmp_path):
    path, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    for source, target in ((QWEN, path), (MISTRAL, other)):
        done = lowbit("convert", source, "-o", target)
        assert done.code == 0, done.err
    server = Server(f"a={path}", "--idle-unload", 1)
    expected = text_of(complete(server, "a"))
    stop = time.monotonic() + 0.7
    path.write_bytes(b"no model at all")  # in place: the same file, cut short
    while time.monotonic() < stop:
        assert text_of(complete(server, "a")) == expected
    server.wait_for(lambda: not models(server)["a"]["loaded"])
    answer = complete(server, "a")
    assert answer.status == 500 and answer.error["code"] == "model_not_loadable" and "model.gguf" in answer.error["message"]
    assert server.get("/health").status == 200
    shutil.move(other, path)
    server.wait_for(lambda: complete(server, "a").status == 200)
    assert text_of(complete(server, "a")) != expected
    assert server.stop() == 0


# ---- memory


def plan_of(server) -> str:
    return next(line for line in server.said if "of KV cache" in line)


def test_memory_is_planned_at_start_and_said():
    server = Server(QWEN, "--kv-memory", "1MiB")
    assert server.metric("lowbit:kv_bytes") <= 1 << 20
    assert server.metric("lowbit:weight_bytes") > 0
    assert server.stop() == 0
    assert "positions" in plan_of(server) and "MB of weights" in plan_of(server)


def test_a_context_that_does_not_fit_is_lowered_or_refused():
    server = Server(QWEN, "--kv-memory", "50kB")
    n_ctx = models(server)["qwen2"]["max_model_len"]
    assert 64 <= n_ctx < 256
    answer = server.post("/v1/completions", {"prompt": "word " * n_ctx, "max_tokens": 1})
    assert answer.status == 400 and answer.error["code"] == "context_length_exceeded"
    assert server.stop() == 0
    server = Server(QWEN, "--kv-memory", "50kB", "--ctx-size", 256, wait=False)
    assert server.wait() == 1
    assert "bytes of KV cache hold" in "".join(server.said)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--memory", "lots"], ["--memory", "is not a size"]),
        (["--kv-memory", "-1"], ["--kv-memory"]),
        (["--model", f"{QWEN},kv=int3"], ["kv", "int3"]),
        (["--model", f"{QWEN},ctx=many"], ["ctx=many"]),
        (["--model", "name="], ["no path"]),
        (["--model", QWEN, "--model", MISTRAL, "--alias", "x"], ["--alias"]),
    ],
)
def test_options_that_cannot_be_meant(arguments, words):
    given = arguments if "--model" in arguments else ["-m", QWEN, *arguments]
    refused(lowbit("serve", "--port", 0, *given), *words, code=2)


def test_models_that_cannot_be(tmp_path):
    refused(lowbit("serve", "--port", 0, "--model", QWEN, "--model", QWEN), "two models are called qwen2")
    refused(lowbit("serve", "--port", 0, "--model", f"a={QWEN}", "--model", f"b={tmp_path}/no.gguf"), "no.gguf")


# ---- prefixes


def cached_tokens(server, prompt: str, key: str = "", **fields) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1, **fields}, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json["usage"]["prompt_tokens_details"]["cached_tokens"]


LONG = "one two three four five six seven eight " * 5


def test_prefixes_are_shared_by_those_of_one_salt_and_key():
    server = Server(QWEN, "--api-key", "alice", "--api-key", "bob")
    assert cached_tokens(server, LONG, "alice") == 0
    assert cached_tokens(server, LONG, "alice") >= 64
    assert cached_tokens(server, LONG, "bob") == 0  # another key learns nothing from the time it takes
    assert cached_tokens(server, LONG, "alice", cache_salt="x") == 0
    assert cached_tokens(server, LONG, "alice", cache_salt="x") >= 64
    assert server.stop() == 0


def test_without_a_prefix_cache():
    server = Server(QWEN, "--no-prefix-cache")
    first = server.post("/v1/completions", {"prompt": LONG, "max_tokens": 8, "seed": 1}).json["choices"]
    assert cached_tokens(server, LONG) == 0
    assert server.stop() == 0
    server = Server(QWEN, "--max-itl", 20)
    for _ in range(2):
        assert server.post("/v1/completions", {"prompt": LONG, "max_tokens": 8, "seed": 1}).json["choices"] == first
    assert cached_tokens(server, LONG) >= 64
    assert server.stop() == 0


def test_a_lower_priority_is_served_earlier():
    server = Server(QWEN, "--max-num-seqs", 1, "--max-num-batched-tokens", 16)
    order = []

    def ask(name, priority):
        answer = server.post("/v1/completions", {"prompt": name, "max_tokens": 60, "ignore_eos": True, "priority": priority})
        assert answer.status == 200, answer.body
        order.append(name)

    with server.connect() as connection:  # 64 answers for the only place
        body = json.dumps({"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 240, "n": 64}).encode()
        connection.sendall(post_head("/v1/completions", len(body)) + body)
        connection.recv(1)
        threads = [threading.Thread(target=ask, args=given) for given in (("late", 5), ("first", -5))]
        for n_before, thread in zip((62, 63), threads, strict=True):
            thread.start()
            server.wait_for(lambda least=n_before: server.metric("vllm:num_requests_waiting") >= least or "late" in order)
        for thread in threads:
            thread.join()
    assert order == ["first", "late"]
    refusal = server.post("/v1/completions", {"prompt": "x", "priority": 5000})
    assert refusal.status == 400 and refusal.error["param"] == "priority"
    assert server.stop() == 0
