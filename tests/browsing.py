"""What the tests of the page drive: a browser, and a relay before servers that fails when it is told to."""

import http.client
import json
import os
import select
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys


class Browser(webdriver.Chrome):
    """Chromium and the few verbs the tests speak in."""

    def __init__(self):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.set_script_timeout(10)

    def id(self, name):
        return self.find_element(By.ID, name)

    def one(self, selector):
        return self.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.find_elements(By.CSS_SELECTOR, selector)

    def js(self, code, *arguments):
        return self.execute_script("return " + code, *arguments)

    def until(self, condition, seconds=15):
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.02)
        return value

    def size(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, theme):
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def open(self, url, view="chat", messages=None, **settings):
        """A page of a new visitor, or of one who has these messages and settings."""
        self.get(url + "/version")  # the same storage, and no page that would write to it
        self.execute_script("localStorage.clear(); sessionStorage.clear();")
        # The server's temperature, as in requests that do not say; one seed, as a random model may end at its first token.
        settings = {"temperature": "", "top_p": "", "seed": "1", **settings}
        for key, value in (("messages", messages), ("settings", settings)):
            if value is not None:
                self.execute_script("localStorage.setItem(arguments[0], arguments[1])", f"lowbit.{key}", json.dumps(value))
        self.get(f"{url}/#{view}")
        self.until(lambda: self.js("document.querySelectorAll('#chat-model option').length") or self.id("key-form").is_displayed())

    def say(self, text):
        self.id("prompt").send_keys(text + Keys.ENTER)

    def click(self, element):
        """As a person does, who scrolls until it is not below a bar."""
        self.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def messages(self):
        return json.loads(self.js("localStorage.getItem('lowbit.messages')") or "[]")

    def is_writing(self):
        return self.id("stop").is_displayed()

    def wait_for_answer(self):
        self.until(lambda: not self.is_writing())
        return self.messages()[-1]

    def answer_text(self):
        return self.js("[...document.querySelectorAll('.answer .text')].at(-1)?.textContent ?? ''")

    def action(self, name):
        """A button below the last answer."""
        return self.one(f".answer.last .{name}")

    def focused(self):
        return self.js("document.activeElement.id || document.activeElement.textContent.trim()")

    def press(self, *keys):
        self.switch_to.active_element.send_keys(*keys)


class Relay:
    """Two servers of one model each as one server of two, which fails when it is told to."""

    def __init__(self, **servers):
        self.servers, self.refuse, self.cut_after = servers, None, None
        self.n_allowed, self.n_left = None, 0  # events that an answer may have so far; clients that left before the end
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_GET(self):
                relay.get(self)

            def do_POST(self):
                relay.post(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()

    def send(self, handler, status, headers, body):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def get(self, handler):
        if self.refuse and handler.path.startswith("/v1/"):
            body = json.dumps({"error": {"message": self.refuse, "type": "x", "param": None, "code": "overloaded"}}).encode()
            return self.send(handler, 503, {"Content-Type": "application/json"}, body)
        answers = {name: server.get(handler.path) for name, server in self.servers.items()}
        answer = next(iter(answers.values()))
        body = answer.body
        if handler.path == "/v1/models":
            models = [{**one.json["data"][0], "id": name} for name, one in answers.items()]
            body = json.dumps({"object": "list", "data": models}).encode()
        elif handler.path == "/metrics":
            lines = [one.body.decode().replace('model_name="qwen2"', f'model_name="{name}"') for name, one in answers.items()]
            body = "".join(lines).encode()
        wanted = ("content-type", "content-security-policy")
        self.send(handler, answer.status, {k: v for k, v in answer.headers.items() if k in wanted}, body)

    def post(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        if self.refuse:
            return self.get(handler)
        server = self.servers[body.pop("model")]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", handler.path, json.dumps(body))
        response = connection.getresponse()
        self.send(handler, response.status, {"Content-Type": response.getheader("content-type")}, b"")
        n_events = 0
        try:
            while line := response.readline():
                handler.wfile.write(line)
                if line.startswith(b"data: "):
                    n_events += 1
                    while self.n_allowed is not None and n_events > self.n_allowed:
                        time.sleep(0.01)
                        if select.select([handler.connection], [], [], 0)[0]:
                            raise ConnectionResetError
                if self.cut_after and n_events > self.cut_after:
                    break
        except OSError:
            self.n_left += 1
        connection.close()
