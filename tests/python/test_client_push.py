"""Pushes, textfiles and grouping keys, beside those of `prometheus_client`."""

import gzip
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import types
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError

import prometheus_client
import prometheus_client.exposition
import pytest

from ryot_metrics import client
from ryot_metrics.client import exposition
from test_client import fill, undated

KEYS = [
    None,
    {},
    {"instance": "a", "b": 7},
    {"path": "/a/b", "space": "a b", "empty": "", "text": "ü&?=%", "none": None},
]


class Recorder(BaseHTTPRequestHandler):
    """Notes each request, and answers with the statuses that stand in `answers`."""

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        headers = {name: self.headers[name] for name in NOTED if name in self.headers}
        self.server.requests.append((self.command, self.path, headers, body))
        status = self.server.answers.pop(0) if self.server.answers else 202
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/moved to")
        self.end_headers()

    do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def log_message(self, *_):
        pass


NOTED = ("Content-Type", "Content-Encoding", "Authorization")


@contextmanager
def listening(context=None):
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    server.requests, server.answers = [], []
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(name="gateway")
def fixture_gateway():
    with listening() as server:
        yield server


def address(server):
    return f"127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("verb", ["push_to_gateway", "pushadd_to_gateway", "delete_from_gateway"])
def test_the_gateway_gets_what_prometheus_client_sends(gateway, verb, key):
    """Method, path, headers and body of all three calls are the same."""
    for module in (client, prometheus_client):
        registry = {} if verb == "delete_from_gateway" else {"registry": fill(module)}
        getattr(module, verb)(address(gateway), "my job", grouping_key=key, **registry)
    ours, theirs = ((*request, undated(body.decode())) for *request, body in gateway.requests)
    assert ours == theirs


@pytest.mark.parametrize("url", ["http://{}", "http://{}/", "{}/", "{}"])
def test_a_gateway_needs_no_scheme(gateway, url):
    """HTTP is the default, and a slash at the end changes nothing."""
    client.push_to_gateway(url.format(address(gateway)), "a/b", fill(client))
    assert gateway.requests[0][:2] == ("PUT", "/metrics/job@base64/YS9i")


def test_pushadd_takes_the_default_registry(gateway):
    """None is the page of this process, as in the other package."""
    client.pushadd_to_gateway(address(gateway), "job", None)
    assert b"python_info{" in gateway.requests[0][3]


def test_a_push_can_be_packed(gateway, monkeypatch):
    """By gzip; by snappy where python-snappy is installed; by nothing else."""
    page = client.generate_latest(fill(client))
    client.push_to_gateway(address(gateway), "job", fill(client), compression="gzip")
    _, _, headers, body = gateway.requests.pop()
    assert (headers["Content-Encoding"], undated(gzip.decompress(body).decode())) == (
        "gzip",
        undated(page.decode()),
    )
    compressor = types.SimpleNamespace(compress=lambda data: b"packed" + data)
    snappy = types.SimpleNamespace(StreamCompressor=lambda: compressor)
    monkeypatch.setitem(sys.modules, "snappy", snappy)
    client.pushadd_to_gateway(address(gateway), "job", fill(client), compression="snappy")
    _, _, headers, body = gateway.requests.pop()
    assert headers["Content-Encoding"] == "snappy"
    assert undated(body.decode()) == "packed" + undated(page.decode())
    monkeypatch.setitem(sys.modules, "snappy", None)
    with pytest.raises(RuntimeError, match="python-snappy"):
        client.push_to_gateway(address(gateway), "job", fill(client), compression="snappy")
    with pytest.raises(ValueError, match="Unsupported compression type: zip"):
        client.push_to_gateway(address(gateway), "job", fill(client), compression="zip")


def test_a_refusal_is_an_error(gateway):
    """What the gateway does not take raises OSError, and so does a gateway that is away."""
    gateway.answers = [400]
    with pytest.raises(HTTPError) as refused:
        client.push_to_gateway(address(gateway), "job", fill(client))
    refused.value.close()
    assert issubclass(HTTPError, OSError)
    with socket.create_server(("127.0.0.1", 0)) as other:
        dead = f"127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(OSError, match="refused"):
        client.push_to_gateway(dead, "job", fill(client))


