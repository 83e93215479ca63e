"""The middlewares behind real servers, with real clients that hang up."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

SERVERS = {
    "uvicorn": ["uvicorn", "service:app", "--fd", "{fd}"],
    "uvicorn-h11": ["uvicorn", "service:app", "--fd", "{fd}", "--http", "h11"],
    "gunicorn-uvicorn": [
        "gunicorn", "service:app", "-k", "uvicorn_worker.UvicornWorker", "-b", "fd://{fd}",
    ],
    "gunicorn-sync": ["gunicorn", "service:wsgi", "-b", "fd://{fd}"],
    "gunicorn-threads": ["gunicorn", "service:wsgi", "--threads", "4", "-b", "fd://{fd}"],
}  # fmt: skip
DEADLINE_SECONDS = 60


@pytest.fixture(params=SERVERS)
def server(request):
    """The name of a running server, and its port; it is told to stop afterwards, and must."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        fd = listening.fileno()
        command = [part.format(fd=fd) for part in SERVERS[request.param]]
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=Path(__file__).parent,
            pass_fds=[fd],
            stderr=subprocess.PIPE,
            text=True,
        )
        port = listening.getsockname()[1]
    try:
        yield request.param, port
    finally:
        process.terminate()
        _, log = process.communicate(timeout=DEADLINE_SECONDS)
    assert "Traceback" not in log, log


def begin(port, path, until=b""):
    """Asks for a path and reads until these bytes have come; gives the open connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    read = b""
    while until not in read:
        piece = connection.recv(4096)
        assert piece, read
        read += piece
    return connection


def key(name, *values):
    """A sample is told from others by its name and the values of its labels."""
    return f"ryot_{name}", frozenset(values)


def samples(port):
    """What the page says, as the official parser reads it."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_SECONDS)
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }


def wait_for(port, sample, value):
    """Waits until a sample has this value; gives the page."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (page := samples(port)).get(sample) != value:
        assert time.monotonic() < deadline, (sample, value, page)
        time.sleep(0.01)
    return page


def test_clients_that_hang_up(server):
    """A read stream is a success; one that is left is cancelled with its tokens; none is active."""
    name, port = server
    template = "/v1/{name}" if "uvicorn" in name else "/v1/<name>"
    success, cancelled = (
        key("inference_requests_total", "m", template, status)
        for status in ("success", "cancelled")
    )
    active = key("active_inference_requests", "m", template, "streaming")
    tokens = key("tokens_generated_total", "m", "completion", "streaming")
    ttft = key("ttft_latency_seconds_count", "m")

    whole = httpx.get(f"http://127.0.0.1:{port}/v1/three", timeout=DEADLINE_SECONDS)
    assert whole.text == "data: piece\n\n" * 3
    page = wait_for(port, success, 1)
    assert (page[tokens], page[ttft]) == (3, 1)

    for left in (1, 2):
        connection = begin(port, "/v1/stream", until=b"piece")
        if name != "gunicorn-sync":  # whose one worker is busy
            assert samples(port)[active] == 1
        connection.close()
        page = wait_for(port, cancelled, left)
        assert (page[active], page[ttft]) == (0, 1 + left)
    assert page[tokens] >= 5
    assert page[success] == 1
    assert not any(
        value for (name, _), value in page.items() if name.startswith("ryot_inference_e")
    )


@pytest.mark.parametrize("server", [name for name in SERVERS if "uvicorn" in name], indirect=True)
def test_a_client_that_hangs_up_before_the_first_token(server):
    """A stream that is left before its first piece is cancelled, and has no TTFT.

    A WSGI server sees a hang-up only when it writes.
    """
    _, port = server
    begin(port, "/v1/silent", until=b"200 OK").close()
    page = wait_for(port, key("inference_requests_total", "m", "/v1/{name}", "cancelled"), 1)
    assert page[key("active_inference_requests", "m", "/v1/{name}", "streaming")] == 0
    assert key("ttft_latency_seconds_count", "m") not in page
