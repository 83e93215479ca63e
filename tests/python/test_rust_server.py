"""The native scrape server, above all: that it answers while the interpreter cannot."""

from __future__ import annotations

import gzip
import http.client
import os
import select
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from ryot_metrics.client import CollectorRegistry, Counter, start_http_server
from ryot_metrics.dashboard import dashboard_page
from ryot_metrics.scrape import MetricsServer, serve_metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry with a page of some kilobytes."""
    registry = CollectorRegistry()
    jobs = Counter("jobs", "Jobs done.", ["queue"], registry=registry)
    for queue in range(100):
        jobs.labels(str(queue)).inc(queue)
    return registry


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[MetricsServer]:
    """A server of that registry on a free port."""
    with serve_metrics(0, registry=registry) as server:
        yield server


def get(url: str, headers: dict[str, str] | None = None, **options: Any) -> Any:
    with urlopen(Request(url, headers=headers or {}), timeout=10, **options) as answer:
        return answer.headers, answer.read()


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ)


STUCK = """
import sys, threading, time
from ryot_metrics.client import CollectorRegistry, Counter
from ryot_metrics.scrape import serve_metrics

registry = CollectorRegistry()
Counter("jobs", "Jobs done.", registry=registry).inc(7)
server = serve_metrics(0, registry=registry)
beats = []

def beat():
    while True:
        beats.append(time.monotonic())
        time.sleep(0.01)

threading.Thread(target=beat, daemon=True).start()
start = time.monotonic()
sum(range(10**7))
n = int(10**7 * 3 / (time.monotonic() - start))
print(server.port, flush=True)
sum(range(n))  # one call in C: nobody else has the GIL
print("through", flush=True)
time.sleep(0.1)
print(max(b - a for a, b in zip(beats, beats[1:])), flush=True)
"""


def test_the_page_is_there_while_the_interpreter_is_stuck() -> None:
    """A C call holds the GIL for seconds; scrapes take milliseconds, and Python's threads wait."""
    with run(STUCK) as service:
        assert service.stdout
        url = f"http://127.0.0.1:{int(service.stdout.readline())}/metrics"
        times = []
        for _ in range(20):
            start = time.monotonic()
            assert b"jobs_total 7.0" in get(url)[1]
            times.append(time.monotonic() - start)
            time.sleep(0.05)
        said = select.select([service.stdout], [], [], 0)[0]
        assert not said, "it must have been stuck to the end of these requests"
        assert service.stdout.readline() == "through\n"
        stood_still = float(service.stdout.readline())
    assert statistics.median(times) < 0.1
    assert stood_still > 1.0, "a Python thread did not run meanwhile"


LIVE = """
import sys, time
from ryot_metrics.scrape import serve_metrics

server = serve_metrics(0)
start = time.monotonic()
sum(range(10**7))
n = int(10**7 * 3 / (time.monotonic() - start))
print(server.port, flush=True)
sum(range(n))  # one call in C: nobody else has the GIL
print("through", flush=True)
"""


def test_the_live_page_is_there_while_the_interpreter_is_stuck() -> None:
    """A browser that comes when the service hangs has the charts, and their metrics."""
    with run(LIVE) as service:
        assert service.stdout
        url = f"http://127.0.0.1:{int(service.stdout.readline())}"
        page = get(f"{url}/dashboard")[1]
        metrics = get(f"{url}/metrics?profile=ryot")[1]
        said = select.select([service.stdout], [], [], 0)[0]
        assert not said, "it must have been stuck to the end of these requests"
        assert service.stdout.readline() == "through\n"
    assert page == dashboard_page()[2]
    assert b"ryot_metrics_callback_age_seconds{" in metrics


def test_the_live_page_beside_the_metrics() -> None:
    """It has the policy, type and length of the one that apps have, and reads the page's path."""
    with serve_metrics(0, path="/custom", dashboard="/a/charts") as server:
        url = server.url.removesuffix("/metrics")
        headers, page = get(f"{url}/a/charts")
        _, expected, body = dashboard_page("/a/charts", "/custom")
        assert page == body
        assert {name: headers[name] for name, _ in expected} == dict(expected)
        assert b'data-metrics="../custom"' in page
        request = Request(f"{url}/a/charts", method="HEAD")
        with urlopen(request, timeout=10) as answer:
            assert (answer.headers["Content-Length"], answer.read()) == (str(len(body)), b"")
        with pytest.raises(HTTPError, match="404"):
            get(f"{url}/dashboard")