def test_a_password_is_sent(gateway):
    """The header is that of the other package; without a password there is none."""

    def handler(package, **login):
        return lambda **request: package.basic_auth_handler(**request, **login)

    login = {"username": "me", "password": "secret ü"}
    for module, package in (
        (client, exposition),
        (prometheus_client, prometheus_client.exposition),
    ):
        send = handler(package, **login)
        module.push_to_gateway(address(gateway), "job", fill(module), handler=send)
    ours, theirs = (request[2] for request in gateway.requests)
    assert ours == theirs
    client.push_to_gateway(address(gateway), "job", fill(client), handler=handler(exposition))
    assert "Authorization" not in gateway.requests[-1][2]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_trusted_redirect_gets_the_same_request(gateway, status):
    """Method and body go along, which the default handler refuses to do."""
    gateway.answers = [status]
    handler = exposition.passthrough_redirect_handler
    client.push_to_gateway(address(gateway), "job", fill(client), handler=handler)
    first, second = gateway.requests
    assert (second[0], second[1], second[2:]) == ("PUT", "/moved%20to", first[2:])
    gateway.answers = [status]
    with pytest.raises(HTTPError) as refused:
        client.push_to_gateway(address(gateway), "job", fill(client))
    refused.value.close()


def test_a_push_can_show_a_certificate(certificates):
    """To a gateway that asks for one, and whose own is checked unless that is forbidden."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    files = {"certfile": certificates / "client.pem", "keyfile": certificates / "client.key"}

    def push(server, host, **options):
        def handler(**request):
            return exposition.tls_auth_handler(**request, **files, **options)

        url = f"https://{host}:{server.server_port}"
        client.push_to_gateway(url, "job", fill(client), handler=handler)

    with listening(context) as server:
        push(server, "localhost", cafile=certificates / "ca.pem")
        push(server, "127.0.0.1", insecure_skip_verify=True)
        assert [request[0] for request in server.requests] == ["PUT", "PUT"]
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            push(server, "localhost")


def test_the_own_address_is_that_of_prometheus_client():
    """The grouping key of this host is the same."""
    theirs = prometheus_client.instance_ip_grouping_key()
    assert client.instance_ip_grouping_key() == theirs


def test_a_textfile_is_whole_or_as_it_was(tmp_path, monkeypatch):
    """The page appears at once; a failure leaves the old file, and nothing beside it."""
    path = tmp_path / "jobs.prom"
    client.write_to_textfile(path, fill(client))
    page = client.generate_latest(fill(client))
    assert undated(path.read_text()) == undated(page.decode())
    client.write_to_textfile(str(path), client.CollectorRegistry(), tmpdir=str(tmp_path))
    assert path.read_bytes() == b""

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no"):
        client.write_to_textfile(path, fill(client))
    assert os.listdir(tmp_path) == ["jobs.prom"]
    assert path.read_bytes() == b""


@pytest.fixture
def pushgateway(tmp_path):
    """The address of a real Pushgateway."""
    binary = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("pushgateway is not installed")
        pytest.skip("pushgateway is not installed (Debian's package prometheus-pushgateway)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    with (tmp_path / "log").open("w") as log:
        # Debian's keeps what was pushed, for the next one that is started, unless it has no file.
        options = [f"--web.listen-address={place}", f"--persistence.file={tmp_path / 'pushed'}"]
        process = subprocess.Popen([binary, *options], stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                page(place)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, "the Pushgateway does not answer"
                time.sleep(0.05)
        yield place
    finally:
        process.terminate()
        process.wait(20)


def page(place):
    with urllib.request.urlopen(f"http://{place}/metrics", timeout=20) as response:
        return response.read().decode()


def test_a_real_pushgateway_takes_our_pages(pushgateway):
    """It shows what is pushed, adds what is added, and forgets what is deleted."""
    key = {"path": "/var/log", "note": "a b", "empty": ""}
    labels = 'empty="",instance="",job="night",note="a b",path="/var/log"'
    client.push_to_gateway(pushgateway, "night", fill(client), key, compression="gzip")
    assert f"size_sum{{{labels}}} 2\n" in page(pushgateway)
    extra = client.CollectorRegistry()
    client.Gauge("extra", "", registry=extra).set(1)
    client.pushadd_to_gateway(pushgateway, "night", extra, key)
    assert f"extra{{{labels}}} 1\n" in page(pushgateway)
    assert "size_sum" in page(pushgateway)
    client.push_to_gateway(pushgateway, "night", extra, key)
    assert "size_sum" not in page(pushgateway)
    client.delete_from_gateway(pushgateway, "night", key)
    assert "extra" not in page(pushgateway)
