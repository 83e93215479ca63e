"""The unchanged `openai` client against the service on a socket."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai
import pytest

from fakes import ScriptedEngine
from ryot_metrics import DecodeError, EngineClosedError, QueueFullError
from ryot_metrics.serve import create_app
from ryot_metrics.serve.run import bind, in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai.types.chat import ChatCompletionUserMessageParam

USER: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Tell me something."}]
EXACT = {"ignore_eos": True, "top_k": 5, "min_p": 0.01, "repetition_penalty": 1.05}
LATE_SECONDS = 10
"""How long a test waits for what should happen at once."""


@pytest.fixture
def connect(live: Callable[[Any], str]) -> Iterator[Callable[[Any], openai.OpenAI]]:
    """A function that serves an engine and gives a client of it."""
    clients: list[openai.OpenAI] = []

    def start(engine: Any) -> openai.OpenAI:
        base_url = f"{live(engine)}/v1"
        clients.append(openai.OpenAI(base_url=base_url, api_key="none", max_retries=0))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def client(engine: Any, connect: Callable[[Any], openai.OpenAI]) -> openai.OpenAI:
    """A client of the working engine."""
    return connect(engine)


def test_completion(client: openai.OpenAI, engine: Any) -> None:
    """A completion has text, a finish reason and sums that add up; vLLM's fields are taken."""
    answer = client.completions.create(
        model=engine.name, prompt="Once", max_tokens=5, extra_body=EXACT
    )
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.tokenize("Once"))
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (
        5,
        answer.usage.prompt_tokens + 5,
    )


def test_completion_stream(client: openai.OpenAI, engine: Any) -> None:
    """A stream has a chunk per token and one with the finish reason."""
    stream = client.completions.create(
        model=engine.name, prompt=[5, 6], max_tokens=5, stream=True, extra_body=EXACT
    )
    assert [chunk.choices[0].finish_reason for chunk in stream] == [None] * 5 + ["length"]


def test_chat(client: openai.OpenAI, engine: Any) -> None:
    """A chat is answered by the assistant."""
    answer = client.chat.completions.create(
        model=engine.name, messages=USER, max_completion_tokens=5, extra_body=EXACT
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


@pytest.mark.asyncio
async def test_async_chats_at_once(engine: Any, live: Callable[[Any], str]) -> None:
    """Eight streamed chats at once each get all their tokens and their usage."""
    base_url = f"{live(engine)}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def chat() -> tuple[int, int]:
            tokens = reported = 0
            async for chunk in await client.chat.completions.create(
                model=engine.name,
                messages=USER,
                max_tokens=7,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=EXACT,
            ):
                tokens += bool(chunk.choices and chunk.choices[0].finish_reason is None)
                reported += chunk.usage.completion_tokens if chunk.usage else 0
            return tokens, reported

        assert await asyncio.gather(*(chat() for _ in range(8))) == [(7, 7)] * 8


@pytest.mark.asyncio
async def test_async_completion(engine: Any, live: Callable[[Any], str]) -> None:
    """Several prompts in one call give as many choices."""
    base_url = f"{live(engine)}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        answer = await client.completions.create(model="", prompt=["a", "b", "c"], max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_models(client: openai.OpenAI, engine: Any) -> None:
    """The model is listed, and found by its name."""
    assert [model.id for model in client.models.list()] == [engine.name]
    assert client.models.retrieve(engine.name).id == engine.name


def test_bad_request(client: openai.OpenAI, engine: Any) -> None:
    """A value beyond its limit and an unsupported field are the client's BadRequestError."""
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model=engine.name, prompt="p", temperature=-1)
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=engine.name, prompt="p", n=0)
    assert error.value.param == "n"


