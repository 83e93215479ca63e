"""The real `openai` client, instrumented, against the service on a socket and against faults."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
from typing import Any

import openai
import pytest

from calls import finish, left
from fakes import ScriptedEngine
from ryot_metrics import Engine, InferenceContext, instrument

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Tell me something."}]
# The HTTP library that this version of the client stands on.
http: Any = importlib.import_module(
    next(
        base.__module__.partition(".")[0]
        for base in openai.DefaultHttpxClient.__mro__
        if base.__name__ == "Client"
    )
)

both = pytest.mark.parametrize("kind", ["sync", "async"])


def run(kind, scenario, **options):
    """Runs a scenario, written once as a coroutine, with an instrumented client of a kind."""
    options = {"api_key": "none", "base_url": "http://llm/v1", "max_retries": 0, **options}
    if "handler" in options:
        make = openai.DefaultHttpxClient if kind == "sync" else openai.DefaultAsyncHttpxClient
        options["http_client"] = make(
            transport=http.MockTransport(options.pop("handler")), trust_env=False
        )

    async def main():
        if kind == "sync":
            with instrument.openai(openai.OpenAI(**options)) as client:
                return await scenario(client)
        async with instrument.openai(openai.AsyncOpenAI(**options)) as client:
            return await scenario(client)

    return finish(main())


async def settle(result):
    return await result if inspect.isawaitable(result) else result


async def chat(client, model, **options):
    return await settle(client.chat.completions.create(model=model, messages=USER, **options))


async def take(stream, limit=None):
    """The stream's items, all or so many."""
    items = []
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            items.append(item)
            if len(items) == limit:
                break
    else:
        for item in stream:
            items.append(item)
            if len(items) == limit:
                break
    return items


def content(*texts, usage=None, done=True):
    """A chat's stream as a server sends it, cut off where it is not done."""
    lines = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
    lines += [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    if done:
        lines.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage is not None:
        lines.append({"choices": [], "usage": usage})
    lines = [{"object": "chat.completion.chunk", **line} for line in lines]
    body = b"".join(b"data: " + json.dumps(line).encode() + b"\n\n" for line in lines)
    return body + b"data: [DONE]\n\n" * done


def events(body, kind, error=None):
    """A handler that streams this body, and breaks at its end with this error."""

    def sync_body():
        yield body
        if error is not None:
            raise error

    async def async_body():
        for part in sync_body():
            yield part

    def handler(request):
        headers = {"content-type": "text/event-stream"}
        stream = sync_body() if kind == "sync" else async_body()
        return http.Response(200, headers=headers, content=stream)

    return handler


def fails(error):
    """A handler that raises, or answers with this status."""

    def handler(request):
        if isinstance(error, int):
            return http.Response(error, json={"error": {"message": "no"}})
        raise error

    return handler


@both
def test_an_answer(kind, live):
    """A chat is one request with the tokens of its usage."""
    engine = ScriptedEngine(name=f"answer-{kind}")

    async def scenario(client):
        return await chat(client, engine.name, max_tokens=4)

    usage = run(kind, scenario, base_url=f"{live(engine)}/v1").usage
    counts = {"completion": 4, "tokens": 4, "prompt": usage.prompt_tokens}
    assert left(engine.name) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
@pytest.mark.parametrize("with_usage", [True, False])
def test_a_stream(kind, with_usage, live):
    """A streamed chat has a TTFT, its gaps and its tokens, with and without a usage."""
    engine = ScriptedEngine(name=f"stream-{kind}-{with_usage}")

    async def scenario(client):
        options = {"include_usage": with_usage}
        stream = await chat(client, engine.name, max_tokens=4, stream=True, stream_options=options)
        assert isinstance(stream, openai.Stream | openai.AsyncStream)
        assert stream.response.status_code == 200
        return await take(stream)

    chunks = run(kind, scenario, base_url=f"{live(engine)}/v1")
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == 4
    found = left(engine.name)
    assert (found.pop("prompt", 0) > 0) is with_usage
    counts = {"ttft": 1, "gaps": 3, "completion": 4, "tokens": 4}
    assert found == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_the_service_and_its_client_agree(kind, live):
    """Both ends of a stream on one page: each sample is there twice."""
    with Engine("toy", name=f"both-{kind}") as engine:

        async def scenario(client):
            body = {"ignore_eos": True}
            usage = {"include_usage": True}
            options = {"max_tokens": 8, "stream_options": usage, "extra_body": body}
            return await take(await chat(client, engine.name, stream=True, **options))

        last = run(kind, scenario, base_url=f"{live(engine)}/v1")[-1]
    found = left(engine.name)
    assert found[f"success {CHAT}"] == found["latency"] == found["ttft"] == 2
    assert found["completion"] == found["tokens"] == 16
    assert found["prompt"] == 2 * last.usage.prompt_tokens


@both
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (400, "error invalid_prompt"),
        (404, "error model_not_found"),
        (422, "error invalid_prompt"),
        (429, "error inference_error"),
        (500, "error inference_error"),
        (http.ConnectError("refused"), "error inference_error"),
        (http.ReadTimeout("slow"), "timeout timeout"),
    ],
)
def test_a_call_that_fails(kind, stream, error, outcome):
    """What the client raises passes unchanged and has a status and an error type."""
    model = f"fails-{kind}-{stream}-{error}"

    async def scenario(client):
        with pytest.raises(openai.APIError):
            await chat(client, model, stream=stream)

    run(kind, scenario, handler=fails(error))
    status, error_type = outcome.split()
    assert left(model) == {f"{status} {CHAT} {error_type}": 1, "latency": 1, "errors": 1}


