"""The service's answers byte by byte, without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from fakes import ScriptedEngine
from page import changes
from ryot_metrics import DecodeError, EngineClosedError, QueueFullError, SamplingParams
from ryot_metrics.serve import create_app

pytestmark = pytest.mark.asyncio

USER = [{"role": "user", "content": "Hi"}]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
TOKENIZE = "/tokenize"


def client_of(engine: Any) -> httpx.AsyncClient:
    """A client that calls the application directly."""
    transport = httpx.ASGITransport(create_app(engine), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
def client(engine: Any) -> httpx.AsyncClient:
    """A client of the service over the working engine."""
    return client_of(engine)


async def answer(engine: Any, path: str, **body: Any) -> httpx.Response:
    """One answer of a service over this engine."""
    async with client_of(engine) as client:
        return await client.post(path, json=body)


def events(response: httpx.Response) -> list[Any]:
    """The parsed events of a streamed answer, which must end with [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *data, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in data]


async def test_one_event_per_token() -> None:
    """A held-back token is an event with empty text; the tail comes with the finish reason."""
    engine = ScriptedEngine(["a", "", '"é\n'], end="stop", tail="!")
    chunks = events(await answer(engine, COMPLETIONS, prompt="p", stream=True))
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        ("a", None),
        ("", None),
        ('"é\n', None),
        ("!", "stop"),
    ]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {(chunks[0]["id"], "scripted")}


async def test_chat_deltas() -> None:
    """The role comes once, with the first token; `object` is the chunk's."""
    engine = ScriptedEngine(["a", "b"])
    chunks = events(await answer(engine, CHAT, messages=USER, stream=True))
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {"content": ""},
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_no_token_at_all() -> None:
    """An answer that ends at once still has its role and its finish reason."""
    (chunk,) = events(
        await answer(ScriptedEngine([], end="stop"), CHAT, messages=USER, stream=True)
    )
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunk["choices"][0]["finish_reason"] == "stop"


async def test_usage_chunk_only_if_asked(client: httpx.AsyncClient, engine: Any) -> None:
    """`include_usage` adds one chunk without choices, whose counts are the engine's."""
    body = {"prompt": "some words", "max_tokens": 3, "ignore_eos": True, "stream": True}
    plain = events(await client.post(COMPLETIONS, json=body))
    asked = events(
        await client.post(COMPLETIONS, json={**body, "stream_options": {"include_usage": True}})
    )
    assert len(asked) == len(plain) + 1
    prompt = len(engine.tokenize("some words"))
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 3,
        "total_tokens": prompt + 3,
        "prompt_tokens_details": {"cached_tokens": prompt // 8 * 8},
    }


async def test_streamed_text_is_the_whole_text(client: httpx.AsyncClient) -> None:
    """Streaming changes the form of an answer, not its text."""
    body = {"messages": USER, "max_tokens": 6, "seed": 7, "temperature": 0, "ignore_eos": True}
    whole = (await client.post(CHAT, json=body)).json()
    streamed = events(await client.post(CHAT, json={**body, "stream": True}))
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in streamed)
    assert text == whole["choices"][0]["message"]["content"] != ""
    assert streamed[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


async def test_several_prompts(client: httpx.AsyncClient, engine: Any) -> None:
    """Each prompt is a choice with its own index, and the usage is that of all."""
    body = {"prompt": ["one", "two two"], "max_tokens": 2, "ignore_eos": True}
    whole = (await client.post(COMPLETIONS, json=body)).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    prompt_tokens = sum(len(engine.tokenize(prompt)) for prompt in body["prompt"])
    assert whole["usage"]["prompt_tokens"] == prompt_tokens
    assert whole["usage"]["completion_tokens"] == 4
    streamed = events(await client.post(COMPLETIONS, json={**body, "stream": True}))
    indices = [chunk["choices"][0]["index"] for chunk in streamed]
    assert sorted(indices) == [0, 0, 0, 1, 1, 1]


async def test_choices_are_streamed_side_by_side() -> None:
    """A token is sent when it is there, not after the choice before it has ended."""
    engine = ScriptedEngine(["a", "b"])
    chunks = events(await answer(engine, COMPLETIONS, prompt=["p", "q"], stream=True))
    choices = [(chunk["choices"][0]["index"], chunk["choices"][0]["text"]) for chunk in chunks]
    assert choices == [(0, "a"), (1, "a"), (0, "b"), (1, "b"), (0, ""), (1, "")]


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5, 6, 7]]])
async def test_token_ids(client: httpx.AsyncClient, prompt: Any) -> None:
    """A prompt may be token ids, which are not tokenized again."""
    body = {"prompt": prompt, "max_tokens": 1, "ignore_eos": True}
    whole = (await client.post(COMPLETIONS, json=body)).json()
    assert whole["usage"]["prompt_tokens"] == 3


