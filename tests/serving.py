"""A server under test: started on a free port, asked over real sockets, ended with SIGTERM."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import openai
from conftest import BINARY, GOLDEN


class Answer:
    def __init__(self, status: int, headers: dict, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        """OpenAI's error body, checked for its form."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"], error
        return error


def model_with_tools(folder: Path) -> Path:
    """The tiny model qwen2 with a template that reads tools."""
    model = folder / "qwen2"
    shutil.copytree(GOLDEN / "qwen2", model)
    template = model / "chat_template.jinja"
    reads = "{% if tools %}tools: {% for tool in tools %}{{ tool.function.name }} {% endfor %}{% endif %}"
    template.write_text(reads + template.read_text())
    return model


def openai_client(server: "Server", api_key: str = "none", max_retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key=api_key, max_retries=max_retries)


class Server:
    def __init__(self, model: Path, *arguments, wait: bool = True):
        self.process = subprocess.Popen(
            [BINARY, "serve", "-m", model, "--port", "0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = []
        while True:
            line = self.process.stderr.readline()
            assert line, f"the server ended: {self.said}"
            self.said.append(line)
            if found := re.search(r"listening on https?://[^ ]*:(\d+)$", line.strip()):
                self.port = int(found[1])
                break
        if wait:
            self.wait_until_ready()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while self.get("/health").status != 200:
            assert time.monotonic() < end, "not ready"
            time.sleep(0.02)

    def request(self, method: str, path: str, body=None, headers: dict | None = None, timeout: float = 120) -> Answer:
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **more) -> Answer:
        return self.request("GET", path, **more)

    def post(self, path: str, body, **more) -> Answer:
        return self.request("POST", path, body, **more)

    def chat(self, text: str = "Hi", **fields) -> Answer:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, "seed": 1, **fields})

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 60) -> bytes:
        """Everything the server says to these bytes until it closes."""
        with self.connect(timeout) as connection:
            connection.sendall(data)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer

    def metric(self, name: str, **labels) -> float:
        """One series of /metrics; 0 if it is not there yet."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0

    def wait_for(self, condition, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code of a server that ends by itself."""
        _, errors = self.process.communicate(timeout=60)
        self.said += errors.splitlines(keepends=True)
        text = "".join(self.said)
        assert "Sanitizer" not in text and "runtime error" not in text, text
        return self.process.returncode


def post_head(path: str, length: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
