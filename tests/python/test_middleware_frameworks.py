"""The middlewares in small apps of each framework: templates, errors, streams, two lines to add."""

import asyncio
import sys
from types import ModuleType

import django.conf
import flask
import httpx
import litestar
import litestar.response
import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path, re_path
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.responses import StreamingResponse as StarletteStream
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient

from page import changes
from ryot_metrics import mount_metrics, track_token_generation
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware

REQUESTS = "ryot_inference_requests_total"
TOKENS = "ryot_tokens_generated_total"
TTFT = "ryot_ttft_latency_seconds_count"
ACTIVE = "ryot_active_inference_requests"
FAILURES = {"oom": MemoryError, "timeout": TimeoutError}


@track_token_generation(model="inner")
async def tokens():
    for token in ("a", "b", "c"):
        yield token


@track_token_generation(model="inner")
def tokens_sync():
    yield from ("a", "b", "c")


def fastapi_app(**options):
    app = FastAPI()
    models = APIRouter(prefix="/v1")

    @models.get("/models/{name}")
    async def model(name: str) -> dict[str, str]:
        if name == "none":
            raise HTTPException(404)
        return {"name": name}

    @models.get("/fails/{kind}")
    def fails(kind: str) -> None:
        raise FAILURES[kind]

    @models.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(tokens(), media_type="text/plain")

    app.include_router(models)
    mount_metrics(app)
    app.add_middleware(InferenceMiddleware, **options)
    return app


def starlette_app(**options):
    async def model(request):
        return PlainTextResponse("", 404 if request.path_params["name"] == "none" else 200)

    def fails(request):
        raise FAILURES[request.path_params["kind"]]

    async def stream(request):
        return StarletteStream(tokens())

    async def through(request, call_next):
        return await call_next(request)

    routes = [
        Route("/models/{name}", model),
        Route("/fails/{kind}", fails),
        Route("/stream", stream),
    ]
    app = Starlette(routes=[Mount("/v1", routes=routes)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=through)
    app.add_middleware(InferenceMiddleware, **options)
    return app


def litestar_routes():
    @litestar.get("/v1/models/{name:str}")
    async def model(request: litestar.Request) -> dict[str, str]:
        name = request.path_params["name"]
        if name == "none":
            raise litestar.exceptions.NotFoundException
        return {"name": name}

    @litestar.get("/v1/fails/{kind:str}", sync_to_thread=False)
    def fails(request: litestar.Request) -> None:
        raise FAILURES[request.path_params["kind"]]

    @litestar.get("/v1/stream")
    async def stream() -> litestar.response.Stream:
        return litestar.response.Stream(tokens())

    return [model, fails, stream]


def litestar_app(**options):
    return InferenceMiddleware(litestar.Litestar(litestar_routes()), **options)


def litestar_inside(**options):
    return litestar.Litestar(
        litestar_routes(), middleware=[DefineMiddleware(InferenceMiddleware, **options)]
    )


def flask_app(**options):
    app = flask.Flask("service")

    @app.get("/v1/models/<name>")
    def model(name):
        return flask.abort(404) if name == "none" else {"name": name}

    @app.get("/v1/fails/<kind>")
    def fails(kind):
        raise FAILURES[kind]

    @app.get("/v1/stream")
    def stream():
        return flask.Response(tokens_sync())

    app.wsgi_app = InferenceWSGIMiddleware(app.wsgi_app, **options)
    return app


def django_urls():
    def model(request, name):
        return HttpResponse(status=404) if name == "none" else JsonResponse({"name": name})

    def fails(request, kind):
        raise FAILURES[kind]

    def stream(request):
        # Its ASGI handler would take a generator as a whole, and its WSGI handler an async one.
        scope = hasattr(request, "scope")
        return StreamingHttpResponse(tokens() if scope else tokens_sync())

    urls = ModuleType("urls_of_the_test")
    v1 = [
        path("models/<str:name>", model),
        path("fails/<kind>", fails),
        re_path(r"^stream$", stream),
    ]
    urls.urlpatterns = [path("v1/", include(v1))]
    return urls


@pytest.fixture(scope="module", autouse=True)
def django_settings():
    urls = django_urls()
    sys.modules[urls.__name__] = urls
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            ROOT_URLCONF=urls.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", LOGGING_CONFIG=None
        )
    yield
    del sys.modules[urls.__name__]


def django_wsgi(**options):
    return InferenceWSGIMiddleware(get_wsgi_application(), **options)


def django_asgi(**options):
    return InferenceMiddleware(get_asgi_application(), **options)


TEMPLATES = {
    fastapi_app: "/v1/models/{name}",
    starlette_app: "/v1/models/{name}",
    litestar_app: "/v1/models/{name}",
    litestar_inside: "/v1/models/{name}",
    flask_app: "/v1/models/<name>",
    django_wsgi: "/v1/models/<str:name>",
    django_asgi: "/v1/models/<str:name>",
}
frameworks = pytest.mark.parametrize("make", TEMPLATES, ids=lambda make: make.__name__)


def get(app, *paths):
    """The texts of such requests."""
    if isinstance(app, flask.Flask | InferenceWSGIMiddleware):
        transport = httpx.WSGITransport(app, raise_app_exceptions=False)
        with httpx.Client(transport=transport, base_url="http://test") as client:
            return [client.get(one).text for one in paths]

    async def fetch():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [(await client.get(one)).text for one in paths]

    return asyncio.run(fetch())


