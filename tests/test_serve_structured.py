"""Answers that are held to a schema or to tool calls, and embeddings, through the unmodified openai client, on a tiny model
of random weights: what it would say freely is noise, so whatever fits a schema was held to it."""

import concurrent.futures
import json
import math

import jsonschema
import openai
import pytest
from serving import Server, model_with_tools, openai_client

MESSAGES = [{"role": "user", "content": "Hello there"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["bird", "fish"]},
        "count": {"type": "integer", "minimum": 2, "maximum": 40},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "minItems": 1, "maxItems": 2},
    },
    "required": ["kind", "count", "tags"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"day": {"enum": ["today", "later"]}}, "required": ["day"]}},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(model_with_tools(tmp_path_factory.mktemp("model")))
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    with openai_client(server) as client:
        yield client


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "qwen2", "messages": MESSAGES, "max_tokens": 180, "seed": 1, **fields})


def json_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


@pytest.mark.parametrize("seed", range(8))
def test_a_schema_holds_hot_answers(client, seed):
    answer = chat(client, response_format=json_format(SCHEMA), temperature=2, seed=seed)
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)


def test_streams_and_choices_are_held_too(client):
    chunks = chat(client, response_format=json_format(SCHEMA), stream=True, n=3, temperature=2)
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(texts)) > 1


def test_neighbours_do_not_change_a_held_answer(client):
    def ask(seed):
        return chat(client, response_format=json_format(SCHEMA), temperature=1, seed=seed).choices[0].message.content

    alone = [ask(seed) for seed in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone


def test_any_object(client):
    # A random model may never end an open object: only whole answers are read.
    answers = [chat(client, response_format={"type": "json_object"}, seed=seed).choices[0] for seed in range(6)]
    assert all(answer.message.content.lstrip().startswith("{") for answer in answers)
    for answer in answers:
        if answer.finish_reason == "stop":
            assert isinstance(json.loads(answer.message.content), dict)


def test_completions_take_a_format(client):
    """As vLLM's do; also for each of several prompts, and in a stream."""
    more = {"response_format": json_format(SCHEMA)}
    fields = {"model": "qwen2", "max_tokens": 180, "seed": 1, "temperature": 2, "extra_body": more}
    for choice in client.completions.create(prompt=["One", "Two"], n=2, **fields).choices:
        jsonschema.validate(json.loads(choice.text), SCHEMA)
    streamed = client.completions.create(prompt="One", stream=True, **fields)
    jsonschema.validate(json.loads("".join(chunk.choices[0].text for chunk in streamed)), SCHEMA)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="qwen2", prompt="One", extra_body={"response_format": json_format({"type": "object", "not": {}})})
    assert refused.value.body["param"] == "response_format"


def test_responses_take_a_format(client):
    text = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}}
    answer = client.responses.create(model="qwen2", input="Hello", text=text, max_output_tokens=180)
    jsonschema.validate(json.loads(answer.output_text), SCHEMA)


@pytest.mark.parametrize(
    "schema, word",
    [
        ({"type": "object", "not": {}}, "not"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"$ref": "https://example.org/schema.json"}, "example.org"),
        ({"type": "string", "pattern": "(?<=a)b"}, "pattern"),
        ({"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"}, "pattern"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, ""),
    ],
)
def test_schemas_that_cannot_be_held(client, schema, word):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, response_format=json_format(schema))
    assert word in str(refused.value)
    assert refused.value.body["param"] == "response_format"


def calls_of(message):
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


@pytest.mark.parametrize("seed", range(4))
def test_a_tool_must_be_called(client, seed):
    answer = chat(client, tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=False, temperature=2, seed=seed)
    (choice,) = answer.choices
    if choice.finish_reason == "length":
        return  # the free arguments of clock need not end
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    ((name, arguments),) = calls_of(choice.message)
    assert name in ("weather", "clock")
    if name == "weather":
        assert arguments["day"] in ("today", "later")


def test_the_named_tool_is_called_also_in_a_stream(client):
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = chat(client, tools=[WEATHER, CLOCK], tool_choice=choice, temperature=2)
    assert calls_of(answer.choices[0].message) == [("weather", {"day": json.loads(answer.choices[0].message.tool_calls[0].function.arguments)["day"]})]
    name = arguments = ""
    for chunk in chat(client, tools=[WEATHER, CLOCK], tool_choice=choice, temperature=2, stream=True):
        for delta in chunk.choices:
            for call in delta.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "weather" and json.loads(arguments)["day"] in ("today", "later")


def test_embeddings(client):
    answer = client.embeddings.create(model="qwen2", input=["Hello there", "Good day", "Hello there"], encoding_format="float")
    first, second, third = (item.embedding for item in answer.data)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert first == third != second
    assert math.isclose(math.fsum(x * x for x in first), 1, rel_tol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    packed = client.embeddings.create(model="qwen2", input="Good day")  # the client asks for base64
    assert packed.data[0].embedding == second


def test_embeddings_of_bad_input(client):
    for given in ([], "", ["a", ""], [[400]], "word " * 400):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(model="qwen2", input=given)
        assert refused.value.body["param"] == "input"


def test_min_tokens(client):
    answer = client.completions.create(model="qwen2", prompt="a", max_tokens=6, extra_body={"min_tokens": 6})
    assert answer.usage.completion_tokens == 6