async def test_parameters_reach_the_engine() -> None:
    """Every sampling field arrives; absent and null ones keep the engine's defaults."""
    engine = ScriptedEngine(["a"])
    given = {
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 4,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -100.0},
        "seed": 3,
        "stop": ["x", "y"],
        "ignore_eos": True,
    }
    await answer(engine, COMPLETIONS, prompt="p", **given)
    await answer(engine, COMPLETIONS, prompt="p", **dict.fromkeys(given), user="me", n=None)
    await answer(engine, CHAT, messages=USER, max_tokens=9)
    await answer(engine, CHAT, messages=USER, max_completion_tokens=8, max_tokens=9)
    await answer(engine, CHAT, messages=USER)
    full, plain, *chats = [call["params"] for call in engine.submitted]
    assert full.logit_bias == {5: -100}
    del given["logit_bias"]
    assert {name: getattr(full, name) for name in given} == given
    assert {name: getattr(plain, name) for name in given} == {
        name: getattr(SamplingParams(), name) for name in given
    }
    assert (full.max_tokens, plain.max_tokens) == (16, 16)
    assert [params.max_tokens for params in chats] == [9, 8, None]


@pytest.mark.parametrize(
    ("path", "body", "mode"),
    [
        (COMPLETIONS, {"prompt": "p"}, "standard"),
        (COMPLETIONS, {"prompt": ["p", "q"]}, "batch"),
        (COMPLETIONS, {"prompt": "p", "stream": True}, "streaming"),
        (CHAT, {"messages": USER}, "standard"),
        (CHAT, {"messages": USER, "stream": True}, "streaming"),
    ],
)
async def test_labels(path: str, body: Any, mode: str) -> None:
    """The engine learns the endpoint and how the answer is delivered."""
    engine = ScriptedEngine(["a"])
    await answer(engine, path, **body)
    assert {(call["endpoint"], call["mode"]) for call in engine.submitted} == {(path, mode)}


async def test_chat_uses_the_models_template() -> None:
    """The prompt is what the model's template writes, with its tokens."""
    engine = ScriptedEngine(["a"])
    engine.model_info["chat_template"] = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    whole = (await answer(engine, CHAT, messages=USER)).json()
    assert engine.submitted[0]["prompt"] == list(b"<s>Hi</s>")
    # The template wrote the beginning of the sequence: the tokenizer must not add another.
    assert whole["usage"]["prompt_tokens"] == len("<s>Hi</s>")


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (COMPLETIONS, {"prompt": "p", "n": 0}, "n", "n: Input should be greater than or equal"),
        (COMPLETIONS, {"prompt": ["p"] * 43, "n": 3}, None, "129 answers"),
        (COMPLETIONS, {"prompt": [-1]}, None, "the prompt holds token -1"),
        (COMPLETIONS, {"prompt": "p", "priority": "high"}, "priority", "priority: "),
        (COMPLETIONS, {"prompt": "p", "slo": {"ttft": 1}}, "slo", "slo: Extra inputs"),
        (COMPLETIONS, {"prompt": "p", "slo": {"ttft_ms": -1}}, None, "ttft_ms"),
        (COMPLETIONS, {"prompt": "p", "user": "u" * 257}, None, "tenant"),
        (COMPLETIONS, {"prompt": "p", "logprobs": 21}, "logprobs", "logprobs: "),
        (COMPLETIONS, {"prompt": "p", "logprobs": 1, "echo": True}, None, "logprobs: those of"),
        (CHAT, {"messages": USER, "top_logprobs": 1}, None, "top_logprobs: they need logprobs"),
        (COMPLETIONS, {"prompt": "p", "presence_penalty": 9}, None, "presence_penalty"),
        (COMPLETIONS, {"prompt": "p", "logit_bias": {"a": 1}}, "logit_bias", "logit_bias: "),
        (COMPLETIONS, {"prompt": "p", "best_of": 3}, "best_of", "best_of: 3"),
        (CHAT, {"messages": USER, "tools": [{}]}, "tools", "tools: Field required"),
        (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice", "tool_choice: "),
        (CHAT, {"messages": [{"role": "user", "content": 1}]}, "messages", "messages: "),
        (COMPLETIONS, {}, "prompt", "prompt: Field required"),
        (COMPLETIONS, {"prompt": "p", "max_tokens": "x"}, "max_tokens", "max_tokens: "),
        (COMPLETIONS, {"prompt": []}, None, "prompt is empty"),
        (COMPLETIONS, {"prompt": ""}, None, ""),
        (COMPLETIONS, {"prompt": "p", "temperature": -1}, None, "temperature"),
        (COMPLETIONS, {"prompt": "p", "max_tokens": 0}, None, "max_tokens"),
        (CHAT, {"messages": []}, None, "messages is empty"),
        (TOKENIZE, {"model": "toy"}, "prompt", "prompt: Field required"),
        (TOKENIZE, {"prompt": 1}, "prompt", "prompt: "),
        (TOKENIZE, {"messages": [{}]}, "messages", "messages: "),
    ],
)
async def test_bad_request(
    client: httpx.AsyncClient, path: str, body: Any, param: str | None, message: str
) -> None:
    """Whoever finds the fault, the answer is 400 in OpenAI's shape."""
    response = await client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, None)
    assert message in error["message"]


