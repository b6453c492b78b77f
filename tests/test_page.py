"""The page at / in a real browser: Chromium without a window, over a server with a tiny model of random weights.

The tiny model answers faster than one can look: a relay in front of it (browsing.py) hands on as many tokens as a test allows, and
makes what the server cannot be asked for.
"""

import importlib.resources
import json
import re
import time

import pytest
from browsing import Browser, Relay
from conftest import GOLDEN
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from serving import Server

TINY = GOLDEN / "qwen2"
VIEWS = ["chat", "engine", "compare"]
WIDE, PHONE = (1100, 800), (360, 740)
# Where things can overflow, hide or lose contrast.
SAMPLE = """A *short* **text** with `code` and [a link](https://example.org/) and https://example.org/x.

# Heading

```python
def f(x):  # a comment that makes this line much longer than a telephone is wide, so that it has to scroll
    return "a string" + str(42)
```

1. one
   - inner
2. two

| a | much wider table | than a telephone | is | able to show | at once |
|---|---|---|:-:|--:|---|
| 1 | 2 | 3 | 4 | 5 | aVeryLongWordThatGoesOnAndOnAndOnAndOn |

> a quote

---
averyveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryveryverylongword"""


@pytest.fixture(scope="module")
def server():
    server = Server(TINY)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def chromium():
    browser = Browser()
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium):
    chromium.size(*WIDE)
    chromium.prefer("light")
    yield chromium
    expected = ("401", "404", "503", "400", "net::ERR_", "favicon")  # answers that a test asked for
    log = [entry["message"] for entry in chromium.get_log("browser")]
    assert not [line for line in log if "Content Security Policy" in line], log
    assert not [line for line in log if not any(word in line for word in expected)], log


def api_answer(server, *messages, **fields):
    """What the API says to the same request."""
    roles = ["user", "assistant"] * len(messages)
    turns = [{"role": role, "content": text} for role, text in zip(roles, messages)]
    return server.post("/v1/chat/completions", {"messages": turns, **fields}).json["choices"][0]["message"]["content"]


# ---- how it is served