def test_where_there_is_no_live_page(registry: CollectorRegistry) -> None:
    """Without the families of language models, or if it is not wanted, the path is as others."""
    with serve_metrics(0, registry=registry) as server:
        assert get(server.url.replace("metrics", "dashboard"))[1].startswith(b"# HELP jobs_total")
    with serve_metrics(0, dashboard=None) as server:
        assert b"python_info{" in get(server.url.replace("metrics", "dashboard"))[1]
    with pytest.raises(ValueError, match="path is 'charts'; it must begin with '/'"):
        serve_metrics(0, dashboard="charts")
    with pytest.raises(ValueError, match='path is "/dashboard"; another page is there'):
        serve_metrics(0, path="/dashboard")


def test_start_http_server_has_the_live_page() -> None:
    """Under the name that `prometheus_client` has for it, too."""
    server, thread = start_http_server(0, "127.0.0.1")
    try:
        url = f"http://127.0.0.1:{server.server_port}/dashboard"
        assert get(url)[1] == dashboard_page()[2]
    finally:
        server.shutdown()
        thread.join()


def test_the_page_in_both_formats(server: MetricsServer) -> None:
    """Prometheus' own parsers read the page that the Accept header asks for."""
    headers, page = get(server.url)
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    family, created = plain(page.decode())
    assert sum(sample.value for sample in family.samples) == 4950
    assert len(created.samples) == 100
    headers, page = get(server.url, {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    (family,) = openmetrics(page.decode())
    assert len(family.samples) == 200, "each with its time of creation"


def test_gzip_for_who_takes_it(server: MetricsServer, registry: CollectorRegistry) -> None:
    """A page is compressed by Accept-Encoding, unless it is small."""
    headers, page = get(server.url, {"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(page) == get(server.url)[1]
    assert "Content-Encoding" not in get(server.url, {"Accept-Encoding": "gzip;q=0"})[0]
    with serve_metrics(0, registry=registry, compress_min_bytes=10**6) as other:
        assert "Content-Encoding" not in get(other.url, {"Accept-Encoding": "gzip"})[0]


def test_head_and_methods_that_change_things(server: MetricsServer) -> None:
    """HEAD has the headers alone; POST is not allowed; one connection serves them all."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("HEAD", "/metrics")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 1000
    assert answer.headers["Cache-Control"] == "no-store"
    connection.request("POST", "/metrics", body=b"")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    connection.close()


def test_fifty_kept_connections_beside_slow_ones(server: MetricsServer) -> None:
    """Clients that never finish a request keep nobody waiting, however many they are."""
    assert server.port
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(150)]
    for client in slow:
        client.sendall(b"GET / HTTP/1.1\r\nHost: ")
    clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(50)]
    for client in clients * 3:
        client.request("GET", "/metrics")
        assert b"jobs_total" in client.getresponse().read()
    for client in [*clients, *slow]:
        client.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl reads the Unix socket")
def test_curl_over_a_unix_socket(registry: CollectorRegistry, tmp_path: Path) -> None:
    """The socket's file is the owner's alone, serves curl, and goes with the server."""
    path = tmp_path / "metrics.sock"
    with serve_metrics(unix_socket=path, registry=registry) as server:
        assert (server.address, server.port) == (str(path), None)
        assert path.stat().st_mode & 0o777 == 0o600
        curl = ["curl", "-sS", "--compressed", "--unix-socket", path, "http://x/metrics"]
        assert b"jobs_total" in subprocess.run(curl, check=True, stdout=subprocess.PIPE).stdout
    assert not path.exists()


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path) -> None:
    """Only a socket that nobody listens on is replaced."""
    path = tmp_path / "notes.txt"
    path.write_text("keep me")
    with pytest.raises(OSError, match=r"notes\.txt.*is not a socket"):
        serve_metrics(unix_socket=path)
    assert path.read_text() == "keep me"


def test_what_cannot_be_served_is_named(server: MetricsServer, tmp_path: Path) -> None:
    """Errors are Python's own, with the value in them."""
    assert server.port
    with pytest.raises(OSError, match=rf"127.0.0.1:{server.port}.*in use") as taken:
        serve_metrics(server.port)
    assert taken.value.errno
    with pytest.raises(ValueError, match="port is 70000"):
        serve_metrics(70000)
    with pytest.raises(ValueError, match="read_timeout is 0 s"):
        serve_metrics(0, read_timeout=0)
    with pytest.raises(ValueError, match="max_connections is 0"):
        serve_metrics(0, max_connections=0)
    with pytest.raises(ValueError, match="certfile is missing"):
        serve_metrics(0, keyfile="key.pem")
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        serve_metrics(0, certfile=tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("nonsense")
    with pytest.raises(ValueError, match=r"bad\.pem"):
        serve_metrics(0, certfile=tmp_path / "bad.pem")


def test_a_shutdown_frees_the_port(registry: CollectorRegistry) -> None:
    """The same port serves again at once; a second shutdown does nothing."""
    server = serve_metrics(0, registry=registry)
    get(server.url)
    server.shutdown()
    server.shutdown()
    with serve_metrics(server.port or 0, registry=registry) as again:
        assert again.port == server.port
        get(again.url)


FORKED = """
import os, sys
from ryot_metrics import RyotError
from ryot_metrics.client import CollectorRegistry, Counter
from ryot_metrics.scrape import serve_metrics

registry = CollectorRegistry()
jobs = Counter("jobs", "Jobs done.", registry=registry)
path = sys.argv[1]
socket = serve_metrics(unix_socket=path, registry=registry)
server = serve_metrics(0, registry=registry)
port, url = server.port, server.url
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    for use in (server.shutdown, lambda: server.address, socket.__exit__):
        try:
            use()
        except RyotError as error:
            assert str(os.getppid()) in str(error) and str(os.getpid()) in str(error), error
        else:
            os._exit(1)
    jobs.inc()
    with serve_metrics(0, registry=registry) as own:
        from urllib.request import urlopen
        assert b"jobs_total 1.0" in urlopen(own.url).read()
    del server, socket
    print("child", flush=True)
    os.read(reading, 1)  # stays, and the copies of the sockets with it
    sys.exit(0)
print(port, flush=True)
sys.stdin.readline()
server.shutdown()
serve_metrics(port, registry=registry)
print("again", flush=True)
sys.stdin.readline()
os.write(writing, b"x")
assert os.waitpid(child, 0)[1] == 0
assert os.path.exists(path)
print("end", flush=True)
"""


def test_a_forked_child_says_so_and_takes_nothing_away(tmp_path: Path) -> None:
    """The child's methods name both processes; the parent serves on, and its port gets free."""
    path = tmp_path / "metrics.sock"
    with run(FORKED, path) as service:
        assert service.stdin
        assert service.stdout
        lines = sorted([service.stdout.readline(), service.stdout.readline()])
        assert lines[1] == "child\n"
        url = f"http://127.0.0.1:{int(lines[0])}/"
        assert b"jobs_total 0.0" in get(url)[1]
        for expected in ("again\n", "end\n"):
            service.stdin.write("\n")
            service.stdin.flush()
            assert service.stdout.readline() == expected
    assert service.returncode == 0
    assert not path.exists(), "the parent removes its socket at its end"


MANY_FORKS = """
import os, signal, sys, threading
from urllib.request import urlopen
from ryot_metrics import Engine, SamplingParams
from ryot_metrics.client import CollectorRegistry, Counter, generate_latest
from ryot_metrics.scrape import serve_metrics

registry = CollectorRegistry()
jobs = Counter("jobs", "Jobs done.", ["queue"], registry=registry)
for queue in range(20_000):
    jobs.labels(str(queue)).inc()
server = serve_metrics(0, registry=registry)
engine = Engine("toy")
work = {
    "server": lambda: urlopen(server.url).read(),
    "page": lambda: generate_latest(registry),
    "engine": lambda: engine.generate(["a", "b"], SamplingParams(max_tokens=20)),
}[sys.argv[1]]

def repeat():
    while True:
        work()

for _ in range(2):
    threading.Thread(target=repeat, daemon=True).start()
for _ in range(50):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        jobs.labels("new").inc()  # takes the lock that a page in the making holds
        generate_latest()  # takes those of the engine's families
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("counted", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("work", ["server", "page", "engine"])
def test_children_count_on_whatever_threads_do(work: str) -> None:
    """A fork waits for pages and events, so a child never inherits a lock without owner."""
    with run(MANY_FORKS, work) as service:
        assert service.stdout
        assert service.stdout.read() == "counted\n"


ASKED_IN_CHILDREN = """
import os, signal, threading
from urllib.request import urlopen
from ryot_metrics.client import CollectorRegistry, Gauge
from ryot_metrics.scrape import serve_metrics

registry = CollectorRegistry()
Gauge("process", "Its number.", registry=registry).set_function(os.getpid)
server = serve_metrics(0, registry=registry)
urlopen(server.url).read()

def repeat():
    while True:
        urlopen(server.url).read()

threading.Thread(target=repeat, daemon=True).start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with serve_metrics(0, registry=registry) as own:
            # A page waits only so long for the interpreter, on a busy machine too short.
            while f"process {float(os.getpid())}".encode() not in urlopen(own.url).read():
                pass
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("asked", flush=True)
os._exit(0)
"""


def test_children_ask_their_own_interpreter() -> None:
    """A forked child's server has its own thread for Python's part of a page."""
    with run(ASKED_IN_CHILDREN) as service:
        assert service.stdout
        assert service.stdout.read() == "asked\n"


def openssl(*arguments: object) -> None:
    quiet = subprocess.DEVNULL
    subprocess.run(["openssl", *map(str, arguments)], check=True, stdout=quiet, stderr=quiet)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of it for a server and a client."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates")
    home = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    ca = [home / "ca.pem", home / "ca.key"]
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=ca", "-days", 2, "-out", ca[0], "-keyout", ca[1]),
        *("-addext", "keyUsage=critical,keyCertSign"),
    )
    for name in ("server", "client"):
        files = [home / f"{name}.pem", home / f"{name}.key", home / f"{name}.csr"]
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", files[1], "-out", files[2])
        extensions = home / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
        openssl(
            *("x509", "-req", "-in", files[2], "-CA", ca[0], "-CAkey", ca[1], "-CAcreateserial"),
            *("-days", 2, "-out", files[0], "-extfile", extensions),
        )
    return home


def test_https(registry: CollectorRegistry, certificates: Path) -> None:
    """Python's TLS trusts the server by its authority; plain HTTP gets nothing."""
    files = {"certfile": certificates / "server.pem", "keyfile": certificates / "server.key"}
    with serve_metrics(0, registry=registry, **files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        assert b"jobs_total" in get(server.url, context=context)[1]
        with pytest.raises((OSError, http.client.HTTPException)):
            get(server.url.replace("https", "http"))
    with pytest.raises(ValueError, match=r"client\.key"):
        serve_metrics(0, certfile=files["certfile"], keyfile=certificates / "client.key")


def test_a_client_must_show_its_certificate(
    registry: CollectorRegistry, certificates: Path
) -> None:
    """With `client_auth_required`, only a client of the authority reads the page."""
    tls: dict[str, Any] = {
        "certfile": certificates / "server.pem",
        "keyfile": certificates / "server.key",
        "client_cafile": certificates / "ca.pem",
    }
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with serve_metrics(0, registry=registry, **tls) as server:
        assert b"jobs_total" in get(server.url, context=context)[1]
    with serve_metrics(0, registry=registry, client_auth_required=True, **tls) as server:
        with pytest.raises(OSError):  # noqa: PT011  the alert's text is OpenSSL's
            get(server.url, context=context)
        context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert b"jobs_total" in get(server.url, context=context)[1]
