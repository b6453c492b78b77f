"""lowbit serve as the unmodified openai client and plain sockets meet it, on a tiny model of random weights."""

import concurrent.futures
import json
import os
import resource
import signal
import socket
import struct
import time

import openai
import pytest
from conftest import GOLDEN, lowbit, refused
from serving import Server, openai_client, post_head

TINY = GOLDEN / "qwen2"  # 256 tokens of context, a chat template, 300 tokens in the vocabulary
MESSAGES = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def server():
    server = Server(TINY, "--request-timeout", 60)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    with openai_client(server) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "qwen2", "messages": MESSAGES, "max_tokens": 12, "seed": 1, **fields})


# ---- the client's road


def test_models(client):
    (model,) = client.models.list().data
    assert model.id == "qwen2" and model.object == "model"
    assert model.model_dump()["max_model_len"] == 256
    assert client.models.retrieve("qwen2").id == "qwen2"


def test_a_chat(client):
    answer = chat(client)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == "qwen2"
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_streamed_chat_says_the_same(client):
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_no_usage_chunk_unless_asked(client):
    assert all(chunk.choices for chunk in chat(client, stream=True))


def test_completions(client):
    answer = client.completions.create(model="qwen2", prompt="Once upon", max_tokens=5, seed=3)
    assert answer.object == "text_completion" and answer.usage.completion_tokens == 5
    streamed = client.completions.create(model="qwen2", prompt="Once upon", max_tokens=5, seed=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    echoed = client.completions.create(model="qwen2", prompt="Once upon", max_tokens=5, seed=3, echo=True)
    assert echoed.choices[0].text == "Once upon" + answer.choices[0].text


def test_several_prompts_and_choices(client, server):
    answer = client.completions.create(model="qwen2", prompt=["One", "Two"], n=2, max_tokens=3, seed=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(model="qwen2", prompt="Two", max_tokens=3, seed=3)
    assert answer.choices[2].text == alone.choices[0].text
    ids = server.post("/tokenize", {"prompt": "Two"}).json["tokens"]
    by_ids = client.completions.create(model="qwen2", prompt=ids, max_tokens=3, seed=3)
    assert by_ids.choices[0].text == alone.choices[0].text


def test_seeds(client):
    texts = [chat(client, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    several = chat(client, n=3, seed=5)
    assert several.choices[0].message.content == texts[0]
    assert len({choice.message.content for choice in several.choices}) == 3


def test_stop_strings(client):
    whole = chat(client, temperature=0, max_tokens=40).choices[0].message.content
    stop = whole[5:8]
    cut = chat(client, temperature=0, max_tokens=40, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_logprobs(client):
    answer = chat(client, temperature=0, logprobs=True, top_logprobs=4, max_tokens=6)
    content = answer.choices[0].logprobs.content
    assert len(content) == 6
    for token in content:
        assert len(token.top_logprobs) == 4
        assert token.logprob == token.top_logprobs[0].logprob <= 0  # greedy
        ordered = [top.logprob for top in token.top_logprobs]
        assert ordered == sorted(ordered, reverse=True)
    assert b"".join(bytes(token.bytes) for token in content).decode("utf-8", "replace") == answer.choices[0].message.content
    streamed = [
        token
        for chunk in chat(client, temperature=0, logprobs=True, top_logprobs=4, max_tokens=6, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == content
    old = client.completions.create(model="qwen2", prompt="One", max_tokens=4, logprobs=2, temperature=0)
    assert len(old.choices[0].logprobs.tokens) == len(old.choices[0].logprobs.token_logprobs) == 4


def test_logit_bias_and_ignore_eos(client, server):
    forced = chat(client, temperature=0, logit_bias={"65": 100}, max_tokens=4, logprobs=True)
    pieces = {token.token for token in forced.choices[0].logprobs.content}
    assert len(pieces) == 1
    end = json.loads((TINY / "generation_config.json").read_text())["eos_token_id"]
    ended = chat(client, temperature=0, logit_bias={str(end): 100}, max_tokens=4)
    assert ended.choices[0].finish_reason == "stop" and ended.usage.completion_tokens == 1
    ignored = chat(client, temperature=0, logit_bias={str(end): 100}, max_tokens=4, extra_body={"ignore_eos": True})
    assert ignored.choices[0].finish_reason == "length" and ignored.usage.completion_tokens == 4


def test_content_parts_nulls_and_unknown_fields(server):
    plain = server.chat("Hello\nthere", max_tokens=8, seed=1)
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "there"}]
    fields = {"temperature": None, "stop": None, "tools": None, "logit_bias": None, "store": True, "metadata": {"a": 1}}
    given = server.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": parts}], "max_tokens": 8, "seed": 1, **fields},
    )
    assert given.json["choices"] == plain.json["choices"]
    assert given.headers["x-lowbit-ignored"] == "store, metadata"


def test_responses(client):
    answer = client.responses.create(model="qwen2", input="Hello there", max_output_tokens=8, temperature=0)
    assert answer.status == "incomplete" and answer.output_text and answer.usage.output_tokens == 8
    events = list(client.responses.create(model="qwen2", input="Hello there", max_output_tokens=8, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == answer.output_text


def test_tokens_and_templates(server):
    tokens = server.post("/tokenize", {"prompt": "Hello <|im_end|>", "return_token_strs": True}).json
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) and tokens["max_model_len"] == 256
    assert server.post("/detokenize", {"tokens": tokens["tokens"]}).json == {"prompt": "Hello <|im_end|>"}
    text = server.post("/apply-template", {"messages": MESSAGES}).json["prompt"]
    assert text == "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    # A user who types a special token types text: more ids than the token itself.
    typed = server.post("/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>"}]}).json["count"]
    plain = server.post("/tokenize", {"messages": [{"role": "user", "content": ""}]}).json["count"]
    assert typed > plain + 1
    begun = [*MESSAGES, {"role": "assistant", "content": "I am"}]
    text = server.post("/apply-template", {"messages": begun, "continue_final_message": True}).json["prompt"]
    assert text.endswith("<|im_start|>assistant\nI am")


def test_the_batch_does_not_change_answers(client):
    alone = [chat(client, seed=seed, max_tokens=30).choices[0].message.content for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: chat(client, seed=seed, max_tokens=30).choices[0].message.content, range(8)))
    assert alone == together


# ---- errors


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 2.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1e300}, "max_tokens"),
        ({"max_tokens": 255}, "max_tokens"),
        ({"stop": [1]}, "stop"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),  # this template knows none
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options"),
    ],
)
def test_a_bad_field_is_named(server, fields, param):
    answer = server.chat(**fields)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param and answer.error["type"] == "invalid_request_error"