async def test_harmless_fields_are_accepted(client: httpx.AsyncClient) -> None:
    """Unsupported fields at their defaults, and fields that change nothing, are no error."""
    fields = {"n": 1, "best_of": 1, "echo": False, "frequency_penalty": 0.0, "logit_bias": {}}
    response = await client.post(COMPLETIONS, json={"prompt": "p", **fields, "metadata": {"a": 1}})
    assert response.status_code == 200


@pytest.mark.parametrize("content", ["{", "[1]", '"text"'])
async def test_body_must_be_an_object(client: httpx.AsyncClient, content: str) -> None:
    """Broken JSON and other JSON than an object are told apart from a missing field."""
    headers = {"content-type": "application/json"}
    response = await client.post(COMPLETIONS, content=content, headers=headers)
    assert response.status_code == 400
    assert "the body" in response.json()["error"]["message"]


@pytest.mark.parametrize("model", ["other", "toy/other"])
async def test_unknown_model(client: httpx.AsyncClient, model: str) -> None:
    """A model that is not served is 404 with OpenAI's code, on every route."""
    for response in (
        await client.post(CHAT, json={"messages": USER, "model": model}),
        await client.get(f"/v1/models/{model}"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"


async def test_what_is_refused_is_counted(client: httpx.AsyncClient, engine: Any) -> None:
    """A request that never reaches the engine is one error; an unknown model's name no label."""
    with changes() as change:
        await client.post(CHAT, json={"messages": USER, "model": "other"})
        await client.post(COMPLETIONS, json={"prompt": "p", "n": 0})
        await client.post(CHAT, json={"messages": []})
        await client.get("/v1/models/other")
        await client.get("/none")
    name = "ryot_inference_requests_total"
    unknown = {"model": "__unknown__", "endpoint": CHAT, "error_type": "model_not_found"}
    invalid = {"model": engine.name, "endpoint": COMPLETIONS, "error_type": "invalid_prompt"}
    assert (change.sum(name, **unknown), change.sum(name, **invalid)) == (1, 1)
    assert change.sum(name) == 3
    assert change.sum("ryot_active_inference_requests") == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_the_largest_body(engine: Any, announced: bool) -> None:
    """A body up to the limit is read; one byte more is 413, with the size and the limit."""

    def content(size: int) -> Any:
        body = json.dumps({"prompt": "p", "max_tokens": 1}).encode().ljust(size)

        async def pieces() -> Any:
            for at in range(0, size, 40):
                yield body[at : at + 40]

        return body if announced else pieces()

    app = create_app(engine, max_body_bytes=100)
    transport = httpx.ASGITransport(app)
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        fits = await client.post(COMPLETIONS, content=content(100), headers=headers)
        with changes() as change:
            large = await client.post(COMPLETIONS, content=content(101), headers=headers)
    assert (fits.status_code, large.status_code) == (200, 413)
    size = "101" if announced else "more than 100"
    message = f"the body has {size} bytes; at most 100 are allowed (max_body_bytes)"
    expected = {"type": "invalid_request_error", "param": None, "code": "request_too_large"}
    assert large.json() == {"error": {"message": message, **expected}}
    assert change.statuses(engine.name) == {"error": 1}


async def test_a_limit_of_nothing_is_refused(engine: Any) -> None:
    """A limit below one byte is an error that names it."""
    with pytest.raises(ValueError, match="max_body_bytes is 0; it must be at least 1"):
        create_app(engine, max_body_bytes=0)


async def test_model_may_be_left_out(client: httpx.AsyncClient, engine: Any) -> None:
    """The served name, an empty one and none at all mean the one model."""
    for model in (engine.name, "", None):
        response = await client.post(COMPLETIONS, json={"prompt": "p", "model": model})
        assert response.json()["model"] == engine.name


def queue_full() -> QueueFullError:
    """A refusal with a time to wait."""
    error = QueueFullError("the queue holds 256 requests; its limit is 256")
    error.retry_after = 1.2
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "kind", "retry_after"),
    [
        (queue_full(), 429, "rate_limit_error", "2"),
        (EngineClosedError("the engine was shut down"), 503, "service_unavailable_error", None),
        (DecodeError("decoding failed"), 500, "server_error", None),
    ],
)
async def test_refusal(
    refusal: Exception, status: int, kind: str, retry_after: str | None, stream: bool
) -> None:
    """What the engine refuses has a status of its own, also when a stream was asked for."""
    engine = ScriptedEngine(refusal=refusal)
    response = await answer(engine, COMPLETIONS, prompt="p", stream=stream)
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert response.json()["error"]["type"] == kind
    assert response.json()["error"]["message"] == str(refusal)


