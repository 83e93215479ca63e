"""A plain httpx client of an OpenAI-compatible endpoint, instrumented."""

from __future__ import annotations

import gzip
import inspect
import json
import time
from types import SimpleNamespace

import httpx
import httpx2
import pytest

from calls import finish, left
from fakes import ScriptedEngine
from page import changes
from ryot_metrics import instrument
from ryot_metrics.instrument import _wire

CHAT = "/v1/chat/completions"
URL = f"http://llm{CHAT}"
USER = [{"role": "user", "content": "Tell me something."}]
DONE = "data: [DONE]\n\n"

both = pytest.mark.parametrize("kind", ["sync", "async"])


def run(kind, scenario, handler=None, library=httpx, **options):
    """Runs a scenario, written once as a coroutine, with an instrumented client of a kind."""
    options["trust_env"] = False
    if handler is not None:
        options["transport"] = library.MockTransport(handler)

    async def main():
        if kind == "sync":
            with instrument.httpx(library.Client(**options)) as client:
                return await scenario(client)
        async with instrument.httpx(library.AsyncClient(**options)) as client:
            return await scenario(client)

    return finish(main())


async def post(client, model, url=URL, **body):
    answer = client.post(url, json={"model": model, "messages": USER, **body})
    return await answer if inspect.isawaitable(answer) else answer


async def stream(client, model, url=URL, limit=None, read="iter_lines"):
    """What a streamed answer gives, all or so many pieces; its block closes it."""
    pieces = []
    manager = client.stream("POST", url, json={"model": model, "messages": USER, "stream": True})
    if hasattr(manager, "__aenter__"):
        async with manager as answer:
            async for piece in getattr(answer, f"a{read}")():
                pieces.append(piece)
                if len(pieces) == limit:
                    break
    else:
        with manager as answer:
            for piece in getattr(answer, read)():
                pieces.append(piece)
                if len(pieces) == limit:
                    break
    return pieces


def chunk(text=None, **fields):
    """One event of a streamed chat."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": None, **fields}]
    return f"data: {json.dumps({'choices': choices, 'usage': None})}\n\n"


def usage(prompt, completion):
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    return f"data: {json.dumps({'choices': [], 'usage': tokens})}\n\n"


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Gives its parts, then breaks with this error; notes that it was closed."""

    def __init__(self, parts, error=None):
        self.parts = [part.encode() if isinstance(part, str) else part for part in parts]
        self.error = error
        self.closed = 0

    def __iter__(self):
        yield from self.parts
        if self.error is not None:
            raise self.error

    async def __aiter__(self):
        for part in self:
            yield part

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.close()


def events(body, **headers):
    """A handler that streams this body."""
    headers = {"content-type": "text/event-stream; charset=utf-8", **headers}
    return lambda request: httpx.Response(200, headers=headers, stream=body)


@both
def test_the_service(kind, live):
    """Against the service on a socket: an answer and a stream, with all their samples."""
    engine = ScriptedEngine(name=f"service-{kind}")
    url = f"{live(engine)}{CHAT}"

    async def scenario(client):
        answer = await post(client, engine.name, url, max_tokens=4)
        await stream(client, engine.name, url, limit=None)
        return answer.json()["usage"]["prompt_tokens"]

    with changes() as change:
        prompt = run(kind, scenario)
    found = left(engine.name)
    assert found[f"success {CHAT}"] == found["latency"] == 2
    assert (found["ttft"], found["prompt"]) == (1, prompt)
    tokens = change.sum("ryot_tokens_generated_total", generation_mode="streaming")
    assert found["completion"] == tokens + 4
    assert found["gaps"] == tokens - 1


