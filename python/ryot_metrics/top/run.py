"""The command `ryot-metrics top`: the page over HTTP, and the loop around reader and view."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ryot_metrics._extra import serve_extra
from ryot_metrics.top.reader import Reader
from ryot_metrics.top.view import WIDTH, render

with serve_extra("the terminal view"):
    import httpx
    from rich.console import Console
    from rich.live import Live

if TYPE_CHECKING:
    from collections.abc import Callable

    from ryot_metrics.top.reader import Reading

MIN_INTERVAL_SECONDS = 0.1
TIMEOUT_SECONDS = 5.0
"""How long one page may take."""


def page_url(url: str) -> str:
    """The address of the page, from what somebody types.

    Raises:
        ValueError: It is no HTTP address.

    Example:
        >>> page_url("localhost:8000")
        'http://localhost:8000/metrics'
        >>> page_url("https://a.example/custom?profile=vllm")
        'https://a.example/custom?profile=vllm'
    """
    full = url if "://" in url else f"http://{url}"
    parts = urlsplit(full)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"URL is {url!r}; it must be http://HOST:PORT or https://HOST:PORT")
    return parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else full


def run(
    url: str,
    *,
    interval: float = 2.0,
    once: bool = False,
    as_json: bool = False,
    console: Console | None = None,
    wait: Callable[[float], object] | None = None,
) -> None:
    """Shows a service's figures until Ctrl-C.

    Args:
        url: Where the service is; without a path, `/metrics` is read.
        interval: Seconds from one page to the next; rates and quantiles are over this time.
        once: Show the figures of one interval and return.
        as_json: Print a JSON object per look, on a line of its own.
        console: Where to; the standard output by default.
        wait: Waits for the next look; by default, it takes its time.

    Raises:
        ValueError: For a bad URL or interval; with `once`, if the page has no figures.
        ConnectionError: With `once`, if the service does not answer.
    """
    if not MIN_INTERVAL_SECONDS <= interval < threading.TIMEOUT_MAX:
        raise ValueError(f"--interval is {interval:g}; at least {MIN_INTERVAL_SECONDS} s")
    url = page_url(url)
    console = console or Console(highlight=False)
    wait = wait or threading.Event().wait
    if not (once or as_json or console.is_terminal):
        raise ValueError("the output is no terminal; use --once or --json")
    headers = {"accept": "text/plain; version=0.0.4"}
    with httpx.Client(
        timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=True, headers=headers
    ) as client:
        reader = Reader(lambda: _fetch(client, url), time.monotonic, datetime.now)
        if once:
            _show_once(reader, url, interval, as_json, console, wait)
            return
        with suppress(KeyboardInterrupt):
            if as_json:
                _print_lines(reader, interval, console, wait)
            else:
                _draw(reader, url, interval, console, wait)


def _fetch(client: httpx.Client, url: str) -> str:
    try:
        return client.get(url).raise_for_status().text
    except httpx.HTTPStatusError as error:
        status = error.response
        raise ConnectionError(f"{status.status_code} {status.reason_phrase}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


def _show_once(
    reader: Reader,
    url: str,
    interval: float,
    as_json: bool,
    console: Console,
    wait: Callable[[float], object],
) -> None:
    reading = reader.read()
    if reading.problem is None:
        wait(interval)
        reading = reader.read()
    if reading.problem is not None:
        kind = ConnectionError if reading.problem.startswith("unreachable") else ValueError
        raise kind(f"{url}: {reading.problem}")
    if as_json:
        _print(reading, console)
    else:
        console.print(render(url, [reading]))


def _print_lines(
    reader: Reader, interval: float, console: Console, wait: Callable[[float], object]
) -> None:
    while True:
        reading = reader.read()
        if reading.figures or reading.problem:
            _print(reading, console)
        wait(interval)


def _print(reading: Reading, console: Console) -> None:
    console.file.write(json.dumps(reading.as_dict()) + "\n")
    console.file.flush()


def _draw(
    reader: Reader,
    url: str,
    interval: float,
    console: Console,
    wait: Callable[[float], object],
) -> None:
    readings: deque[Reading] = deque(maxlen=WIDTH)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            readings.append(reader.read())
            live.update(render(url, readings), refresh=True)
            wait(interval)