@frameworks
def test_the_endpoint_is_the_template(make):
    """Requests of one route have its template as label, whatever its parameters are."""
    with changes() as change:
        get(make(model="m"), "/v1/models/a", "/v1/models/b", "/v1/models/none")
    template = TEMPLATES[make]
    assert change.sum(REQUESTS, model="m") == 3
    assert change.sum(REQUESTS, endpoint=template, status="success") == 2
    assert change.sum(REQUESTS, endpoint=template, error_type="model_not_found") == 1
    assert change.sum(ACTIVE, endpoint=template) == 0


@frameworks
def test_paths_without_a_route_are_no_requests(make):
    """What a scanner asks for is no inference request, and no error of one, with `paths` or not."""
    with changes() as change:
        get(make(model="m"), "/a", "/b", "/v1/models/x/y")
        get(make(model="m", paths=["/v1/*"]), "/v1/models/x/y")
    assert change.sum(REQUESTS) == 0
    assert change.sum("ryot_inference_errors_total") == 0


@frameworks
def test_an_exception_of_a_handler(make):
    """A handler that fails has the outcome of its exception, whoever answers with the 500."""
    with changes() as change:
        get(make(model="m"), "/v1/fails/oom", "/v1/fails/timeout")
    assert change.sum(REQUESTS, model="m", status="error", error_type="oom") == 1
    assert change.sum(REQUESTS, model="m", status="timeout", error_type="timeout") == 1
    assert change.sum(REQUESTS, model="m") == 2


def test_what_a_handler_answers_is_no_failure():
    """An exception that an app's own handler answers counts by the status of that answer."""
    app = flask_app(model="m")
    app.register_error_handler(MemoryError, lambda error: ("busy", 429))
    with changes() as change:
        get(app, "/v1/fails/oom")
    assert change.sum(REQUESTS, model="m", error_type="inference_error") == 1


def test_a_failure_inside_of_a_stream_that_was_begun():
    """A tracked generator that hangs half way between does not hide whose exception it is."""
    app = flask_app(model="m")

    @app.get("/half")
    def half():
        stream = tokens_sync()
        next(stream)
        raise MemoryError

    with changes() as change:
        get(app, "/half")
    assert change.sum(REQUESTS, model="m", error_type="oom") == 1


@frameworks
def test_a_decorated_stream_joins(make):
    """A stream that a decorator counts is one request, with the decorator's tokens."""
    with changes() as change:
        assert get(make(model="outer"), "/v1/stream") == ["abc"]
    assert change.sum(REQUESTS) == 1
    assert change.statuses("outer") == {"success": 1}
    assert change.sum(TOKENS, model="outer") == 3
    assert change.sum(TTFT, model="outer") == 1
    assert change.sum(ACTIVE) == 0


def test_the_page_and_health_are_not_requests():
    """The page of an app is not one of its inference requests."""
    with changes() as change:
        (page, _) = get(fastapi_app(), "/metrics", "/health")
    assert "ryot_inference_requests_total" in page
    assert change.sum(REQUESTS) == 0


def test_paths_may_be_templates():
    """`paths` takes a template as well as a path."""
    with changes() as change:
        get(fastapi_app(model="m", paths=["/v1/models/{name}"]), "/v1/models/a", "/v1/stream")
    assert change.sum(REQUESTS, model="m", endpoint="/v1/models/{name}") == 1
    assert change.sum(REQUESTS, model="m") == 1


def test_mounted_apps():
    """The template goes through mounts to the inner app's route, and ends at an unknown app."""

    async def unknown(scope, receive, send):
        await PlainTextResponse("x")(scope, receive, send)

    inner = FastAPI()

    @inner.get("/items/{item:path}")
    async def item(item: str) -> str:
        return item

    app = FastAPI()
    app.mount("/tenants/{tenant}", inner)
    app.mount("/files", unknown)
    with changes() as change:
        get(InferenceMiddleware(app, model="m"), "/tenants/7/items/a/b", "/files/x/y")
    assert change.sum(REQUESTS, model="m", endpoint="/tenants/{tenant}/items/{item}") == 1
    assert change.sum(REQUESTS, model="m", endpoint="/files") == 1


def test_a_middleware_in_a_mounted_app():
    """Inside of a mounted app the template is the one of that app."""
    inner = fastapi_app(model="m")
    app = FastAPI()
    app.mount("/tenants/{tenant}", inner)
    with changes() as change:
        get(app, "/tenants/1/v1/models/a", "/tenants/2/v1/models/a")
    assert change.sum(REQUESTS, model="m", endpoint="/v1/models/{name}") == 2


def test_routes_by_host():
    """An app that routes by host is asked again for each host."""

    async def home(request):
        return PlainTextResponse("")

    a, b = (Starlette(routes=[Route(f"/{{{name}}}", home)]) for name in "ab")
    app = Starlette(routes=[Host("a.org", a), Host("b.org", b)])
    with changes() as change:
        get(InferenceMiddleware(app, model="m"), "http://a.org/x", "http://b.org/x")
    assert change.sum(REQUESTS, model="m", endpoint="/{a}") == 1
    assert change.sum(REQUESTS, model="m", endpoint="/{b}") == 1


def test_routes_that_come_later():
    """A path without a route is asked for again."""
    app = fastapi_app(model="m")
    with changes() as change:
        get(app, "/later")
        app.get("/later")(lambda: "here")
        get(app, "/later")
    assert change.sum(REQUESTS, model="m") == 1
    assert change.sum(REQUESTS, model="m", endpoint="/later") == 1


def test_websockets_still_work():
    """A websocket of the app passes through."""
    app = fastapi_app()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    with changes() as change, TestClient(app).websocket_connect("/ws") as connection:
        assert connection.receive_text() == "hello"
    assert change.sum(REQUESTS) == 0
