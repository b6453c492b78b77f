"""LangChain, unmodified, on a server with a tiny model of random weights."""

from typing import Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
from serving import Server, model_with_tools


class Animal(BaseModel):
    """What was seen."""

    kind: str = Field(pattern="^(bird|fish)$")
    count: int = Field(ge=2, le=40)


@tool
def weather(day: Literal["today", "later"]) -> str:
    """The weather of a day."""
    return f"rain {day}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(model_with_tools(tmp_path_factory.mktemp("model")))
    yield server
    assert server.stop() == 0


def chat_model(server, **fields) -> ChatOpenAI:
    return ChatOpenAI(
        base_url=server.url + "/v1", api_key="none", model="qwen2", max_retries=0, seed=1, **{"temperature": 1, "max_tokens": 20, **fields}
    )


MESSAGES = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("And now?")]


def test_a_chat(server):
    answer = chat_model(server).invoke(MESSAGES)
    assert answer.content and answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata["output_tokens"] == 20


def test_a_stream(server):
    model = chat_model(server)
    pieces = list(model.stream(MESSAGES, stream_usage=True))
    assert len(pieces) > 2
    assert "".join(piece.content for piece in pieces) == model.invoke(MESSAGES).content
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 20


def test_a_batch(server):
    model = chat_model(server)
    together = [answer.content for answer in model.batch(["One", "Two"])]
    assert together == [model.invoke("One").content, model.invoke("Two").content]


def test_a_tool_is_called(server):
    model = chat_model(server, max_tokens=180).bind_tools([weather], tool_choice="weather")
    (call,) = model.invoke("Hello").tool_calls
    assert call["name"] == "weather" and call["args"]["day"] in ("today", "later")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(server, method):
    model = chat_model(server, max_tokens=180, temperature=2).with_structured_output(Animal, method=method)
    answer = model.invoke("Hello")
    assert answer.kind in ("bird", "fish") and 2 <= answer.count <= 40


def test_embeddings(server):
    # Its own token counts would come from the network.
    embeddings = OpenAIEmbeddings(base_url=server.url + "/v1", api_key="none", model="qwen2", check_embedding_ctx_length=False)
    first, second, third = embeddings.embed_documents(["Hello there", "Good day", "Hello there"])
    assert first == third != second and embeddings.embed_query("Good day") == second