@both
@pytest.mark.parametrize(
    ("tail", "error", "raised", "outcome"),
    [
        (b"", http.ReadError("cut"), openai.APIConnectionError, "partial inference_error"),
        (b"", http.ReadTimeout("slow"), openai.APITimeoutError, "timeout timeout"),
        (b"data: {oops\n\n", None, json.JSONDecodeError, "partial inference_error"),
        (
            b'data: {"error": {"message": "no"}}\n\n',
            None,
            openai.APIError,
            "partial inference_error",
        ),
    ],
    ids=["cut", "timeout", "malformed", "error"],
)
def test_a_stream_that_breaks(kind, tail, error, raised, outcome, request):
    """Tokens before the break count; the client's exception passes unchanged."""
    model = request.node.name

    async def scenario(client):
        with pytest.raises(raised):
            await take(await chat(client, model, stream=True))

    run(kind, scenario, handler=events(content("a", "b", done=False) + tail, kind, error))
    status, error_type = outcome.split()
    assert left(model) == {
        f"{status} {CHAT} {error_type}": 1,
        "latency": 1,
        "errors": 1,
        "ttft": 1,
        "gaps": 1,
        "completion": 2,
    }


def close(stream):
    return settle(stream.close())


async def leave_block(stream):
    if hasattr(stream, "__aenter__"):
        async with stream:
            await take(stream, 1)
    else:
        with stream:
            await take(stream, 1)


async def drop(stream):
    """Nothing: the caller forgets it."""


@both
@pytest.mark.parametrize("end", [close, leave_block, drop])
def test_a_stream_that_is_left(kind, end):
    """Closed, left by its block or dropped after two tokens, it is cancelled; no error."""
    model = f"left-{kind}-{end.__name__}"

    async def scenario(client):
        stream = await chat(client, model, stream=True)
        await take(stream, 3)  # the first brings no text
        await end(stream)

    run(kind, scenario, handler=events(content("a", "b", "c", "d"), kind))
    tokens = 3 if end is leave_block else 2
    counts = {"ttft": 1, "gaps": tokens - 1, "completion": tokens}
    assert left(model) == {f"cancelled {CHAT}": 1, "latency": 1, **counts}


