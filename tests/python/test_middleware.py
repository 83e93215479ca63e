"""The middlewares around apps without a framework: each outcome, with the samples it leaves."""

import asyncio
import io
import json
from wsgiref.util import FileWrapper, setup_testing_defaults

import pytest

from page import changes
from ryot_metrics import Engine, InferenceContext, SamplingParams, track_inference_request
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware
from ryot_metrics.middleware.body import peek

REQUESTS = "ryot_inference_requests_total"
ERRORS = "ryot_inference_errors_total"
TOKENS = "ryot_tokens_generated_total"
TTFT = "ryot_ttft_latency_seconds_count"
GAPS = "ryot_inference_inter_token_latency_seconds_count"
LATENCY = "ryot_inference_latency_seconds_count"
ACTIVE = "ryot_active_inference_requests"

JSON = "application/json"
SSE = "text/event-stream"


def asgi_app(status=200, pieces=(b"done",), kind=None, error=None, before=None, length=True):
    """An app that answers with these pieces, and raises at the end or after so many pieces."""

    async def app(scope, receive, send):
        if error is not None and before == 0:
            raise error
        headers = [(b"content-type", (kind or "text/plain").encode())]
        if length:
            headers.append((b"content-length", str(sum(map(len, pieces))).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for index, piece in enumerate(pieces, 1):
            more = not length or index < len(pieces) or error is not None
            await send({"type": "http.response.body", "body": piece, "more_body": more})
            if index == before:
                raise error
        if not length:
            await send({"type": "http.response.body", "body": b""})

    return app


def wsgi_app(status=200, pieces=(b"done",), kind=None, error=None, before=None, length=True):
    """The same over WSGI."""

    def app(environ, start_response):
        if error is not None and before == 0:
            raise error
        headers = [("Content-Type", kind or "text/plain")]
        if length and error is None:
            headers.append(("Content-Length", str(sum(map(len, pieces)))))
        start_response(f"{status} Some reason", headers)

        def body():
            for index, piece in enumerate(pieces, 1):
                yield piece
                if index == before:
                    raise error

        return body()

    return app


async def call(app, *, messages=None, headers=(), path="/", method="POST", query=b"", send=None):
    """Calls an ASGI app; gives what it sent."""
    sent = []
    queue = list(messages or [{"type": "http.request", "body": b""}])

    async def receive():
        return queue.pop(0) if queue else {"type": "http.disconnect"}

    async def keep(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    await app(scope, receive, send or keep)
    return b"".join(message.get("body", b"") for message in sent)


def call_wsgi(app, *, body=b"", path="/", headers=(), query="", limit=None, length=True):
    """Calls a WSGI app as a server does; gives what it sent. After `limit` pieces it hangs up."""
    environ = {"PATH_INFO": path, "REQUEST_METHOD": "POST", "QUERY_STRING": query}
    environ["wsgi.input"] = io.BytesIO(body)
    if length:
        environ["CONTENT_LENGTH"] = str(len(body))
    environ.update(headers)
    setup_testing_defaults(environ)
    sent = []
    response = app(environ, lambda status, headers, exc_info=None: None)
    try:
        for piece in response:
            sent.append(piece)
            if len(sent) == limit:
                break
    finally:
        if hasattr(response, "close"):
            response.close()
    return b"".join(sent)


def answer(protocol, options, **of_app):
    """One request to such an app behind the middleware of this protocol."""
    if protocol == "asgi":
        return asyncio.run(call(InferenceMiddleware(asgi_app(**of_app), **options)))
    return call_wsgi(InferenceWSGIMiddleware(wsgi_app(**of_app), **options))


both = pytest.mark.parametrize("protocol", ["asgi", "wsgi"])


@both
@pytest.mark.parametrize(
    ("http_status", "status", "error_type"),
    [
        (200, "success", None),
        (204, "success", None),
        (307, "success", None),
        (400, "error", "invalid_prompt"),
        (401, "error", "invalid_prompt"),
        (404, "error", "model_not_found"),
        (408, "timeout", "timeout"),
        (422, "error", "invalid_prompt"),
        (429, "error", "inference_error"),
        (499, "cancelled", None),
        (500, "error", "inference_error"),
        (503, "error", "inference_error"),
        (504, "timeout", "timeout"),
    ],
)
def test_an_http_status_is_an_outcome(protocol, http_status, status, error_type):
    """Each HTTP status is one request of its status, with its error type and its latency."""
    with changes() as change:
        answer(protocol, {"model": "by-status", "endpoint": "/v1"}, status=http_status)
    assert change.statuses("by-status") == {status: 1}
    labels = {"model": "by-status", "endpoint": "/v1", "status": status}
    if error_type:
        labels["error_type"] = error_type
        assert change.sum(ERRORS, model="by-status", error_type=error_type) == 1
    assert change.sum(REQUESTS, **labels) == 1
    assert change.sum(ERRORS, model="by-status") == (error_type is not None)
    assert change.sum(LATENCY, model="by-status", generation_mode="standard") == 1
    assert change.sum(TTFT, model="by-status") == 0
    assert change.sum(ACTIVE, model="by-status") == 0


@both
@pytest.mark.parametrize(
    ("error", "before", "status", "error_type"),
    [
        (RuntimeError("boom"), 0, "error", "inference_error"),
        (MemoryError(), 0, "error", "oom"),
        (TimeoutError(), 0, "timeout", "timeout"),
        (RuntimeError("boom"), 1, "partial", "inference_error"),
        (MemoryError(), 2, "partial", "oom"),
        (TimeoutError(), 1, "timeout", "timeout"),
        (KeyboardInterrupt(), 1, "cancelled", None),
    ],
)
def test_an_exception_passes_unchanged(protocol, error, before, status, error_type):
    """What the app raises is raised again, and is partial after the first byte."""
    pieces = (b"a", b"b")
    with changes() as change, pytest.raises(type(error)) as raised:
        answer(protocol, {"model": "raises"}, pieces=pieces, error=error, before=before)
    assert raised.value is error or isinstance(error, KeyboardInterrupt)
    assert change.statuses("raises") == {status: 1}
    assert change.sum(ERRORS, model="raises") == (error_type is not None)
    if error_type:
        assert change.sum(REQUESTS, model="raises", error_type=error_type) == 1
    assert change.sum(ACTIVE, model="raises") == 0


@both
def test_a_stream_has_its_ttft_and_no_tokens(protocol):
    """A body without an announced length is a stream: TTFT at its first piece, and no tokens."""
    with changes() as change:
        assert answer(protocol, {"model": "plain"}, pieces=(b"a", b"b"), length=False) == b"ab"
    assert change.statuses("plain") == {"success": 1}
    assert change.sum(TTFT, model="plain") == 1
    assert change.sum(TOKENS, model="plain") == 0
    assert change.sum(GAPS, model="plain") == 0


@both
@pytest.mark.parametrize("count", [True, False])
def test_events_are_tokens(protocol, count):
    """Events of a stream that nobody counts inside are its tokens, unless that is switched off."""
    pieces = (b"data: a\n\ndata: b\n\n", b"data: c\n\n", b": ping\n\n", b"data: [DONE]\n\n")
    with changes() as change:
        options = {"model": "events", "count_events": count, "mode": "streaming"}
        answer(protocol, options, pieces=pieces, kind=SSE, length=False)
    assert change.statuses("events") == {"success": 1}
    assert change.sum(TTFT, model="events") == 1
    assert change.sum(TOKENS, model="events", generation_mode="streaming") == 3 * count
    assert change.sum(GAPS, model="events") == count


@both
def test_usage_of_a_stream_is_exact(protocol):
    """The usage that a stream reports is its number of tokens, whatever its events were."""
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    pieces = (b'data: {"choices":[{"delta":{}}]}\n\n', b"data: a\n\n", usage, b"data: [DONE]\n\n")
    with changes() as change:
        answer(protocol, {"model": "exact"}, pieces=pieces, kind=SSE, length=False)
    assert change.sum(TOKENS, model="exact", token_type="prompt") == 9
    assert change.sum(TOKENS, model="exact", token_type="completion") == 4
    assert change.sum("ryot_tokens_per_request_sum", model="exact") == 4


@both
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    ("options", "body", "tokens"),
    [
        ({}, {"usage": {"prompt_tokens": 2, "completion_tokens": 3}}, 5),
        ({}, {"text": '"usage": {}'}, 0),
        ({}, {"usage": {"prompt_tokens": "2", "completion_tokens": -3}}, 0),
        ({}, [{"usage": {"prompt_tokens": 2}}], 0),
        ({"read_usage": False}, {"usage": {"prompt_tokens": 2}}, 0),
        ({"max_body_bytes": 10}, {"usage": {"prompt_tokens": 2}}, 0),
    ],
)
def test_usage_of_a_document(protocol, options, body, tokens, length):
    """A JSON response tells its tokens by `usage`, if it is small enough and the option is on."""
    with changes() as change:
        text = json.dumps(body).encode()
        pieces = (text[:11], text[11:])
        answer(protocol, {"model": "usage", **options}, pieces=pieces, kind=JSON, length=length)
    assert change.sum(TOKENS, model="usage") == tokens
    assert change.sum(TTFT, model="usage") == 0


@both
def test_what_is_tracked_inside_joins(protocol):
    """A decorator, a context and an engine inside count once, their tokens once, events not."""

    @track_inference_request(model="inner")
    def work(engine):
        with InferenceContext(model="innermost"):
            engine.generate("hello", SamplingParams(max_tokens=3, ignore_eos=True))

    with Engine("toy") as engine, changes() as change:
        if protocol == "asgi":
            inner = asgi_app(pieces=(b"data: a\n\n", b"data: b\n\n"), kind=SSE, length=False)

            async def app(scope, receive, send):
                work(engine)
                await inner(scope, receive, send)

            asyncio.run(call(InferenceMiddleware(InferenceMiddleware(app), model="outer")))
        else:
            inner_wsgi = wsgi_app(pieces=(b"data: a\n\n", b"data: b\n\n"), kind=SSE)

            def app(environ, start_response):
                def body():
                    work(engine)
                    yield from inner_wsgi(environ, lambda *_: None)

                start_response("200 OK", [("Content-Type", SSE)])
                return body()

            call_wsgi(InferenceWSGIMiddleware(InferenceWSGIMiddleware(app), model="outer"))
    assert change.sum(REQUESTS) == 1
    assert change.statuses("outer") == {"success": 1}
    assert change.sum(TOKENS, model="outer", token_type="completion") == 3
    assert change.sum(TTFT, model="outer") == 1
    assert change.sum(ACTIVE) == 0


def hang_up(*, done):
    """An app whose client disconnects in the middle of a stream, and which then just returns."""

    async def app(scope, receive, send):
        await receive()
        headers = [(b"content-type", SSE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        piece = b"data: [DONE]\n\n" if done else b"data: a\n\n"
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"

    return app


def test_a_disconnect_is_cancelled():
    """A client that is gone before the last piece cancels; after [DONE] it had everything."""
    for done, status in ((False, "cancelled"), (True, "success")):
        with changes() as change:
            asyncio.run(call(InferenceMiddleware(hang_up(done=done), model="gone")))
        assert change.statuses("gone") == {status: 1}
        assert change.sum(TOKENS, model="gone") == (not done)
        assert change.sum(ERRORS, model="gone") == 0
        assert change.sum(ACTIVE, model="gone") == 0


def test_a_send_that_fails_is_a_client_that_is_gone():
    """An OSError of the server's `send` cancels, and still reaches the app."""

    async def send(message):
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    with changes() as change, pytest.raises(ConnectionResetError):
        asyncio.run(call(InferenceMiddleware(asgi_app(), model="reset"), send=send))
    assert change.statuses("reset") == {"cancelled": 1}


def test_a_cancelled_task_is_cancelled():
    """A request whose task is cancelled is cancelled, and so is the task."""
    started = asyncio.Event()

    async def app(scope, receive, send):
        started.set()
        await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(call(InferenceMiddleware(app, model="task")))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with changes() as change:
        asyncio.run(main())
    assert change.statuses("task") == {"cancelled": 1}
    assert change.sum(ACTIVE, model="task") == 0


def test_a_wsgi_body_that_is_closed_early_is_cancelled():
    """A server that closes the body before its end says that the client is gone."""
    app = InferenceWSGIMiddleware(wsgi_app(pieces=(b"a", b"b"), length=False), model="closed")
    with changes() as change:
        assert call_wsgi(app, limit=1) == b"a"
    assert change.statuses("closed") == {"cancelled": 1}
    assert change.sum(ACTIVE, model="closed") == 0


def test_a_wsgi_body_of_full_length_is_complete():
    """A server that stops at the announced length has sent everything."""
    app = InferenceWSGIMiddleware(wsgi_app(pieces=(b"a", b"b")), model="announced")
    with changes() as change:
        assert call_wsgi(app, limit=2) == b"ab"
    assert change.statuses("announced") == {"success": 1}


def test_a_wsgi_request_ends_with_the_last_announced_byte():
    """Test clients of frameworks often read no further, and drop the body."""
    app = InferenceWSGIMiddleware(wsgi_app(pieces=(b"a", b"b")), model="read")
    environ = {}
    setup_testing_defaults(environ)
    with changes() as change:
        body = iter(app(environ, lambda *_: None))
        assert (next(body), change.statuses("read")) == (b"a", {})
        assert (next(body), change.statuses("read")) == (b"b", {"success": 1})
        body.close()
    assert change.statuses("read") == {"success": 1}


def test_a_file_is_left_to_the_server():
    """A `wsgi.file_wrapper` reaches the server as it is, so that it can send the file itself."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    environ = {"REQUEST_METHOD": "GET", "wsgi.file_wrapper": FileWrapper}
    setup_testing_defaults(environ)
    with changes() as change:
        response = InferenceWSGIMiddleware(app, model="file")(environ, lambda *_: None)
    assert isinstance(response, FileWrapper)
    assert change.statuses("file") == {"success": 1}


def test_an_unfinished_response_is_an_error():
    """An app that returns without a response, or in the middle of one, has failed."""

    async def nothing(scope, receive, send):
        pass

    with changes() as change:
        asyncio.run(call(InferenceMiddleware(nothing, model="nothing")))
    assert change.sum(REQUESTS, model="nothing", error_type="inference_error") == 1


def test_an_error_explains_a_500():
    """An app that answers 500 and then raises has the error type of its exception."""

    async def app(scope, receive, send):
        await asgi_app(status=500)(scope, receive, send)
        raise MemoryError

    with changes() as change, pytest.raises(MemoryError):
        asyncio.run(call(InferenceMiddleware(app, model="explained")))
    assert change.sum(REQUESTS, model="explained", status="error", error_type="oom") == 1
    assert change.sum(REQUESTS, model="explained") == 1


def test_the_background_is_not_part_of_the_request():
    """A request ends with its last byte; what fails after it changes nothing."""
    seen = []

    async def app(scope, receive, send):
        await asgi_app()(scope, receive, send)
        seen.append(change.statuses("background"))
        raise RuntimeError

    with changes() as change, pytest.raises(RuntimeError):
        asyncio.run(call(InferenceMiddleware(app, model="background")))
    assert seen == [{"success": 1}]
    assert change.statuses("background") == {"success": 1}


def test_requests_in_the_background_count():
    """What runs after the last byte is not part of the request, but a request of its own."""

    @track_inference_request(model="after")
    def work():
        pass

    async def app(scope, receive, send):
        await asgi_app()(scope, receive, send)
        work()
        with InferenceContext("after"):
            pass

    with changes() as change:
        asyncio.run(call(InferenceMiddleware(app, model="before")))
    assert change.statuses("before") == {"success": 1}
    assert change.statuses("after") == {"success": 2}


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_scopes_pass_untouched(kind):
    """What is no HTTP request reaches the app as it is, and is not counted."""
    seen = []

    async def app(*arguments):
        seen.append(arguments)

    with changes() as change:
        asyncio.run(InferenceMiddleware(app)({"type": kind}, 1, 2))
    assert seen == [({"type": kind}, 1, 2)]
    assert change.sum(REQUESTS) == 0


@both
@pytest.mark.parametrize(
    ("path", "options", "counted"),
    [
        ("/v1/chat", {}, True),
        ("/metrics", {}, False),
        ("/healthz", {}, False),
        ("/metrics", {"exclude": []}, True),
        ("/v1/chat", {"exclude": ["/v1/*"]}, False),
        ("/v1/chat", {"paths": ["/v1/*"]}, True),
        ("/v1/chat", {"paths": ["/v1/chat"]}, True),
        ("/v1/chat", {"paths": ["/v1"]}, False),
        ("/v1/chat", {"paths": []}, False),
    ],
)
def test_paths_choose_what_is_measured(protocol, path, options, counted):
    """`paths` and `exclude` say what is measured; what is not reaches the app all the same."""
    with changes() as change:
        for _ in range(2):
            if protocol == "asgi":
                app = InferenceMiddleware(asgi_app(), **options)
                assert asyncio.run(call(app, path=path)) == b"done"
            else:
                assert call_wsgi(InferenceWSGIMiddleware(wsgi_app(), **options), path=path)
    assert change.sum(REQUESTS) == 2 * counted


def test_preflights_are_no_inference():
    """OPTIONS and HEAD are not counted."""
    app = InferenceMiddleware(asgi_app())
    with changes() as change:
        for method in ("OPTIONS", "HEAD"):
            asyncio.run(call(app, method=method))
    assert change.sum(REQUESTS) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode is 'fast'; it must be one of standard, streaming, batch"),
        ({"max_body_bytes": -1}, "max_body_bytes is -1; it must be 0 or more"),
        ({"paths": "/v1"}, "paths is '/v1'; it must be a list of paths"),
        ({"exclude": ["v1"]}, "exclude has 'v1'; a path must begin with '/'"),
    ],
)
def test_bad_options_are_refused(options, message):
    """A wrong option says its value and what is allowed."""
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        InferenceMiddleware(asgi_app(), **options)


NAMED = {"model_header": "X-Model", "model_query": "model", "model_body": "model"}


@both
@pytest.mark.parametrize(
    ("header", "query", "body", "model"),
    [
        ("h", "", b"", "h"),
        ("h", "a=1&model=q%2F1", b"", "q/1"),
        ("h", "model=q", b'{"model": "b"}', "b"),
        ("", "model=q", b'{"model": 3}', "q"),
        ("", "", b'{"model": "b"', "fallback"),
        ("", "", b'["model"]', "fallback"),
        ("", "", b'{"model": "\\ud800"}', "fallback"),
        ("x" * 129, "", b"{}", "fallback"),
        ("a\tb", "", b"{}", "fallback"),
        ("", "", b"[" * 60_000, "fallback"),
        ("", "", b'{"model": "b", "pad": "' + b"x" * 70_000 + b'"}', "fallback"),
    ],
)
def test_the_model_s_name(protocol, header, query, body, model):
    """Body, query and header name the model; what cannot be a name does not; the app reads all."""
    headers, read = {"X-Model": header, "Content-Type": JSON}, []
    with changes() as change:
        if protocol == "asgi":

            async def app(scope, receive, send):
                while True:
                    message = await receive()
                    read.append(message["body"])
                    if not message.get("more_body"):
                        break
                await asgi_app()(scope, receive, send)

            app = InferenceMiddleware(app, model="fallback", **NAMED)
            half = len(body) // 2
            messages = [
                {"type": "http.request", "body": body[:half], "more_body": True},
                {"type": "http.request", "body": body[half:]},
            ]
            lower = [(name.lower(), value) for name, value in headers.items()]
            asyncio.run(call(app, messages=messages, headers=lower, query=query.encode()))
        else:

            def app(environ, start_response):
                read.append(environ["wsgi.input"].read())
                return wsgi_app()(environ, start_response)

            app = InferenceWSGIMiddleware(app, model="fallback", **NAMED)
            environ = {"HTTP_X_MODEL": header, "CONTENT_TYPE": JSON}
            call_wsgi(app, body=body, headers=environ.items(), query=query)
    assert b"".join(read) == body
    assert change.statuses(model) == {"success": 1}


def test_a_body_of_unknown_length_is_read_up_to_the_limit():
    """Past the limit the rest is left where it is, and the app gets all messages in order."""
    messages = [{"type": "http.request", "body": b"x" * 6, "more_body": True} for _ in range(3)]
    messages.append({"type": "http.request", "body": b"end"})
    taken = []

    async def receive():
        taken.append(messages[len(taken)])
        return taken[-1]

    async def main():
        body, again = await peek(receive, "", 10)
        assert (body, len(taken)) == (None, 2)
        assert [await again() for _ in range(4)] == messages
        assert await peek(receive, "11", 10) == (None, receive)

    asyncio.run(main())


def test_a_client_that_hangs_up_in_its_body():
    """A disconnect while the body is read reaches the app, and the request is cancelled."""
    seen = []

    async def app(scope, receive, send):
        seen.extend([(await receive())["type"], (await receive())["type"]])

    messages = [{"type": "http.request", "body": b"{", "more_body": True}]
    with changes() as change:
        app = InferenceMiddleware(app, model="upload", model_body="model")
        asyncio.run(call(app, messages=messages, headers=[("content-type", JSON)]))
    assert seen == ["http.request", "http.disconnect"]
    assert change.statuses("upload") == {"cancelled": 1}


def test_a_wsgi_body_without_length_is_not_read():
    """A chunked request over WSGI has the default model, and its body is untouched."""

    def app(environ, start_response):
        assert environ["wsgi.input"].read() == b'{"model": "b"}'
        return wsgi_app()(environ, start_response)

    app = InferenceWSGIMiddleware(app, model="chunked", model_body="model")
    headers = {"CONTENT_TYPE": JSON}.items()
    with changes() as change:
        call_wsgi(app, body=b'{"model": "b"}', headers=headers, length=False)
    assert change.statuses("chunked") == {"success": 1}


def test_models_bounds_the_names():
    """With `models`, a client cannot make up a name."""
    app = InferenceMiddleware(
        asgi_app(), model="rest", model_query="m", models=["known"], endpoint="/e"
    )
    with changes() as change:
        for name in (b"known", b"made-up", b"other"):
            asyncio.run(call(app, query=b"m=" + name))
    assert change.statuses("known") == {"success": 1}
    assert change.statuses("rest") == {"success": 2}


def test_functions_give_labels():
    """`model` and `endpoint` may be functions; one that fails costs the label, not the request."""
    app = InferenceMiddleware(
        asgi_app(), model=lambda scope: scope["path"][1:], endpoint=lambda scope: scope["method"]
    )
    with changes() as change:
        asyncio.run(call(app, path="/m1"))
        asyncio.run(call(InferenceMiddleware(asgi_app(), model=lambda scope: 1 / 0)))
        asyncio.run(call(InferenceMiddleware(asgi_app(), model="e", endpoint=lambda scope: 1 / 0)))
    assert change.sum(REQUESTS, model="m1", endpoint="POST") == 1
    assert change.statuses("default") == {"success": 1}
    assert change.statuses("e") == {"success": 1}


@pytest.mark.parametrize(
    ("headers", "body", "mode"),
    [
        ((), b"{}", "standard"),
        ([("accept", "text/event-stream")], b"{}", "streaming"),
        ([("content-type", JSON)], b'{"stream": true}', "streaming"),
        ([("content-type", JSON)], b'{"stream": 1}', "standard"),
    ],
)
def test_the_mode_is_what_the_client_asks_for(headers, body, mode):
    """`Accept` and the body's `stream` say whether the request is a stream."""
    app = InferenceMiddleware(asgi_app(), model="mode", model_body="model")
    messages = [{"type": "http.request", "body": body}]
    with changes() as change:
        asyncio.run(call(app, headers=headers, messages=messages))
    assert change.sum(LATENCY, model="mode", generation_mode=mode) == 1
    assert change.sum(LATENCY, model="mode") == 1


@pytest.mark.parametrize(
    ("kind", "length", "mode", "expected"),
    [
        (SSE, False, None, "streaming"),
        ("text/plain", False, None, "streaming"),
        ("text/plain", True, None, "standard"),
        (JSON, False, None, "standard"),
        (SSE, False, "standard", "standard"),
        (SSE, False, "batch", "batch"),
    ],
)
def test_the_mode_is_what_the_response_turns_out_to_be(kind, length, mode, expected):
    """A stream that nobody asked for is one, unless the mode was chosen for all."""
    pieces = (b"data: a\n\n", b"data: b\n\n")
    app = asgi_app(pieces=pieces, kind=kind, length=length)
    with changes() as change:
        asyncio.run(call(InferenceMiddleware(app, model="turns-out", mode=mode)))
    assert change.sum(LATENCY, model="turns-out", generation_mode=expected) == 1
    assert change.sum(LATENCY, model="turns-out") == 1
    assert change.sum(ACTIVE, model="turns-out") == 0
