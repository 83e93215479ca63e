"""The page over WSGI, `http.server`, ASGI and TLS, beside that of `prometheus_client`."""

import asyncio
import gzip
import http.client
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import HTTPServer

import prometheus_client
import pytest
import zstandard

from ryot_metrics import client
from ryot_metrics.client.answer import gzip_accepted
from ryot_metrics.client.wsgi import ThreadingWSGIServer
from test_client import fill, undated

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def _quick_shutdown(monkeypatch):
    """Servers look more often than each half second whether they shall end."""
    run = ThreadingWSGIServer.serve_forever
    monkeypatch.setattr(ThreadingWSGIServer, "serve_forever", lambda server: run(server, 0.01))


@pytest.fixture(autouse=True, params=["start_http_server", "start_wsgi_server"])
def starter(request, monkeypatch):
    """Every test runs on the native server and on that of the standard library."""
    monkeypatch.setattr(client, "start_server", getattr(client, request.param), raising=False)
    return request.param


@contextmanager
def serving(module, registry, **options):
    start = module.start_server if module is client else module.start_http_server
    server, thread = start(0, "127.0.0.1", registry, **options)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def request(port, method="GET", target="/metrics", *, context=None, **headers):
    """Status, headers and body of an answer."""
    connect = http.client.HTTPConnection
    options = {"timeout": 20}
    if context is not None:
        connect, options = http.client.HTTPSConnection, {**options, "context": context}
    connection = connect("localhost" if context else "127.0.0.1", port, **options)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, headers=named)
        response = connection.getresponse()
        titled = {name.title(): value for name, value in response.getheaders()}
        return response.status, titled, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("accept", ["*/*", "text/plain"])
def test_the_server_answers_as_prometheus_clients(accept, encoding):
    """Status, type, coding and page are those of the other package's server."""
    answers = []
    for module in (client, prometheus_client):
        with serving(module, fill(module)) as port:
            status, headers, body = request(port, Accept=accept, Accept_Encoding=encoding)
        page = gzip.decompress(body) if encoding == "gzip" else body
        coding = headers.get("Content-Encoding")
        answers.append((status, headers["Content-Type"], coding, undated(page.decode())))
        assert headers.get("Cache-Control") == ("no-store" if module is client else None)
    assert answers[0] == answers[1]


def test_the_server_speaks_openmetrics():
    """The format is the one that is asked for."""
    with serving(client, fill(client)) as port:
        _, headers, page = request(port, Accept=OPENMETRICS)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


@contextmanager
def handler_server(registry):
    server = HTTPServer(("127.0.0.1", 0), client.MetricsHandler.factory(registry))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def wsgi_server(registry):
    return serving(client, registry)