@both
def test_a_stream_that_nobody_reads(kind):
    """It is cancelled, without a first token."""
    model = f"unread-{kind}"

    async def scenario(client):
        await close(await chat(client, model, stream=True))

    run(kind, scenario, handler=events(content("a"), kind))
    assert left(model) == {f"cancelled {CHAT}": 1, "latency": 1}


@both
def test_a_stream_that_is_left_after_its_finish_reason(kind):
    """Who stops reading at the finish reason has the whole answer."""
    model = f"enough-{kind}"

    async def scenario(client):
        stream = await chat(client, model, stream=True)
        await take(stream, 4)
        await close(stream)

    run(kind, scenario, handler=events(content("a", "b"), kind))
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_the_stream_helper(kind):
    """`stream()` left early is cancelled when its block ends, while its object is still held."""
    model = f"helper-{kind}"

    async def scenario(client):
        manager = client.chat.completions.stream(model=model, messages=USER)
        if kind == "sync":
            with manager as stream:
                next(iter(stream))
        else:
            async with manager as stream:
                await anext(aiter(stream))
        return left(model), stream

    found, _ = run(kind, scenario, handler=events(content("a", "b"), kind))
    assert found[f"cancelled {CHAT}"] == 1


def test_a_cancelled_task(live):
    """A task that is cancelled while it waits for its answer is no error."""
    engine = ScriptedEngine(["a"], end=None, name="a cancelled task")

    async def scenario(client):
        stream = await chat(client, engine.name, stream=True)
        task = asyncio.create_task(take(stream))
        while left(engine.name).get("ttft") is None:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run("async", scenario, base_url=f"{live(engine)}/v1")
    expected = {f"cancelled {CHAT}": 1, "latency": 1, "ttft": 1, "completion": 1}
    assert left(engine.name) == expected


@both
@pytest.mark.parametrize("everywhere", [False, True])
def test_retries(kind, everywhere):
    """A call that is tried three times is one request and two retries, however instrumented."""
    answers = iter([500, 500])

    def handler(request):
        code = next(answers, 200)
        headers = {"retry-after-ms": "1"}
        body = {"usage": {"prompt_tokens": 2, "completion_tokens": 3}, "choices": []}
        return http.Response(code, headers=headers, json=body)

    model = f"retries-{kind}-{everywhere}"

    async def scenario(client):
        await chat(client, model)

    module = instrument.openai() if everywhere else None
    try:
        run(kind, scenario, handler=handler, max_retries=2)
    finally:
        if module is not None:
            instrument.uninstrument(module)
    counts = {"prompt": 2, "completion": 3, "tokens": 3, "retries": 2}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_calls_inside_a_tracked_request(kind):
    """Two calls at once in one block: one request with the tokens of both."""
    usage = {"prompt_tokens": 2, "completion_tokens": 5}
    model = f"outer-{kind}"

    async def scenario(client):
        async with InferenceContext(model=model):
            await asyncio.gather(*(chat(client, "inner") for _ in range(2)))

    def handler(request):
        return http.Response(200, json={"choices": [], "usage": usage})

    run(kind, scenario, handler=handler)
    found = left(model)
    assert found["success"] == found["latency"] == 1
    assert found["completion"] == found["tokens"] == 10
    assert left("inner") == {}