@both
def test_bytes_pass_unchanged(kind):
    """Whatever the pieces of the stream, they come as they were sent, one at a time."""
    text = (chunk("") + chunk("a") + chunk("b\u00e9") + usage(2, 9) + DONE).encode()
    parts = [text[i : i + 7] for i in range(0, len(text), 7)]
    body = Body(parts)
    model = f"bytes-{kind}"

    async def scenario(client):
        return await stream(client, model, read="iter_raw")

    assert run(kind, scenario, events(body)) == parts
    assert body.closed
    counts = {"ttft": 1, "gaps": 1, "completion": 9, "tokens": 9, "prompt": 2}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_what_is_no_token(kind):
    """Comments, other fields, the role, the finish reason and text about usage are no tokens."""
    parts = [
        ": keep-alive\r\n\r\nevent: x\r\n",
        chunk(role="assistant").replace("\n", "\r\n"),
        chunk("a").replace("\n", "\r\n"),
        chunk('say "usage": {"completion_tokens": 99}, "finish_reason": "x"'),
        chunk(finish_reason="stop"),
    ]
    model = f"tokens-{kind}"

    async def scenario(client):
        await stream(client, model)

    run(kind, scenario, events(Body(parts)))
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (400, "error invalid_prompt"),
        (404, "error model_not_found"),
        (408, "timeout timeout"),
        (413, "error invalid_prompt"),
        (503, "error inference_error"),
        (httpx.ConnectTimeout("slow"), "timeout timeout"),
        (httpx.ConnectError("refused"), "error inference_error"),
    ],
)
def test_a_call_that_fails(kind, answer, outcome):
    """Statuses come back and exceptions pass as they were; both are counted by their type."""
    model = f"httpx-fails-{kind}-{answer}"

    def handler(request):
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {}})
        raise answer

    async def scenario(client):
        if isinstance(answer, int):
            assert (await post(client, model)).status_code == answer
            return
        with pytest.raises(type(answer)):
            await post(client, model)

    run(kind, scenario, handler)
    status, error_type = outcome.split()
    assert left(model) == {f"{status} {CHAT} {error_type}": 1, "latency": 1, "errors": 1}


@both
@pytest.mark.parametrize(
    ("tail", "error", "outcome"),
    [
        ("", httpx.RemoteProtocolError("cut"), "partial inference_error"),
        ("", httpx.ReadTimeout("slow"), "timeout timeout"),
        ('data: {"error": {"code": 500}}\n\n', None, "partial inference_error"),
    ],
    ids=["cut", "timeout", "error"],
)
def test_a_stream_that_breaks(kind, tail, error, outcome, request):
    """Tokens before the break count; an error in the stream is one."""
    model = f"httpx-{request.node.name}"

    async def scenario(client):
        if error is None:
            await stream(client, model)
            return
        with pytest.raises(type(error)):
            await stream(client, model)

    run(kind, scenario, events(Body([chunk("a"), chunk("b"), tail], error)))
    status, error_type = outcome.split()
    counts = {"errors": 1, "ttft": 1, "gaps": 1, "completion": 2}
    assert left(model) == {f"{status} {CHAT} {error_type}": 1, "latency": 1, **counts}


@both
def test_malformed_events(kind):
    """Events that are no JSON change nothing for the caller, and are no tokens."""
    model = f"malformed-{kind}"
    parts = ["data: {oops\n\n", chunk("a"), 'data: {"usage": 1, oops\n\n', chunk("b"), DONE]

    async def scenario(client):
        return await stream(client, model, read="iter_raw")

    assert run(kind, scenario, events(Body(parts))) == [part.encode() for part in parts]
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
@pytest.mark.parametrize(("limit", "status"), [(2, "cancelled"), (3, "success")])
def test_a_stream_that_is_left(kind, limit, status):
    """A response that is closed early is cancelled; after the finish reason it is complete."""
    model = f"httpx-left-{kind}-{limit}"
    body = Body([chunk("a"), chunk("b"), chunk(finish_reason="stop"), DONE])

    async def scenario(client):
        await stream(client, model, limit=limit, read="iter_raw")

    run(kind, scenario, events(body))
    assert body.closed
    assert left(model)[f"{status} {CHAT}"] == 1


@both
def test_a_response_that_is_dropped(kind):
    """Never read and never closed, it is cancelled once it is collected."""
    model = f"httpx-dropped-{kind}"

    async def scenario(client):
        request = client.build_request("POST", URL, json={"model": model, "stream": True})
        answer = client.send(request, stream=True)
        await answer if inspect.isawaitable(answer) else answer

    run(kind, scenario, events(Body([chunk("a")])))
    assert left(model) == {f"cancelled {CHAT}": 1, "latency": 1}


@both
@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_compressed_stream(kind, encoding):
    """Gzip is read through; of another compression the outcome is known and no token."""
    model = f"{encoding}-{kind}"
    body = (chunk("a") + chunk("b") + usage(1, 2) + DONE).encode()
    parts = [gzip.compress(body)] if encoding == "gzip" else [b"\x0b\x02\x80"]

    async def scenario(client):
        return await stream(client, model, read="iter_raw")

    assert run(kind, scenario, events(Body(parts), **{"content-encoding": encoding})) == parts
    counts = {"ttft": 1, "gaps": 1, "completion": 2, "tokens": 2, "prompt": 1}
    expected = counts if encoding == "gzip" else {}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **expected}