def test_headers_of_the_page(server):
    page = server.get("/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    )
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["cache-control"] == "no-cache"
    again = server.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert again.status == 304 and again.body == b"" and again.headers["etag"] == page.headers["etag"]
    head = server.request("HEAD", "/")
    assert head.body == b"" and int(head.headers["content-length"]) == len(page.body)
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
    names = set(re.findall(rb'(?:href|src)="(page/[^"]+)"', page.body))
    assert len(names) >= 3
    for name in names:
        file = server.get("/" + name.decode())
        assert file.status == 200 and file.headers["content-type"] == types[name.decode().rsplit(".", 1)[1]]
    assert server.get("/page/none.js").status == 404 and server.post("/", {}).status == 405
    assert re.search(rb"https?://(?!www\.w3\.org/2000/svg)", page.body) is None  # nothing from elsewhere


# ---- chat


def test_an_answer_grows_and_is_the_apis(server, relay, browser):
    relay.n_allowed = 0
    browser.open(relay.url, seed="1", max_tokens="60")
    browser.say("Hello there")
    assert browser.id("prompt").get_attribute("value") == ""
    assert browser.one(".person .text").text == "Hello there"
    before = 0
    for relay.n_allowed in (10, 20, 30, 40):
        browser.until(lambda: len(browser.answer_text()) > before)
        before = len(browser.answer_text())
        assert browser.is_writing()
    relay.n_allowed = None
    answer = browser.wait_for_answer()
    assert answer["content"] == api_answer(server, "Hello there", seed=1, max_tokens=60)
    assert answer["stats"]["n_tokens"] == 60 and answer["finish"] == "length"
    assert "60 tokens" in browser.one(".answer .note").text and "tokens/s" in browser.one(".answer .note").text
    assert "of 256 tokens of context" in browser.id("context").text
    assert browser.js("location.href") == relay.url + "/#chat"  # nothing of it in the address


def test_parameters_are_sent(server, browser):
    browser.open(server.url, seed="")
    browser.id("toggle-settings").click()
    for name, value in {"system": "Be brief.", "temperature": "1.5", "top_p": "0.9", "max_tokens": "9", "seed": "4"}.items():
        browser.id(name).send_keys(value)
    browser.say("Hello")
    system = {"role": "system", "content": "Be brief."}
    body = {"messages": [system, {"role": "user", "content": "Hello"}], "temperature": 1.5, "top_p": 0.9, "max_tokens": 9, "seed": 4}

    def said(**other):
        return server.post("/v1/chat/completions", {**body, **other}).json["choices"][0]["message"]["content"]

    assert browser.wait_for_answer()["content"] == said()
    for other in ({"messages": body["messages"][1:]}, {"temperature": 1}, {"top_p": 1}, {"max_tokens": 8}, {"seed": 14}):
        assert said(**other) != said(), other  # each of them counts
    browser.refresh()
    assert browser.id("temperature").get_attribute("value") == "1.5" and browser.id("system").get_attribute("value") == "Be brief."
    browser.id("toggle-settings").click()
    browser.id("reset-settings").click()
    assert [browser.id(name).get_attribute("value") for name in ("system", "temperature", "top_p", "seed")] == ["", "0.7", "0.95", ""]


def test_stop_and_continue(server, relay, browser):
    relay.n_allowed = 40
    browser.open(relay.url, seed="1", max_tokens="100")
    browser.say("Hello there")
    browser.until(lambda: len(browser.answer_text()) > 10)
    browser.press(Keys.ESCAPE)
    stopped = browser.wait_for_answer()
    browser.until(lambda: relay.n_left == 1)  # the connection ends, and with it the work of the server
    assert stopped["finish"] == "stopped" and "stopped" in browser.one(".answer .note").text
    assert stopped["content"] and len(stopped["content"]) < len(api_answer(server, "Hello there", seed=1, max_tokens=100))
    relay.n_allowed = None
    browser.click(browser.action("go-on"))
    more = browser.wait_for_answer()["content"]
    assert more.startswith(stopped["content"]) and len(more) > len(stopped["content"])
    assert len(browser.all(".message")) == 2
    # The button does the same.
    relay.n_allowed = 20
    browser.click(browser.action("again"))
    browser.until(lambda: len(browser.answer_text()) > 3)
    browser.id("stop").click()
    assert browser.wait_for_answer()["finish"] == "stopped" and browser.focused() == "prompt"


def test_a_reload_keeps_the_conversation(relay, browser):
    relay.n_allowed = 60
    browser.open(relay.url, seed="1", max_tokens="200")
    browser.say("Hello there")
    browser.until(lambda: len(browser.answer_text()) > 20)
    browser.refresh()  # in the middle of an answer
    question, answer = browser.messages()
    assert question["content"] == "Hello there" and len(answer["content"]) > 20
    assert browser.one(".person .text").text == "Hello there"
    assert browser.answer_text().strip() and "stopped" in browser.one(".answer .note").text
    browser.id("new-chat").click()
    assert browser.messages() == [] and browser.id("welcome").is_displayed()
    browser.one(".undo button").click()
    assert [message["content"] for message in browser.messages()] == ["Hello there", answer["content"]]
    browser.id("new-chat").click()
    browser.refresh()
    assert browser.all(".message") == []


def test_edit_and_regenerate(server, browser):
    browser.open(server.url, seed="1", max_tokens="12")
    browser.say("One")
    first = browser.wait_for_answer()["content"]
    browser.say("Two")
    browser.wait_for_answer()
    assert browser.messages()[-1]["content"] == api_answer(server, "One", first, "Two", seed=1, max_tokens=12)
    browser.execute_script("const seed = document.getElementById('seed'); seed.value = '7'; seed.dispatchEvent(new Event('input', {bubbles: true}))")
    browser.click(browser.action("again"))
    answer = browser.wait_for_answer()["content"]
    assert answer == api_answer(server, "One", first, "Two", seed=7, max_tokens=12)
    assert len(browser.messages()) == 4 and browser.focused() == "prompt"
    browser.click(browser.all(".edit")[0])
    field = browser.one(".edit-form textarea")
    assert field.get_attribute("value") == "One"
    field.send_keys(Keys.ESCAPE)
    assert browser.all(".edit-form") == [] and len(browser.all(".message")) == 4
    browser.click(browser.all(".edit")[0])
    browser.one(".edit-form textarea").send_keys(" more" + Keys.ENTER)
    answer = browser.wait_for_answer()["content"]
    assert [m["content"] for m in browser.messages()] == ["One more", answer]
    assert answer == api_answer(server, "One more", seed=7, max_tokens=12)


def test_keys_alone(server, browser):
    browser.open(server.url, max_tokens="5", seed="1")
    browser.press(Keys.TAB)
    assert browser.focused() == "skip"
    assert browser.id("skip").location["y"] >= 0  # to be seen while it has the focus
    order = []
    for _ in range(12):
        browser.press(Keys.TAB)
        order.append(browser.focused())
    ideas = [item.text for item in browser.all(".idea")]
    assert order[:7] == ["Chat", "Engine", "Compare", "theme", "chat-model", "toggle-settings", ideas[0]]
    assert order[9:11] == ["prompt", "send"]
    browser.press(Keys.ESCAPE)
    browser.id("skip").send_keys(Keys.ENTER)
    assert browser.focused() == "prompt"
    browser.press("Two", Keys.SHIFT + Keys.ENTER + Keys.NULL, "lines")
    assert browser.all(".message") == []
    browser.press(Keys.ENTER)
    browser.wait_for_answer()
    assert browser.messages()[0]["content"] == "Two\nlines" and browser.focused() == "prompt"
    browser.press(Keys.ARROW_UP)
    assert browser.js("document.activeElement.value") == "Two\nlines"
    browser.press("!", Keys.ENTER)
    browser.wait_for_answer()
    assert browser.messages()[0]["content"] == "Two\nlines!" and browser.focused() == "prompt"
    # What has the focus shows it: on each control an outline, or a border around the field that holds it.
    for _ in range(14):
        browser.press(Keys.TAB)
        style = browser.js(
            "(e => [e, e.closest('form')].some(x => x && parseFloat(getComputedStyle(x).outlineWidth) >= 1 && getComputedStyle(x).outlineStyle !== 'none'))(document.activeElement)"
        )
        assert style or browser.js("document.activeElement === document.body"), browser.focused()


# ---- markdown


@pytest.mark.parametrize(
    "text, html",
    [
        ("a\nb", "<p>a<br>b</p>"),
        ("a\n\nb", "<p>a</p><p>b</p>"),
        ("**a** *b* __c__ _d_ ~~e~~", "<p><strong>a</strong> <em>b</em> <strong>c</strong> <em>d</em> <del>e</del></p>"),
        ("***a*** and *a **b** c*", "<p><strong><em>a</em></strong> and <em>a <strong>b</strong> c</em></p>"),
        ("2 * 3 * 4, snake_case_name, **open", "<p>2 * 3 * 4, snake_case_name, **open</p>"),
        (r"\*a\* and `*b*` and ``a`b``", "<p>*a* and <code>*b*</code> and <code>a`b</code></p>"),
        ("# A\n### B", "<h3>A</h3><h5>B</h5>"),
        ("- a\n- b\n  - c\n\n1) x\n2) y", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>x</li><li>y</li></ol>"),
        ("3. a\n\n   more\n4. b", '<ol start="3"><li>a<p>more</p></li><li>b</li></ol>'),
        ("> a\n> > b\n\n---", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><hr>"),
        ("<b>x</b> &amp; <script>y</script>", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;script&gt;y&lt;/script&gt;</p>"),
        ("[x](javascript:alert(1)) [y](/v1/models)", "<p>x (javascript:alert(1)) y (/v1/models)</p>"),
        ("![i](https://e.org/i.png)", '<p><a href="https://e.org/i.png" target="_blank" rel="noopener noreferrer">i</a></p>'),
        ("see https://e.org/a_b_c.", '<p>see <a href="https://e.org/a_b_c" target="_blank" rel="noopener noreferrer">https://e.org/a_b_c</a>.</p>'),
    ],
)  # fmt: skip
def test_markdown(server, browser, text, html):
    if "/version" not in browser.current_url:
        browser.get(server.url + "/")
    assert rendered(browser, text) == html


def rendered(browser, text):
    code = """
        const [text, done] = arguments, element = document.createElement("div");
        import("/page/markdown.js").then(({renderMarkdown}) => { renderMarkdown(element, text); done(element.innerHTML); });
    """
    return browser.execute_async_script(code, text)


def test_code_blocks_and_tables(server, browser):
    browser.open(server.url, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": SAMPLE, "finish": "stop"}])
    code = browser.one(".code code")
    assert code.get_attribute("textContent") == "\n".join(SAMPLE.split("```")[1].split("\n")[1:-1])
    assert {span.get_attribute("class") for span in code.find_elements(By.TAG_NAME, "span")} == {
        "code-word", "code-comment", "code-string", "code-number"}  # fmt: skip
    assert len(browser.all("table th")) == 6 and len(browser.all("table td")) == 6
    browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    button = browser.one(".code-bar button")
    browser.click(button)
    browser.until(lambda: button.text == "Copied")
    assert browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])") == code.get_attribute("textContent")


def test_blocks_that_are_done_keep_their_nodes(server, browser):
    browser.get(server.url + "/")
    code = """
        const [texts, done] = arguments, element = document.createElement("div");
        import("/page/markdown.js").then(({renderMarkdown}) => {
          renderMarkdown(element, texts[0]);
          const first = element.firstChild;
          renderMarkdown(element, texts[1]);
          done([element.firstChild === first, element.textContent]);
        });
    """
    assert browser.execute_async_script(code, ["a\n\nb", "a\n\nb c\n\nd"]) == [True, "ab cd"]


def test_hostile_text_stays_text_and_takes_no_time(server, browser):
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script> [a](javascript:alert(1)) <iframe src=//e.org></iframe>"
    browser.open(server.url, messages=[{"role": "user", "content": hostile}, {"role": "assistant", "content": hostile, "model": hostile}])
    assert browser.all(".message img, .message script, .message iframe, .message a") == []
    assert browser.answer_text() == hostile.replace("[a](javascript:alert(1))", "a (javascript:alert(1))")
    for piece in ("*a ", "**", "> ", "[", "![a](", "- ", "`", "|-", "_a*", "<http://", "    - a\n", "1. "):
        start = time.monotonic()
        rendered(browser, piece * 5000)
        assert time.monotonic() - start < 5, piece


# ---- how it looks


def scrolls_sideways(browser):
    return browser.js("document.documentElement.scrollWidth > innerWidth")


CHAT = [{"role": "user", "content": "Show me everything, " + "verylong" * 20}, {"role": "assistant", "content": SAMPLE, "finish": "stopped", "model": "qwen2"}]


@pytest.mark.parametrize("view", VIEWS)
def test_a_telephone(server, browser, view):
    browser.size(*PHONE)
    browser.open(server.url, view, messages=CHAT)
    if view == "engine":
        browser.until(lambda: browser.all("#engine-tables table"))
    assert not scrolls_sideways(browser)
    for control in browser.all("button, select, textarea, input, a"):
        if control.is_displayed() and control.get_attribute("id") != "skip" and control.size["width"] > 1:
            left, width = control.rect["x"], control.rect["width"]
            inside_scroller = browser.js("arguments[0].closest('.wide, pre') !== null", control)
            assert inside_scroller or (left >= 0 and left + width <= PHONE[0]), control.get_attribute("outerHTML")
    if view == "chat":
        browser.id("toggle-settings").click()
        assert browser.id("system").is_displayed() and not scrolls_sideways(browser)


def test_dark_mode(server, browser):
    def lightness():
        return sum(map(int, re.findall(r"\d+", browser.js("getComputedStyle(document.body).backgroundColor"))[:3]))

    browser.open(server.url)
    assert lightness() > 600
    browser.prefer("dark")
    browser.until(lambda: lightness() < 150)
    assert browser.id("theme").get_attribute("aria-pressed") == "true"
    browser.id("theme").click()
    assert lightness() > 600
    browser.refresh()
    assert lightness() > 600 and browser.id("theme").get_attribute("aria-pressed") == "false"
    browser.prefer("light")
    assert lightness() > 600


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_accessible(server, browser, view, theme):
    """axe-core's rules, all of them: names, roles, contrast, order of headings, language, landmarks."""
    browser.prefer(theme)
    browser.open(server.url, view, messages=CHAT)
    if view == "chat":
        browser.id("toggle-settings").click()
        browser.click(browser.all(".edit")[0])
    if view == "engine":
        browser.until(lambda: browser.all("#engine-tables table"))
    assert axe_finds(browser) == []
    assert browser.js("document.documentElement.lang") == "en" and browser.title.lower().startswith(view)
    headings = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter(h => h.offsetParent)"
    levels = browser.js(headings + ".map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels


def axe_finds(browser):
    browser.execute_script((importlib.resources.files("axe_core_python") / "axe.min.js").read_text())
    found = browser.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
    assert len(found["passes"]) > 15
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found["violations"]]


# ---- the engine


def test_the_engine_live(server, browser):
    for _ in range(2):
        server.chat(max_tokens=60, ignore_eos=True)  # the past, which is no speed of today
    browser.open(server.url, "engine")
    cards = {card.find_element(By.TAG_NAME, "h3").text: card for card in browser.all("#cards .card")}
    for name in ("Tokens written", "Tokens read", "Running", "Waiting", "KV pages", "Prefix cache", "Forward pass", "Preempted"):
        assert name in cards, cards.keys()
    written = int(server.metric("vllm:generation_tokens_total"))
    server.chat(max_tokens=30, ignore_eos=True)
    browser.until(lambda: f"{written + 30:,} since the start" in cards["Tokens written"].text)
    peak = browser.until(lambda: re.search(r"peak ([\d.]+)", cards["Tokens written"].text))
    assert 1 < float(peak[1]) <= 60  # 30 tokens between two polls a second apart
    assert browser.js("document.querySelectorAll('#cards path.line[d^=M]').length") >= 8
    browser.until(lambda: re.search(r"To the first token \d", browser.id("engine-tables").text))
    assert "qwen2" in browser.id("engine-tables").text


def test_figures_from_metrics(server, browser):
    browser.get(server.url + "/")
    code = r"""
        const done = arguments[0];
        import("/page/metrics.js").then(({Sample, perSecond, meanBetween, quantileBetween}) => {
          const text = (n, upTo) => `# HELP c x\nc{model_name="a\\"}"} ${n}\nc{model_name="b"} 5\n` +
            `h_bucket{le="1"} ${upTo[0]}\nh_bucket{le="2"} ${upTo[1]}\nh_bucket{le="+Inf"} ${upTo[2]}\nh_sum ${n}\nh_count ${upTo[2]}\n`;
          const before = new Sample(text(10, [0, 0, 0]), 1), now = new Sample(text(30, [4, 8, 10]), 3);
          done([now.sum("c"), now.sum("c", 'a"}'), now.sum("none"), perSecond(before, now, "c"), perSecond(now, before, "c"),
            meanBetween(before, now, "h"), ...[0.2, 0.5, 0.8, 0.99].map((q) => quantileBetween(before, now, "h", q))]);
        });
    """
    assert browser.execute_async_script(code) == [35, 30, None, 10, None, 2, 0.5, 1.25, 2, 2]


# ---- errors in sentences


def test_a_key_is_asked_for(browser, tmp_path):
    server = Server(TINY, "--api-key", "secret", wait=False)
    server.wait_until_ready()
    browser.open(server.url, max_tokens="3")
    assert browser.id("key-note").text == "This server asks for an API key."
    browser.id("key").send_keys("wrong" + Keys.ENTER)
    browser.until(lambda: browser.id("key-note").text == "The server does not accept this API key.")
    browser.id("key").send_keys("secret" + Keys.ENTER)
    browser.until(lambda: not browser.id("key-form").is_displayed())
    browser.say("Hello")
    assert browser.wait_for_answer()["content"]
    browser.refresh()  # the tab keeps it, the disk does not
    browser.until(lambda: browser.js("document.querySelectorAll('#chat-model option').length"))
    assert not browser.id("key-form").is_displayed()
    assert "secret" not in browser.js("JSON.stringify(localStorage)")
    # The server ends while the page is open, and the page says so.
    assert server.stop() == 0
    browser.until(lambda: browser.id("notice").text == "The server does not answer. Is lowbit serve still running?")
    browser.say("Hello again")
    assert "does not answer" in browser.wait_for_answer()["fault"]
    assert "does not answer" in browser.one(".answer.last .fault").text
    assert [m["content"] for m in browser.messages() if m["role"] == "user"] == ["Hello", "Hello again"]


def test_a_full_context(server, browser):
    browser.open(server.url, max_tokens="5")
    browser.say("word " * 300)
    fault = browser.wait_for_answer()["fault"]
    assert fault.startswith("This does not fit into the model's context.") and "256" in fault
    assert "Start a new chat" in browser.one(".fault").text
    browser.say("Short")  # what failed stays said: the two turns become one, which still does not fit
    assert "context" in browser.wait_for_answer()["fault"]
    browser.click(browser.all(".edit")[0])
    field = browser.one(".edit-form textarea")
    field.clear()
    field.send_keys("Hello" + Keys.ENTER)
    answer = browser.wait_for_answer()
    assert answer["content"] and "fault" not in answer


def test_fields_that_the_server_refuses(server, browser):
    browser.open(server.url, max_tokens="255")
    browser.say("Hello")
    assert "255" in browser.wait_for_answer()["fault"] and browser.one(".fault").is_displayed()


@pytest.fixture(scope="module")
def relay(server, q8_0):
    other = Server(q8_0, "--alias", "qwen2")
    relay = Relay(plain=server, small=other)
    yield relay
    relay.stop()
    assert other.stop() == 0


@pytest.fixture(autouse=True)
def relay_is_well(request):
    yield
    if "relay" in request.fixturenames:
        relay = request.getfixturevalue("relay")
        relay.refuse = relay.cut_after = None
        relay.n_allowed, relay.n_left = None, 0


def test_a_broken_stream_and_a_busy_server(relay, browser):
    browser.open(relay.url, max_tokens="40", seed="1")
    relay.cut_after = 10
    browser.say("Hello")
    answer = browser.wait_for_answer()
    assert answer["fault"] == "The connection ended before the answer did." and answer["content"]
    relay.cut_after = None
    browser.click(browser.action("go-on"))
    more = browser.wait_for_answer()
    assert more["content"].startswith(answer["content"]) and "fault" not in more
    relay.refuse = "the queue is full; try again in a moment"
    browser.say("Hello")
    assert browser.wait_for_answer()["fault"] == "The server takes no requests now. The queue is full; try again in a moment."


def test_the_page_waits_for_the_model(relay, browser):
    relay.refuse = "the model is being loaded"
    browser.get(relay.url + "/")
    browser.until(lambda: browser.id("notice").text == "The model is being loaded. This page goes on by itself.")
    relay.refuse = None
    browser.until(lambda: browser.js("document.querySelectorAll('#chat-model option').length") == 2)
    assert not browser.id("notice").is_displayed()


# ---- comparison


def test_one_model_cannot_be_compared(server, browser):
    browser.open(server.url, "compare")
    text = browser.id("compare-alone").text
    assert "This server has one model, qwen2." in text and "lowbit serve --model" in text
    assert not browser.id("compare-form").is_displayed()


def first_difference(relay, prompt, n_tokens):
    """(index of the token, its text in each), from the API."""
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": n_tokens, "logprobs": True}
    tokens = [
        [token["token"] for token in server.post("/v1/chat/completions", body).json["choices"][0]["logprobs"]["content"]]
        for server in relay.servers.values()
    ]
    at = next((at for at, pair in enumerate(zip(*tokens)) if pair[0] != pair[1]), None)
    return at, [side[at] for side in tokens] if at is not None else None


def test_two_models_side_by_side(relay, browser):
    prompts = [f"Tell me about number {i}." for i in range(40)]
    prompt, at, tokens = next((p, *found) for p in prompts if (found := first_difference(relay, p, 60))[0] and found[0] > 1)
    browser.open(relay.url, "compare")
    field = browser.id("compare-prompt")
    field.clear()
    field.send_keys(prompt)
    browser.id("compare-tokens").clear()
    browser.id("compare-tokens").send_keys("60")
    browser.id("compare-run").click()
    browser.until(lambda: browser.id("compare-run").is_displayed() and browser.id("verdict").text)
    assert browser.id("verdict").text.startswith(f"Token {at + 1} is the first that differs: plain takes")
    assert [mark.get_attribute("textContent") for mark in browser.all("#sides mark")] == tokens
    for side in browser.all("#sides .side"):
        assert re.search(r"Speed\n[\d.]+ tokens/s\nFirst token\nafter \d", side.text) and "\n60 tokens\n" in side.text, side.text
    assert axe_finds(browser) == []
    browser.size(*PHONE)
    assert not scrolls_sideways(browser)
    # A model and itself: nothing differs. At once this time.
    browser.size(*WIDE)
    Select(browser.id("compare-b")).select_by_value("plain")
    browser.id("compare-together").click()
    browser.id("compare-run").click()
    browser.until(lambda: "the same" in browser.id("verdict").text)
    assert browser.id("verdict").text == "Both answers are the same, all 60 tokens of them." and browser.all("#sides mark") == []


def test_a_server_of_two_models(q8_0, browser):
    server = Server(f"plain={TINY}", "--model", f"small={q8_0}")
    browser.open(server.url, max_tokens="3")
    browser.until(lambda: browser.js("document.querySelectorAll('#chat-model option').length") == 2)
    browser.get(server.url + "/#engine")
    browser.until(lambda: re.search(r"small \S+ 0 not loaded", browser.id("engine-tables").text))
    browser.get(server.url + "/#compare")
    browser.id("compare-run").click()
    browser.until(lambda: browser.id("compare-run").is_displayed() and browser.id("verdict").text)
    for side in browser.all("#sides .side"):
        browser.until(lambda side=side: re.search(r"Weights\n[\d.]+ [kM]B", side.text))
    browser.get(server.url + "/#chat")
    Select(browser.id("chat-model")).select_by_value("small")
    browser.say("Hello")
    browser.wait_for_answer()
    assert browser.one(".answer .who").text == "small" and "of 256 tokens of context" in browser.id("context").text
    browser.refresh()  # the choice is kept
    browser.until(lambda: browser.id("chat-model").get_attribute("value") == "small")
    assert server.stop() == 0