async def test_refused_batch_takes_back_what_was_queued() -> None:
    """If the second of two prompts is refused, the first does not run on."""
    engine = ScriptedEngine(["a"])
    response = await answer(engine, COMPLETIONS, prompt=[[5], []])
    assert response.status_code == 400
    assert engine.streams[0].cancelled.is_set()


async def test_failure_after_the_beginning() -> None:
    """A stream that fails ends with an error event; a whole answer is a 500."""
    engine = ScriptedEngine(["a"], end=DecodeError("decoding failed"))
    streamed = await answer(engine, COMPLETIONS, prompt="p", stream=True)
    last = json.loads(streamed.text.split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["message"] == "decoding failed"
    assert "[DONE]" not in streamed.text
    whole = await answer(engine, COMPLETIONS, prompt="p")
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "DecodeError")


async def test_failure_cancels_the_other_choices() -> None:
    """One choice that fails ends the answer, so the others are not worked on."""
    engine = ScriptedEngine(["a"], end=None)
    async with client_of(engine) as client:
        body = {"prompt": ["p", "q"], "stream": True}
        asking = asyncio.create_task(client.post(COMPLETIONS, json=body))
        assert await asyncio.to_thread(engine.accepted.wait, 10)
        engine.streams[0].fail(DecodeError("decoding failed"))
        assert "decoding failed" in (await asking).text
    assert engine.streams[1].cancelled.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelled_by_the_engine(stream: bool) -> None:
    """A client that still listens hears that the engine closed, never "cancelled"."""
    engine = ScriptedEngine(["a"], end="cancelled")
    response = await answer(engine, COMPLETIONS, prompt="p", stream=stream)
    assert response.status_code == (200 if stream else 503)
    assert "the engine closed" in response.text
    assert "cancelled" not in response.text


async def test_health(client: httpx.AsyncClient, engine: Any) -> None:
    """Healthy until the engine is shut down."""
    assert (await client.get("/health")).json() == {"status": "ok"}
    engine.shutdown()
    assert (await client.get("/health")).status_code == 503


async def test_metrics_route(client: httpx.AsyncClient) -> None:
    """The page stands at exactly /metrics."""
    assert (await client.get("/metrics")).status_code == 200
    assert (await client.get("/metrics/more")).status_code == 404


async def test_unknown_route(client: httpx.AsyncClient) -> None:
    """Routes and methods that do not exist are told in OpenAI's shape too."""
    assert (await client.get("/v2")).json()["error"]["message"] == "Not Found"
    response = await client.get(COMPLETIONS)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_models(client: httpx.AsyncClient, engine: Any) -> None:
    """The list has the one model, with the context that a client may fill."""
    (card,) = (await client.get("/v1/models")).json()["data"]
    longest = min(engine.config.ctx_size, engine.model_info["context_train"])
    assert (card["id"], card["max_model_len"]) == (engine.name, longest)