def test_several_answers(client: openai.OpenAI, engine: Any) -> None:
    """`n` chats are as many choices."""
    answer = client.chat.completions.create(model=engine.name, messages=USER, n=3, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_logprobs(client: openai.OpenAI, engine: Any) -> None:
    """The client reads the log-probabilities of chats and of completions."""
    chat = client.chat.completions.create(
        model=engine.name, messages=USER, max_tokens=3, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    for place in chat.choices[0].logprobs.content or []:
        assert place.logprob <= 0
        assert len(place.top_logprobs) == 2
    completion = client.completions.create(model=engine.name, prompt="p", max_tokens=3, logprobs=2)
    found = completion.choices[0].logprobs
    assert found is not None
    assert len(found.tokens or []) == len(found.token_logprobs or []) > 0


@pytest.mark.parametrize("stream", [False, True])
def test_tools(connect: Callable[[Any], openai.OpenAI], stream: bool) -> None:
    """The client finds the call that the model wrote, whole and streamed."""
    written = ["<tool_call>", '{"name": "now", "arguments": {"zone": "UTC"}}', "</tool_call>"]
    engine = ScriptedEngine(written, end="stop")
    engine.model_info["chat_template"] = "{{ tools | tojson }}{{ messages[0].content }}"
    tools: Any = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
    create: Any = connect(engine).chat.completions.create
    answer = create(model="", messages=USER, tools=tools, stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        calls = [call for choice in choices for call in choice.delta.tool_calls or []]
        reason = choices[-1].finish_reason
    else:
        calls = answer.choices[0].message.tool_calls
        reason = answer.choices[0].finish_reason
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("now", {"zone": "UTC"})
    ]
    assert reason == "tool_calls"


def test_api_key(engine: Any) -> None:
    """The client's key is what the service asks for; another is its AuthenticationError."""
    app = create_app(engine, api_keys=["secret"])
    with bind("127.0.0.1", 0) as listening, in_background(app, listening) as url:
        for key in ("secret", "other"):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                if key == "secret":
                    assert client.models.list().data
                    continue
                with pytest.raises(openai.AuthenticationError) as error:
                    client.models.list()
                assert error.value.code == "invalid_api_key"


def test_retry_after_a_full_queue(live: Callable[[Any], str]) -> None:
    """A client that may retry waits as it was told, and gets its answer."""
    full = QueueFullError("the queue holds 256 requests; its limit is 256")
    full.retry_after = 0.1
    engine = ScriptedEngine(["a"], refusal=full)
    engine.refusals_left = 1
    with openai.OpenAI(base_url=f"{live(engine)}/v1", api_key="none", max_retries=2) as client:
        assert client.completions.create(model="", prompt="p").choices[0].text == "a"
    assert len(engine.submitted) == 2


def test_unknown_model(client: openai.OpenAI) -> None:
    """A model that is not served is the client's NotFoundError."""
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="other", messages=USER)
    assert error.value.code == "model_not_found"


def test_full_queue(connect: Callable[[Any], openai.OpenAI]) -> None:
    """A full queue is the client's RateLimitError, with the seconds to wait."""
    full = QueueFullError("the queue holds 256 requests; its limit is 256")
    full.retry_after = 2.5
    with pytest.raises(openai.RateLimitError) as error:
        connect(ScriptedEngine(refusal=full)).completions.create(model="", prompt="p")
    assert error.value.response.headers["retry-after"] == "3"


def test_closed_engine(connect: Callable[[Any], openai.OpenAI]) -> None:
    """A closed engine is the client's InternalServerError, with status 503."""
    closed = EngineClosedError("the engine was shut down")
    with pytest.raises(openai.InternalServerError) as error:
        connect(ScriptedEngine(refusal=closed)).completions.create(model="", prompt="p")
    assert error.value.status_code == 503


def test_failure_in_a_stream(connect: Callable[[Any], openai.OpenAI]) -> None:
    """The client raises what went wrong after the tokens that came before."""
    client = connect(ScriptedEngine(["a"], end=DecodeError("decoding failed")))
    stream = client.completions.create(model="", prompt="p", stream=True)
    assert next(stream).choices[0].text == "a"
    with pytest.raises(openai.APIError, match="decoding failed"):
        next(stream)


def test_closed_stream_is_cancelled(connect: Callable[[Any], openai.OpenAI]) -> None:
    """A client that closes its stream cancels the request, also between tokens."""
    engine = ScriptedEngine(["a"], end=None)
    stream = connect(engine).completions.create(model="", prompt="p", stream=True)
    next(stream)
    assert not engine.streams[0].cancelled.is_set()
    stream.close()
    assert engine.streams[0].cancelled.wait(LATE_SECONDS)


def test_hang_up_cancels_a_whole_answer(live: Callable[[Any], str]) -> None:
    """A client that hangs up while it waits cancels every prompt of its request."""
    engine = ScriptedEngine(["a"], end=None)
    connection = http.client.HTTPConnection(urlsplit(live(engine)).netloc)
    body = json.dumps({"prompt": ["p", "q"]})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    assert engine.accepted.wait(LATE_SECONDS)
    connection.close()
    assert engine.streams[0].cancelled.wait(LATE_SECONDS)
    assert engine.streams[1].cancelled.wait(LATE_SECONDS)