@pytest.mark.parametrize("server", [wsgi_server, handler_server])
def test_methods_are_answered_as_http_has_it(server):
    """HEAD has the headers of GET and no body, OPTIONS tells what is allowed, all else is 405."""
    with server(fill(client)) as port:
        status, headers, page = request(port)
        assert (status, headers["Content-Length"]) == (200, str(len(page)))
        status, head, nothing = request(port, "HEAD")
        assert (status, nothing) == (200, b"")
        assert head["Content-Length"] == headers["Content-Length"]
        status, headers, _ = request(port, "OPTIONS")
        assert (status, headers["Allow"]) == (200, "GET, HEAD, OPTIONS")
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            status, headers, _ = request(port, method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_browsers_get_no_page_as_an_icon():
    """`/favicon.ico` is empty, as in the other package."""
    with serving(client, fill(client)) as port:
        assert request(port, target="/favicon.ico")[2] == b""


def test_a_query_restricts_the_page():
    """`name[]`, once or more, leaves the samples of these names, as in the other package."""
    pages = []
    for module in (client, prometheus_client):
        with serving(module, fill(module)) as port:
            target = "/metrics?name[]=app_queue_depth&name%5B%5D=size_sum"
            status, _, page = request(port, target=target)
        assert status == 200
        pages.append(page.decode())
    assert sorted(pages[0].splitlines()) == sorted(pages[1].splitlines())
    assert "size_sum 2.0" in pages[0]
    assert "size_count" not in pages[0]


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("br;q=1.0, GZIP;q=0.2", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("xgzip, deflate", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(header, accepted):
    """A weight of zero is a refusal."""
    assert gzip_accepted(header) is accepted


def asgi(app, **headers):
    """Status, headers and body that an ASGI app gives for GET, and the threads it used."""
    sent = []
    scope = {
        "type": "http",
        "method": "GET",
        "query_string": b"",
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_asgi_app_gives_the_page_of_the_server():
    """The same page, packed where gzip is accepted."""
    registry = fill(client)
    page = client.generate_latest(registry)
    app = client.make_asgi_app(registry)
    assert asgi(app) == (
        200,
        {
            b"content-type": client.CONTENT_TYPE_PLAIN_0_0_4.encode(),
            b"cache-control": b"no-store",
            b"content-length": str(len(page)).encode(),
        },
        page,
    )
    for coding, unpack in (("gzip", gzip.decompress), ("zstd", zstandard.decompress)):
        _, headers, packed = asgi(app, accept_encoding=coding)
        assert headers[b"content-encoding"] == coding.encode()
        assert unpack(packed) == page
    plain = client.make_asgi_app(registry, disable_compression=True)
    assert asgi(plain, accept_encoding="gzip")[2] == page


def test_the_asgi_app_needs_no_asyncio():
    """Under another event loop the page is made at once."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", b"gzip")]}
    registry = fill(client)
    with pytest.raises(StopIteration):
        client.make_asgi_app(registry)(scope, None, send).send(None)
    assert gzip.decompress(sent[1]["body"]) == client.generate_latest(registry)


def test_the_event_loop_does_not_wait_for_a_page(monkeypatch):
    """It is made in a thread, however short it may be."""
    threads = []
    from ryot_metrics.client import answer

    def encoder(registry):
        threads.append(threading.current_thread())
        return b""

    monkeypatch.setattr(answer, "choose_encoder", lambda accept: (encoder, "text/plain"))
    asgi(client.make_asgi_app(fill(client)))
    assert threads[0] is not threading.main_thread()


def trusting(folder, name=None):
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@pytest.fixture
def tls(certificates):
    return {
        "certfile": str(certificates / "server.pem"),
        "keyfile": str(certificates / "server.key"),
    }


def test_the_server_speaks_tls(certificates, tls):
    """A client that trusts the authority reads the page; one that speaks no TLS does not."""
    registry = fill(client)
    with serving(client, registry, **tls) as port:
        _, _, page = request(port, context=trusting(certificates))
        assert page == client.generate_latest(registry)
        with pytest.raises((OSError, http.client.HTTPException)):
            request(port)


def test_an_idle_handshake_keeps_nobody_waiting(certificates, tls):
    """While one client has connected and says nothing, another one is answered."""
    with (
        serving(client, fill(client), **tls) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert request(port, context=trusting(certificates))[0] == 200


def test_the_server_can_ask_for_a_certificate(certificates, tls):
    """With `client_auth_required`, only a client with a certificate of the authority gets in."""
    tls["client_cafile"] = str(certificates / "ca.pem")
    with serving(client, fill(client), **tls, client_auth_required=True) as port:
        assert request(port, context=trusting(certificates, "client"))[0] == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            request(port, context=trusting(certificates))


def test_the_server_can_be_held_to_a_version_of_tls(certificates, tls):
    """A client that wants another version than the server's is refused."""
    newest = trusting(certificates)
    newest.minimum_version = ssl.TLSVersion.TLSv1_3
    limit = {"tls_max_version": ssl.TLSVersion.TLSv1_2}
    with serving(client, fill(client), **tls, **limit) as port, pytest.raises(OSError):  # noqa: PT011
        request(port, context=newest)


def test_bad_certificate_files_are_named(certificates, tls):
    """A missing file, and a key without its certificate, are errors at once."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.pem"):
        client.start_server(0, "127.0.0.1", **{**tls, "certfile": "nothing.pem"})
    with pytest.raises(FileNotFoundError, match=r"nothing\.pem"):
        client.start_server(0, "127.0.0.1", **tls, client_cafile="nothing.pem")
    with pytest.raises(ValueError, match="go together"):
        client.start_server(0, "127.0.0.1", keyfile=tls["keyfile"])


def test_the_server_listens_on_ipv6():
    """An address of IPv6 is one."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server, thread = client.start_server(0, "::1", fill(client))
    server.shutdown()
    server.server_close()
    thread.join()
    assert server.server_address[0] == "::1"