@both
def test_the_usage_of_a_long_answer(kind):
    """The usage is found at the end of a large body, read at once or as a stream."""
    model = f"long-{kind}"
    data = {"data": [{"embedding": "A" * 200_000}], "usage": {"prompt_tokens": 7}}

    def handler(request):
        return httpx.Response(200, json=data)

    async def scenario(client):
        url = "http://llm/v1/embeddings/"
        answer = await post(client, model, url)
        assert answer.json() == data
        await stream(client, model, url, read="iter_bytes")

    run(kind, scenario, handler)
    assert left(model) == {"success /v1/embeddings": 2, "latency": 2, "prompt": 14}


@both
def test_other_requests_are_left_alone(kind):
    """Other paths, other methods, and bodies that are no JSON do not fail."""

    def handler(request):
        return httpx.Response(200, json={"usage": None})

    async def scenario(client):
        for method, url in (("GET", URL), ("POST", "http://llm/v1/models")):
            answer = client.request(method, url, content=b"{")
            await answer if inspect.isawaitable(answer) else answer
        answer = client.post(URL, content=b"{")
        await answer if inspect.isawaitable(answer) else answer

    with changes() as change:
        run(kind, scenario, handler)
    assert change.sum("ryot_inference_requests_total") == 1
    assert change.statuses("default") == {"success": 1}


@both
def test_httpx2_has_the_same_names(kind):
    """A client of httpx2 is measured as well."""
    model = f"httpx2-{kind}"
    body = (chunk("a") + usage(1, 1) + DONE).encode()

    def parts():
        yield body

    async def async_parts():
        yield body

    def handler(request):
        headers = {"content-type": "text/event-stream"}
        content = parts() if kind == "sync" else async_parts()
        return httpx2.Response(200, headers=headers, content=content)

    async def scenario(client):
        await stream(client, model)

    run(kind, scenario, handler, httpx2)
    counts = {"ttft": 1, "completion": 1, "tokens": 1, "prompt": 1}
    assert left(model) == {f"success {CHAT}": 1, "latency": 1, **counts}


@both
def test_instrumenting_twice_and_undoing(kind):
    """Twice counts once; undone counts nothing, and the client is as it was."""
    model = f"twice-{kind}"

    def handler(request):
        return httpx.Response(200, json={})

    async def scenario(client):
        await post(instrument.httpx(client), model)
        assert inspect.iscoroutinefunction(client.send) is (kind == "async")
        assert inspect.signature(client.send) == inspect.signature(type(client)().send)
        instrument.uninstrument(client)
        assert "send" not in vars(client)
        await post(client, model)

    run(kind, scenario, handler)
    assert left(model) == {f"success {CHAT}": 1, "latency": 1}


def test_a_slow_consumer_is_not_slow_generation():
    """The consumer's own time between two pieces is not in the inter-token latency."""
    model = "httpx-slow"
    client = instrument.httpx(
        httpx.Client(transport=httpx.MockTransport(events(Body([chunk("a"), chunk("b"), DONE]))))
    )
    began = time.perf_counter()
    consumer = 0.0
    with (
        changes() as change,
        client,
        client.stream("POST", URL, json={"model": model, "stream": True}) as answer,
    ):
        for _ in answer.iter_raw():
            paused = time.perf_counter()
            time.sleep(0.1)
            consumer += time.perf_counter() - paused
    gap = change.sum("ryot_inference_inter_token_latency_seconds_sum", model=model)
    assert 0 < gap <= time.perf_counter() - began - consumer


def test_plain_events_are_not_parsed(monkeypatch):
    """Of 53 events only the role, the first token, the finish reason and the usage are parsed."""
    parsed = []

    def loads(data):
        parsed.append(data)
        return json.loads(data)

    monkeypatch.setattr(_wire, "json", SimpleNamespace(loads=loads))
    texts = [chunk(str(index)) for index in range(50)]
    body = Body([chunk(""), *texts, chunk(finish_reason="stop"), usage(1, 50), DONE])
    client = instrument.httpx(httpx.Client(transport=httpx.MockTransport(events(body))))
    with client, client.stream("POST", URL, json={"model": "parsed", "stream": True}) as answer:
        answer.read()
    assert len(parsed) == 4
    counts = {"ttft": 1, "gaps": 49, "completion": 50, "tokens": 50, "prompt": 1}
    assert left("parsed") == {f"success {CHAT}": 1, "latency": 1, **counts}
