"""lowbit bench --serve against our server, and against servers that a test plays: definitions, counts, errors."""

import http.server
import json
import socketserver
import threading
import time

import numpy as np
import pytest
from conftest import GOLDEN, lowbit, refused
from serving import Server

TINY = GOLDEN / "qwen2"  # 256 tokens of context


def bench(url: str, *arguments, n: int = 4):
    return lowbit("bench", "--serve", url, "--num-prompts", n, *arguments, timeout=120)


class Handler(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible server of a few lines; `server.play` may replace the answer to a completion."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, text: str, **more) -> bytes:
        return b"data: " + json.dumps({"choices": [{"index": 0, "text": text, **more}]}).encode() + b"\n\n"

    def do_GET(self):
        self.server.keys.append(self.headers.get("Authorization"))
        self.answer(200, {"object": "list", "data": [{"id": "played"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.answer(200, {"tokens": [5, 6, 7]}) if self.server.has_ids else self.answer(404, {"detail": "Not Found"})
        self.server.asked.append((self.path, body, time.monotonic()))
        self.server.play(self, body)


def tokens(handler: Handler, body: dict, pause: float = 0, usage: bool = True) -> None:
    handler.begin()
    for i in range(body["max_tokens"]):
        time.sleep(pause)
        handler.piece(handler.chunk(f" {i}"))
    handler.piece(handler.chunk("", finish_reason="length"))
    if usage:
        prompt = body.get("prompt") or body["messages"][0]["content"].split()
        counts = {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}
        handler.piece(b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n")
    handler.piece(b"data: [DONE]\n\n")
    handler.wfile.write(b"0\r\n\r\n")


class Played(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.keys, self.has_ids, self.play = [], [], True, tokens
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def played():
    with Played() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server():
    server = Server(TINY)
    yield server
    assert server.stop() == 0


# ---- our server


def test_counts_equal_the_servers(server):
    before = {name: server.metric(f"vllm:{name}_total") for name in ("prompt_tokens", "generation_tokens")}
    report = bench(server.url, "--random-input-len", 32, "--random-output-len", 12, "--max-concurrency", 3, "--json", n=7).json
    assert report["completed"] == 7 and report["failed"] == 0 and report["model_id"] == "qwen2"
    assert report["total_input_tokens"] == 7 * 32 and report["total_output_tokens"] == 7 * 12
    assert report["max_concurrent_requests"] == report["max_concurrency"] == 3
    after = {name: server.metric(f"vllm:{name}_total") for name in before}
    assert after["prompt_tokens"] - before["prompt_tokens"] == 7 * 32 + 8  # the request that tries it
    assert after["generation_tokens"] - before["generation_tokens"] == 7 * 12 + 1
    assert report["output_throughput"] == pytest.approx(7 * 12 / report["duration"])
    assert report["total_token_throughput"] == pytest.approx(7 * 44 / report["duration"])


def test_chats(server):
    report = bench(server.url, "--endpoint", "chat", "--random-input-len", 64, "--random-output-len", 8, "--json").json
    assert report["completed"] == 4 and report["total_output_tokens"] == 32
    assert report["total_input_tokens"] == pytest.approx(4 * 64, rel=0.5)  # words, counted by the server


def test_a_shared_prefix_is_shared(server):
    before = server.metric("vllm:prefix_cache_hits_total")
    report = bench(server.url, "--random-prefix-len", 128, "--random-input-len", 4, "--random-output-len", 2, "--json", n=6).json
    assert report["total_input_tokens"] == 6 * 132
    assert server.metric("vllm:prefix_cache_hits_total") - before >= 5 * 128


def test_the_table_is_vllms(server):
    done = bench(server.url, "--random-input-len", 8, "--random-output-len", 4, "--request-rate", 200, "--max-concurrency", 2)
    assert done.code == 0, done.err
    names = [line.split(":")[0].strip("=- ") for line in done.out.splitlines()]
    assert names == [
        "Serving Benchmark Result", "Successful requests", "Failed requests", "Maximum request concurrency",
        "Request rate configured (RPS)", "Benchmark duration (s)", "Total input tokens", "Total generated tokens",
        "Request throughput (req/s)", "Output token throughput (tok/s)", "Peak output token throughput (tok/s)",
        "Peak concurrent requests", "Total token throughput (tok/s)",
        "Time to First Token", "Mean TTFT (ms)", "Median TTFT (ms)", "P99 TTFT (ms)",
        "Time per Output Token (excl. 1st token)", "Mean TPOT (ms)", "Median TPOT (ms)", "P99 TPOT (ms)",
        "Inter-token Latency", "Mean ITL (ms)", "Median ITL (ms)", "P99 ITL (ms)",
        "End-to-end Latency", "Mean E2EL (ms)", "Median E2EL (ms)", "P99 E2EL (ms)", "",
    ]  # fmt: skip
    assert {len(line) for line in done.out.splitlines() if line[0] in "=-"} == {50}


# ---- servers that are played


def test_figures_follow_from_the_lists(played):
    """What is printed, computed again by numpy from what was recorded; and nothing was faster than the server."""
    played.play = lambda handler, body: tokens(handler, body, pause=0.01)
    report = bench(played.url, "--random-output-len", 5, "--random-range-ratio", 0.5, "--json", "--save-detailed", n=12).json
    assert report["completed"] == 12
    assert len(set(report["input_lens"])) > 1
    assert sorted(report["input_lens"]) == sorted(len(body["prompt"]) for _, body, _ in played.asked[1:])
    itls = [gap for gaps in report["itls"] for gap in gaps]
    assert [len(gaps) + 1 for gaps in report["itls"]] == report["output_lens"]
    tpots = [(e - t) / (n - 1) for e, t, n in zip(report["latencies"], report["ttfts"], report["output_lens"]) if n > 1]
    for name, values in {"ttft": report["ttfts"], "itl": itls, "tpot": tpots, "e2el": report["latencies"]}.items():
        expected = np.mean(values), np.median(values), np.std(values), np.percentile(values, 99)
        found = [report[f"{kind}_{name}_ms"] for kind in ("mean", "median", "std", "p99")]
        assert found == pytest.approx(1000 * np.array(expected)), name
    assert min(report["ttfts"]) >= 0.01 and np.median(itls) >= 0.005
    for ttft, latency, n in zip(report["ttfts"], report["latencies"], report["output_lens"]):
        assert latency >= n * 0.01 and latency >= ttft + (n - 1) * 0.005


def test_requests_are_what_was_asked_for(played):
    arguments = ["--random-input-len", 9, "--random-output-len", 3, "--random-prefix-len", 4, "--api-key", "secret"]
    assert bench(played.url + "/v1/", *arguments).code == 0
    assert set(played.keys) == {"Bearer secret"}
    paths, bodies, _ = zip(*played.asked[1:])
    assert set(paths) == {"/v1/completions"}
    assert {(body["model"], body["max_tokens"], body["temperature"], body["ignore_eos"]) for body in bodies} == {("played", 3, 0, True)}
    assert all(len(body["prompt"]) == 13 and set(body["prompt"]) <= {5, 6, 7} for body in bodies)
    assert len({tuple(body["prompt"][:4]) for body in bodies}) == 1 and len({tuple(body["prompt"][4:]) for body in bodies}) > 1
    first = sorted(json.dumps(body) for body in bodies)
    played.asked.clear()
    assert bench(played.url, *arguments).code == 0
    assert sorted(json.dumps(body) for _, body, _ in played.asked[1:]) == first
    played.asked.clear()
    assert bench(played.url, *arguments, "--seed", 1, "-m", "other").code == 0
    assert sorted(json.dumps(body) for _, body, _ in played.asked[1:]) != first
    assert {body["model"] for _, body, _ in played.asked} == {"other"}


def test_more_fields(played):
    assert bench(played.url, "--extra-body", '{"temperature": 0.5, "top_p": 0.9, "ignore_eos": false}').code == 0
    for _, body, _ in played.asked:
        assert (body["temperature"], body["top_p"], body["ignore_eos"]) == (0.5, 0.9, False)


def test_without_ids_prompts_are_words(played):
    played.has_ids = False
    report = bench(played.url, "--random-input-len", 20, "--random-output-len", 2, "--json").json
    assert report["total_input_tokens"] == sum(len(body["prompt"]) for _, body, _ in played.asked[2:])
    assert {len(body["prompt"].split()) for _, body, _ in played.asked[2:]} != {0}


def test_without_usage_chunks_are_counted(played):
    played.play = lambda handler, body: tokens(handler, body, usage=False)
    report = bench(played.url, "--random-input-len", 6, "--random-output-len", 3, "--json").json
    assert report["total_output_tokens"] == 4 * 3 and report["total_input_tokens"] == 4 * 6


def test_arrivals_keep_the_rate(played):
    assert bench(played.url, "--request-rate", 40, "--random-output-len", 1, n=20).code == 0
    times = [when for _, _, when in played.asked[1:]]
    # The last is sent 20 / 40 s after the beginning; the first after one random gap.
    assert max(times) - played.asked[0][2] >= 0.5
    assert len({round(when, 3) for when in times}) > 5


def test_concurrency_is_never_more(played):
    lock, now, most = threading.Lock(), [0], [0]

    def play(handler, body):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        tokens(handler, body)

    played.play = play
    assert bench(played.url, "--max-concurrency", 3, "--random-output-len", 1, n=12).code == 0
    assert most[0] <= 3


@pytest.mark.parametrize("cut", [1, 3])
def test_any_chunk_border(played, cut):
    def play(handler, body):
        handler.begin()
        text = b": hello\r\n\r\n" + handler.chunk("é") + handler.chunk(" two") + b"data: [DONE]\n\n"
        for i in range(0, len(text), cut):
            handler.piece(text[i : i + cut])
        handler.wfile.write(b"0\r\n\r\n")

    played.play = play
    report = bench(played.url, "--random-input-len", 6, "--json", n=1).json
    assert report["completed"] == 1 and report["total_output_tokens"] == 2


def test_some_requests_fail(played):
    def play(handler, body):
        if len(played.asked) == 3:
            return handler.answer(503, {"error": {"message": "the queue is full", "type": "x", "param": None, "code": None}})
        if len(played.asked) == 4:
            handler.begin()
            handler.piece(handler.chunk("One"))
            handler.close_connection = True
            return handler.connection.shutdown(2)
        return tokens(handler, body)

    played.play = play
    done = bench(played.url, "--random-output-len", 2, "--max-concurrency", 1, "--json", n=5)
    report = done.json
    assert report["completed"] == 3 and report["failed"] == 2 and report["total_output_tokens"] == 6
    assert "1 requests failed" in done.err and "answered 503: the queue is full" in done.err
    assert "closed the connection within its answer" in done.err


def test_a_connection_that_the_server_closes_is_opened_again(played):
    def play(handler, body):
        tokens(handler, body)
        handler.close_connection = True  # without having said so

    played.play = play
    report = bench(played.url, "--random-output-len", 1, "--max-concurrency", 1, "--json", n=5).json
    assert report["completed"] == 5


# ---- bad input


def test_no_server():
    refused(bench("http://127.0.0.1:1"), "cannot connect to http://127.0.0.1:1", "Connection refused")
    refused(bench("http://nowhere.invalid:80"), "there is no server http://nowhere.invalid:80")


@pytest.mark.parametrize(
    "url, word",
    [
        ("https://x", "TLS"),
        ("ftp://x", "not HTTP"),
        ("http://", "no host"),
        ("http://x:port", "port is no number"),
        ("http://x:", "port is no number"),
        ("http://[::1", "no ]"),
        ("http://x/\r\nA: b", "belong in no address"),
    ],
)
def test_bad_addresses(url, word):
    refused(bench(url), word, code=2)


def test_refusals_are_passed_on(played):
    for status, message in [(401, "a key is needed"), (404, "there is no model x"), (400, "the prompt is too long")]:
        played.play = lambda handler, body: handler.answer(status, {"error": {"message": message}})
        refused(bench(played.url), f"{played.url} answered {status}: {message}")


def test_what_is_no_such_server(played):
    played.play = lambda handler, body: handler.answer(200, {"choices": []})
    refused(bench(played.url), "broke off after 0 chunks")
    played.play = lambda handler, body: handler.wfile.write(b"hello?\r\n\r\n")
    refused(bench(played.url), "gave no HTTP answer")
    played.play = lambda handler, body: handler.connection.shutdown(2)
    refused(bench(played.url), "closed the connection without an answer")


def test_our_own_refusals():
    server = Server(TINY, "--api-key", "k")
    refused(bench(server.url), "answered 401")
    refused(bench(server.url, "--api-key", "k", "-m", "gpt-9"), "answered 404", "that model is not served")
    assert server.metric("vllm:generation_tokens_total") == 0
    refused(bench(server.url, "--api-key", "k", "--random-input-len", 300), "no request succeeded", "answered 400")
    assert server.stop() == 0


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--num-prompts", 0], "--num-prompts"),
        (["--request-rate", -1], "--request-rate"),
        (["--burstiness", 0], "--burstiness"),
        (["--random-range-ratio", 2], "--random-range-ratio"),
        (["--endpoint", "embeddings"], "--endpoint"),
        (["--extra-body", "temperature=1"], "no JSON object"),
        (["--extra-body", '{"stream": false}'], "stream is set by the measurement"),
        (["--shape", "llama-1b"], "leave out"),
    ],
)
def test_options_are_checked(arguments, word):
    refused(lowbit("bench", "--serve", "http://x", *arguments), word, code=2)


def test_options_of_load_need_a_server():
    refused(lowbit("bench", "--num-prompts", 3), "--serve", code=2)