def test_logit_bias_outside_the_vocabulary(server):
    answer = server.chat(logit_bias={"300": 1})
    assert answer.status == 400 and "300" in answer.error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"temperature": NaN, "messages": []}',
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "a", "model": "b"}',
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["nothing", "half", "list", "null", "utf8", "nan", "huge", "twice", "deep", "deeper", "deepest"],
)
def test_broken_json(server, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        answer = server.post(path, body)
        assert answer.status == 400 and answer.error["message"], answer.body


def test_many_keys_take_no_quadratic_time(server):
    many = {f"key{i}": 0 for i in range(300_000)}
    start = time.monotonic()
    assert server.post("/v1/chat/completions", {"metadata": many, "messages": MESSAGES, "max_tokens": 1}).status == 200
    assert server.post("/v1/chat/completions", {**many, "messages": MESSAGES}).status == 400
    assert time.monotonic() - start < 20  # quadratic time would be minutes


def test_statuses_and_exceptions(client, server):
    with pytest.raises(openai.NotFoundError) as error:
        chat(client, model="gpt-9")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as error:
        chat(client, messages=[{"role": "user", "content": "word " * 300}])
    assert error.value.code == "context_length_exceeded" and "256" in error.value.message
    assert server.get("/v1/nothing").error["code"] == "route_not_found"
    for path in ("/../../etc/passwd", "/v1/models/../../x", "//", "/%2e%2e/"):
        assert server.get(path).status == 404
    wrong = server.get("/v1/chat/completions")
    assert wrong.status == 405 and wrong.headers["allow"] == "POST"
    assert server.get("/v1/models/gpt-9").error["code"] == "model_not_found"


def test_names_of_the_model(client):
    for name in (str(TINY), "qwen2"):
        assert chat(client, model=name, max_tokens=1).model == "qwen2"


# ---- HTTP


def test_not_http(server):
    assert server.raw(b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert b" 431 " in server.raw(b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n").split(b"\r\n")[0]


def test_a_body_that_is_too_large(server):
    size = 100 << 20
    with server.connect() as connection:
        connection.sendall(post_head("/v1/chat/completions", size))
        piece = b"x" * (1 << 20)
        for _ in range(100):
            connection.sendall(piece)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert server.get("/health").status == 200


def test_pipelined_requests(server):
    one = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    body = json.dumps({"messages": MESSAGES, "max_tokens": 20}).encode()
    generate = post_head("/v1/chat/completions", len(body)) + body
    said = server.raw(one + generate + one + last)
    assert said.count(b"HTTP/1.1 200 OK") == 4 and said.count(b'"chat.completion"') == 1


def test_a_half_closed_request_is_answered_or_dropped(server):
    with server.connect() as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    with server.connect() as connection:
        connection.sendall(post_head("/v1/chat/completions", 100) + b"{")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)
    assert server.get("/health").status == 200


def test_headers(server):
    answer = server.get("/version", headers={"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    strange = server.get("/version", headers={"X-Request-Id": "a b\tc"})
    assert strange.headers["x-request-id"].startswith("req-")
    assert "access-control-allow-origin" not in answer.headers
    near = server.get("/version", headers={"Origin": "http://localhost:3000"})
    assert near.headers["access-control-allow-origin"] == "http://localhost:3000"
    for far in ("https://evil.example", "http://localhost.evil.example", "http://localhost:80x"):
        assert "access-control-allow-origin" not in server.get("/version", headers={"Origin": far}).headers
    asked = server.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://127.0.0.1:8080"})
    assert asked.status == 204 and "POST" in asked.headers["access-control-allow-methods"]
    head = server.request("HEAD", "/version")
    assert head.status == 200 and head.body == b"" and int(head.headers["content-length"]) > 0


def test_http_1_0_streams_without_chunks(server):
    body = json.dumps({"messages": MESSAGES, "max_tokens": 3, "stream": True}).encode()
    said = server.raw(f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    head, events = said.split(b"\r\n\r\n", 1)
    assert b"chunked" not in head and b"text/event-stream" in head
    assert events.startswith(b"data: ") and events.endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_frees_its_place(server):
    body = json.dumps({"messages": MESSAGES, "stream": True, "ignore_eos": True, "n": 8}).encode()
    before = server.metric("vllm:request_success_total", finished_reason="abort")
    for _ in range(3):
        connection = server.connect()
        connection.sendall(post_head("/v1/chat/completions", len(body)) + body)
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
        connection.close()
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == 0)
    assert server.metric("vllm:request_success_total", finished_reason="abort") > before
    assert server.metric("vllm:kv_cache_usage_perc") == 0


def test_a_thousand_connections_and_resets(server):
    before = server.metric("lowbit:connections")
    for _ in range(1000):
        connection = server.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    idle = [server.connect() for _ in range(300)]
    for connection in idle:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-")
    assert server.chat(max_tokens=2).status == 200
    for connection in idle:
        connection.close()
    server.wait_for(lambda: server.metric("lowbit:connections") <= before)


def test_metrics_have_vllms_names(server):
    server.chat(max_tokens=3)
    text = server.get("/metrics").body.decode()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "generation_tokens_total",
                 "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_count", "e2e_request_latency_seconds_sum"):  # fmt: skip
        assert f'vllm:{name}{{model_name="qwen2",engine="0"' in text, name
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0


def test_the_description_is_served(server):
    document = server.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    fields = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert fields["required"] == ["messages"] and "temperature" in fields["properties"]
    for path, methods in document["paths"].items():
        for method in methods:
            answer = server.request(method.upper(), path.replace("{name}", "qwen2"), b"{}" if method == "post" else None)
            assert str(answer.status) in methods[method]["responses"], (path, answer.status)


# ---- operation


def test_keys_are_checked_and_read_again(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfirst-key\n")
    server = Server(TINY, "--api-key-file", keys, wait=False)
    server.wait_until_ready()  # /health needs no key
    assert server.get("/v1/models").status == 401
    with openai_client(server, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    for key, status in (("first-key", 200), ("first-ke", 401), ("first-keyx", 401), ("second", 401)):
        assert server.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status == status
    keys.write_text("second\n")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda: server.get("/v1/models", headers={"Authorization": "Bearer second"}).status == 200)
    assert server.get("/v1/models", headers={"Authorization": "Bearer first-key"}).status == 401
    keys.unlink()
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert server.get("/v1/models", headers={"Authorization": "Bearer second"}).status == 200
    assert server.stop() == 0


def cpu_seconds(server) -> float:
    with open(f"/proc/{server.process.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_descriptors_run_out():
    server = Server(TINY)
    with server.connect() as early:
        n_open = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (n_open + 4, n_open + 4))
        crowd = [server.connect() for _ in range(40)]  # the system takes them, the server cannot
        time.sleep(0.5)
        before = cpu_seconds(server)
        time.sleep(0.5)
        assert cpu_seconds(server) - before < 0.25  # it waits, it does not spin
        early.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert early.recv(100).startswith(b"HTTP/1.1 200 ")
        for connection in crowd:
            connection.close()
    server.wait_for(lambda: server.chat(max_tokens=2).status == 200)
    assert server.stop() == 0


def test_a_full_disk_stops_the_log_and_nothing_else():
    server = Server(TINY, "--request-log", "/dev/full")
    assert [server.chat(max_tokens=2).status for _ in range(3)] == [200] * 3
    assert server.stop() == 0
    warnings = [line for line in server.said if "cannot write the request log /dev/full: No space left on device" in line]
    assert len(warnings) == 1


def test_slow_requests_end_and_the_log_has_no_text(tmp_path):
    log = tmp_path / "log"
    server = Server(TINY, "--header-timeout", 0.3, "--body-timeout", 0.3, "--request-log", log)
    start = time.monotonic()
    assert server.raw(b"GET /version HT").startswith(b"HTTP/1.1 408 ")
    assert server.raw(post_head("/tokenize", 50) + b"{").startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start < 10
    answer = server.chat("a secret word", max_tokens=3, ignore_eos=True)
    assert server.stop() == 0
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert "secret" not in log.read_text()
    assert line["request_id"] == answer.headers["x-request-id"] and line["completion_tokens"] == 3
    assert line["status"] == 200 and line["finish"] == "length"


def test_the_queue_is_bounded():
    server = Server(TINY, "--max-num-seqs", 1, "--max-num-queued-reqs", 1, "--max-num-batched-tokens", 16)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.chat(max_tokens=200, ignore_eos=True), range(12)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503} and statuses.count(200) >= 2
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.headers["retry-after"] == "1" and refused.error["code"] == "overloaded"
    with openai_client(server, api_key="x", max_retries=10) as client:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # the client tries again by itself
            texts = list(pool.map(lambda _: chat(client).choices[0].message.content, range(4)))
    assert len(set(texts)) == 1
    assert server.stop() == 0


def test_sigterm_finishes_what_runs():
    server = Server(TINY)
    with openai_client(server, api_key="x") as client:
        streams = [chat(client, stream=True, max_tokens=220, extra_body={"ignore_eos": True}) for _ in range(8)]
        first = [next(iter(stream)) for stream in streams]
        assert all(first)
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            *_, last = stream
            assert last.choices[0].finish_reason == "length"
    assert server.wait() == 0


def test_new_requests_are_refused_while_it_ends():
    server = Server(TINY)
    connection = server.connect()
    body = json.dumps({"messages": MESSAGES, "stream": True, "ignore_eos": True, "n": 64}).encode()
    connection.sendall(post_head("/v1/chat/completions", len(body)) + body)
    connection.recv(1)
    server.process.send_signal(signal.SIGTERM)
    status = 200
    while status == 200:
        try:
            status = server.get("/ready").status
        except OSError:
            break  # it was faster than we are
    assert status in (200, 503)
    while connection.recv(65536):
        pass
    assert server.wait() == 0


def test_a_model_that_cannot_be_loaded(tmp_path):
    refused(lowbit("serve", "--port", 0, "-m", tmp_path / "no.gguf"), "no.gguf")


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(lowbit("serve", "-m", TINY, "--port", taken.getsockname()[1]), "cannot listen on")
