"""The service's beginning and end, as a process with real clients: loading, draining, signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ryot_metrics.uds import Client as UdsClient
from ryot_metrics.uds import UdsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "ryot_metrics", "serve", "-m", "toy", "--port", "0"]
LONG = {"prompt": "p", "max_tokens": 1500, "ignore_eos": True, "stream": True}
ENDLESS = {**LONG, "max_tokens": 4000}
LATE_SECONDS = 60

SLOW_START = """
import sys
from ryot_metrics import Engine
from ryot_metrics.serve import create_app
from ryot_metrics.serve.run import Service, address, bind, serve

listening = bind("127.0.0.1", 0)
print(address(listening), flush=True)

def load():
    sys.stdin.readline()
    engine = Engine("toy")
    return Service(create_app(engine), engine.shutdown)

serve(load, listening)
"""


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, if it has not ended."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def start() -> Iterator[Any]:
    """A function that starts the service and gives it and a client of it."""
    with ExitStack() as stack:

        def start(*options: str) -> tuple[subprocess.Popen[str], httpx.Client]:
            running = stack.enter_context(process(*COMMAND, *options))
            assert running.stdout is not None
            url = running.stdout.readline().split(" at ")[1].split("/v1,")[0]
            client = httpx.Client(base_url=url, timeout=LATE_SECONDS, trust_env=False)
            return running, stack.enter_context(client)

        yield start


def draining(client: httpx.Client) -> httpx.Response:
    """The first answer of /health that says that the service drains."""
    while (response := client.get("/health")).status_code == 200:
        pass
    return response


def test_a_signal_lets_running_answers_end(start: Any) -> None:
    """SIGTERM: the stream goes on to its end, new requests are refused, the status is 0."""
    running, client = start()
    with client.stream("POST", "/v1/completions", json=LONG) as stream:
        lines = stream.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        health = draining(client)
        refused = client.post("/v1/completions", json={"prompt": "p"})
        page = client.get("/metrics")
        events = [line for line in lines if line]
    assert (health.status_code, health.json()["error"]["code"]) == (503, "draining")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) >= 1
    assert page.status_code == 200
    assert events[-1] == "data: [DONE]"
    assert len(events) == 1500 - 1 + 2
    assert running.wait(LATE_SECONDS) == 0


def test_a_signal_closes_the_unix_socket_too(start: Any, tmp_path: Path) -> None:
    """SIGTERM: an answer there ends whole, and a new request is refused with its code."""
    path = tmp_path / "engine.sock"
    running, client = start("--uds", str(path))
    assert running.stdout is not None
    assert any(str(path) in line for line in running.stdout)
    with UdsClient(path) as first, UdsClient(path) as second:
        events = first.generate("p", max_tokens=1500)
        next(events)
        running.send_signal(signal.SIGTERM)
        draining(client)
        with pytest.raises(UdsError, match="shutting down") as refused:
            list(second.generate("p", max_tokens=2))
        assert refused.value.code == "E_RUNTIME_CLOSED"
        assert len(list(events)) == 1500
    assert running.wait(LATE_SECONDS) == 0


def test_what_lasts_too_long_is_cancelled(start: Any) -> None:
    """Past the deadline a stream ends with an error event, and the status still is 0."""
    running, client = start("--drain-seconds", "0.1")
    with client.stream("POST", "/v1/completions", json=ENDLESS) as stream:
        lines = stream.iter_lines()
        next(lines)
        running.send_signal(signal.SIGTERM)
        *_, last = (line for line in lines if line)
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "engine_closed"
    assert running.wait(LATE_SECONDS) == 0


def test_a_second_signal_ends_at_once(start: Any) -> None:
    """Whoever does not want to wait is not kept, although an answer is running."""
    running, client = start()
    with client.stream("POST", "/v1/completions", json=ENDLESS) as stream:
        next(stream.iter_lines())
        running.send_signal(signal.SIGTERM)
        draining(client)
        running.send_signal(signal.SIGTERM)
        assert running.wait(LATE_SECONDS) == 128 + signal.SIGTERM


def test_clients_are_told_to_wait_for_the_model() -> None:
    """While the model is loaded everything is 503 with the reason; then it is ready."""
    with process(sys.executable, "-c", SLOW_START) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        with httpx.Client(base_url=url, timeout=LATE_SECONDS, trust_env=False) as client:
            for path in ("/health", "/v1/models", "/metrics"):
                early = client.get(path)
                assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
                assert int(early.headers["retry-after"]) >= 1
            running.stdin.write("\n")
            running.stdin.flush()
            while client.get("/health").status_code == 503:
                pass
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/v1/models").status_code == 200


def test_a_signal_while_loading_ends_at_once() -> None:
    """There is nothing to finish before the model is there."""
    with process(sys.executable, "-c", SLOW_START) as running:
        assert running.stdout is not None
        url = running.stdout.readline().strip()
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 503
        running.send_signal(signal.SIGTERM)
        assert running.wait(LATE_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("seconds", ["-1", "inf", "nan", "86401"])
def test_a_service_does_not_start_with_no_time_to_drain(seconds: str) -> None:
    """What is no time is refused before a model is loaded, and not when the service must end."""
    with process(*COMMAND, "--drain-seconds", seconds) as running:
        _, error = running.communicate(timeout=LATE_SECONDS)
    assert running.returncode != 0
    assert f"drain_seconds is {float(seconds)}; it must be from 0 to 86,400" in error
    assert "Traceback" not in error