@both
def test_raw_and_streaming_responses(kind):
    """`with_raw_response` and `with_streaming_response` work, and are measured as they are read."""
    usage = {"prompt_tokens": 2, "completion_tokens": 2}
    names = [f"{name}-{kind}" for name in ("raw", "raw-stream", "streaming")]

    async def scenario(client):
        raw = client.chat.completions.with_raw_response
        answer = await settle(raw.create(model=names[0], messages=USER, stream=False))
        assert answer.status_code == 200
        answer = await settle(raw.create(model=names[1], messages=USER, stream=True))
        chunks = await take(await settle(answer.parse()))
        streaming = client.chat.completions.with_streaming_response
        manager = streaming.create(model=names[2], messages=USER, stream=True)
        if kind == "sync":
            with manager as answer:
                lines = list(answer.iter_lines())
        else:
            async with manager as answer:
                lines = [line async for line in answer.iter_lines()]
        return chunks, lines

    chunks, lines = run(kind, scenario, handler=events(content("a", "b", usage=usage), kind))
    assert len(chunks) == 5
    assert lines[-2] == "data: [DONE]"
    assert left(names[0])[f"success {CHAT}"] == 1
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2, "prompt": 2}
    for name in names[1:]:
        assert left(name) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_other_routes(kind):
    """Completions, embeddings and responses are measured; a list of models is not."""
    model = f"routes-{kind}"
    answers = {
        "/v1/completions": {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        "/v1/embeddings": {"data": [], "usage": {"prompt_tokens": 3, "total_tokens": 3}},
        "/v1/responses": {"output": [], "usage": {"input_tokens": 4, "output_tokens": 5}},
        "/v1/models": {"data": []},
    }

    def handler(request):
        return http.Response(200, json=answers[request.url.path])

    async def scenario(client):
        await settle(client.completions.create(model=model, prompt="p"))
        await settle(client.embeddings.create(model=model, input="p", encoding_format="float"))
        await settle(client.responses.create(model=model, input="p"))
        await settle(client.models.list())

    run(kind, scenario, handler=handler)
    counts = {"latency": 3, "prompt": 8, "completion": 7, "tokens": 7}
    routes = ("completions", "embeddings", "responses")
    assert left(model) == {**{f"success /v1/{route}": 1 for route in routes}, **counts}


@both
def test_a_streamed_response(kind):
    """The events of the responses API: each delta is a token, the usage comes with the end."""
    model = f"events-{kind}"
    response = {"output": [], "usage": {"input_tokens": 4, "output_tokens": 2}}
    body = [
        {"type": "response.created", "response": {"output": []}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.output_text.delta", "delta": "b"},
        {"type": "response.completed", "response": response},
    ]
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in body)

    async def scenario(client):
        await take(await settle(client.responses.create(model=model, input="p", stream=True)))

    run(kind, scenario, handler=events(data, kind))
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2, "prompt": 4}
    assert left(model) == {"success /v1/responses": 1, "latency": 1, **counts}


@both
def test_copies_and_doubles(kind):
    """A copy is measured too; instrumenting again, an instance or all, counts no call twice."""
    model = f"copies-{kind}"

    def handler(request):
        return http.Response(200, json={"choices": []})

    async def scenario(client):
        module = instrument.openai()
        try:
            copy = instrument.openai(instrument.openai(client)).with_options(timeout=5)
            await chat(copy, model)
        finally:
            instrument.uninstrument(module)

    run(kind, scenario, handler=handler)
    assert left(model) == {f"success {CHAT}": 1, "latency": 1}


@both
def test_all_clients_and_none(kind):
    """`instrument.openai()` reaches clients that exist; `uninstrument` leaves nothing behind."""
    model = f"all-{kind}"
    owner = openai.OpenAI if kind == "sync" else openai.AsyncOpenAI
    before = owner.request

    def handler(request):
        return http.Response(200, json={"choices": []})

    async def scenario(client):
        instrument.uninstrument(client)
        assert "request" not in vars(client)
        module = instrument.openai()
        assert inspect.signature(owner.request) == inspect.signature(before)
        assert inspect.iscoroutinefunction(owner.request) is (kind == "async")
        try:
            await chat(client, model)
        finally:
            instrument.uninstrument(module)
        await chat(client, model)

    run(kind, scenario, handler=handler)
    assert left(model) == {f"success {CHAT}": 1, "latency": 1}
    assert owner.request is before
