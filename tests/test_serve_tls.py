"""HTTPS: the unmodified client with a CA of its own, certificates read again, everything that plain HTTP survives."""

import json
import signal
import socket
import ssl
import struct
import subprocess
import time

import openai
import pytest
from conftest import GOLDEN, lowbit, refused
from serving import Server, post_head

TINY = GOLDEN / "qwen2"


def make_certificate(folder, name="127.0.0.1"):
    """A key and a certificate that signs itself, in PEM."""
    folder.mkdir(exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{name}", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return key, certificate


class TlsServer(Server):
    def __init__(self, folder, *arguments):
        self.key, self.certificate = make_certificate(folder)
        super().__init__(TINY, "--ssl-keyfile", self.key, "--ssl-certfile", self.certificate, *arguments, wait=False)
        self.wait_for(self.is_healthy, seconds=120)

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")

    def context(self, certificate=None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=certificate or self.certificate)

    def is_healthy(self) -> bool:
        return b" 200 " in self.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").split(b"\r\n")[0]

    def connect(self, timeout: float = 60) -> ssl.SSLSocket:
        plain = super().connect(timeout)
        return self.context().wrap_socket(plain, server_hostname="127.0.0.1")

    def connect_plain(self) -> socket.socket:
        return super().connect()

    def get_text(self, path: str) -> str:
        return self.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()).decode()

    def metric(self, name: str, **labels) -> float:
        for line in self.get_text("/metrics").splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = TlsServer(tmp_path_factory.mktemp("tls"), "--header-timeout", 0.5)
    yield server
    assert server.stop() == 0


def ask(server, context, **fields):
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key="-", max_retries=0, http_client=openai.DefaultHttpxClient(verify=context)
    ) as client:
        return client.completions.create(model="qwen2", prompt="Once", max_tokens=20, seed=1, **fields)


def test_the_client_with_a_ca_of_its_own(server):
    whole = ask(server, server.context()).choices[0].text
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key="-", max_retries=0, http_client=openai.DefaultHttpxClient(verify=server.context())
    ) as client:
        stream = client.completions.create(model="qwen2", prompt="Once", max_tokens=20, seed=1, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == whole
    assert "listening on https://" in "".join(server.said)


def test_a_client_that_does_not_know_the_ca(server):
    with pytest.raises(openai.APIConnectionError):
        ask(server, ssl.create_default_context())


def test_large_bodies_both_ways(server):
    text = "word " * 400_000
    body = json.dumps({"prompt": text}).encode()
    with server.connect() as connection:
        connection.sendall(post_head("/tokenize", len(body), "Connection: close") + body)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["count"] > 400_000


def test_what_is_not_tls_ends_soon(server):
    start = time.monotonic()
    with server.connect_plain() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert b"200" not in connection.recv(100)
    with server.connect_plain() as connection:  # says nothing at all
        connection.settimeout(10)
        assert connection.recv(100) == b""
    with server.connect_plain() as connection:  # a hello cut off in the middle
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert connection.recv(100) == b""
    assert time.monotonic() - start < 10
    assert server.is_healthy()


def test_old_versions_are_refused(server):
    context = server.context()
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(server.connect_plain(), server_hostname="127.0.0.1")


@pytest.mark.parametrize("is_rude", [True, False])
def test_a_client_that_leaves_frees_its_place(server, is_rude):
    body = json.dumps({"prompt": "a", "stream": True, "ignore_eos": True, "max_tokens": 240, "n": 16}).encode()
    before = server.metric("vllm:request_success_total", finished_reason="abort")
    connection = server.connect()
    connection.sendall(post_head("/v1/completions", len(body)) + body)
    connection.recv(1)
    if is_rude:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == 0)
    assert server.metric("vllm:request_success_total", finished_reason="abort") > before


def test_many_handshakes_leave_nothing(server):
    for _ in range(100):
        server.connect().close()
        server.connect_plain().close()
    server.wait_for(lambda: server.metric("lowbit:connections") <= 1)


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(tmp_path):
    server = TlsServer(tmp_path / "first")
    old = server.context()
    with server.connect() as kept:
        kept.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in kept.recv(1000)
        key, certificate = make_certificate(tmp_path / "second")
        server.key.write_bytes(key.read_bytes())
        server.certificate.write_bytes(certificate.read_bytes())
        server.process.send_signal(signal.SIGHUP)

        def takes_the_new_one():
            try:
                return server.is_healthy()  # context() reads the new file
            except ssl.SSLError:
                return False

        server.wait_for(takes_the_new_one)
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(server.connect_plain(), server_hostname="127.0.0.1")
        kept.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")  # connections live on
        assert b" 200 " in kept.recv(1000)
    server.key.write_text("no key")
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert server.is_healthy()
    assert server.stop() == 0
    assert "the old certificate stays" in "".join(server.said)


def test_certificates_that_cannot_be(tmp_path):
    key, certificate = make_certificate(tmp_path / "one")
    other, _ = make_certificate(tmp_path / "two")
    serve = ["serve", "--port", 0, "-m", TINY]
    refused(lowbit(*serve, "--ssl-certfile", tmp_path / "none.pem", "--ssl-keyfile", key), "none.pem")
    refused(lowbit(*serve, "--ssl-certfile", certificate, "--ssl-keyfile", other), "with the certificate")
    assert lowbit(*serve, "--ssl-certfile", certificate).code != 0
