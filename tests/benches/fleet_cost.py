"""What an aggregator costs with a thousand workers, and how soon its page comes.

The workers are mock workers on a real NATS server, each asked once a second; then pages over HTTP,
each read once a second and added up. The aggregator has a process of its own: its CPU time is that
of the process, threads of the page and of the log included. The page is scraped all the while, and
the time of a scrape is that of the whole answer, over a kept connection.

Run: python tests/benches/fleet_cost.py [--workers 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from nats_server import nats_server, until
from ryot_metrics import client
from ryot_metrics.fleet import mock_workers
from ryot_metrics.scrape import serve_metrics
from test_prometheus import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CPU_LIMIT = 1.0
"""Cores that the aggregator may take."""
SCRAPE_LIMIT_MS = 50.0
"""The 99th percentile of a scrape."""
SCRAPE_PAUSE_SECONDS = 0.05
SERIES = 20
"""Series of a worker's page over HTTP, beside a histogram."""


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def aggregator(*options: str) -> Iterator[tuple[int, int]]:
    """Runs the command; gives its process and the port of its page."""
    port = free_port()
    command = [sys.executable, "-m", "ryot_metrics", "fleet", "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(timeout=20)


def scrape(connection: http.client.HTTPConnection) -> bytes:
    """The page."""
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def measure(name: str, options: list[str], workers: int, seconds: float, sign: bytes) -> bool:
    """Prints what an aggregator of so many workers costs; whether it is within the limits."""
    with aggregator(*options) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

        def complete() -> bool:
            try:
                return sign in scrape(connection)
            except OSError:
                connection.close()
                return False

        until(complete, f"a page of {workers} workers")
        before, began = cpu_seconds(process), time.monotonic()
        times, page = [], b""
        while time.monotonic() < began + seconds:
            start = time.perf_counter()
            page = scrape(connection)
            times.append((time.perf_counter() - start) * 1e3)
            time.sleep(SCRAPE_PAUSE_SECONDS)
        cores = (cpu_seconds(process) - before) / (time.monotonic() - began)
        assert sign in page, "workers were lost"
    times.sort()
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(
        f"{name}: {workers} workers, {cores:.3f} cores; a scrape of {len(page) / 1e3:.0f} kB "
        f"takes {p50:.1f} ms (p99 {p99:.1f} ms, of {len(times)})"
    )
    return cores < CPU_LIMIT and p99 <= SCRAPE_LIMIT_MS


def on_nats(workers: int, seconds: float) -> bool:
    """Workers on NATS; the page is complete when the number of them stands on it."""
    sign = f'ryot_fleet_workers{{source="nats",state="up"}} {workers}.0'.encode()
    with nats_server() as url, mock_workers(workers, seed=1, nats=url):
        return measure("NATS", ["--nats", url], workers, seconds, sign)


def over_http(workers: int, seconds: float) -> bool:
    """Workers' pages: one server has all of them, at paths of their own."""
    registry = client.CollectorRegistry()
    jobs = client.Counter("jobs", "J.", ["queue"], registry=registry)
    for number in range(SERIES):
        jobs.labels(str(number)).inc()
    client.Histogram("wait", "W.", registry=registry).observe(0.1)
    sign = f'ryot_fleet_workers{{source="http",state="up"}} {workers}.0'.encode()
    with (
        TemporaryDirectory() as folder,
        serve_metrics(0, registry=registry, max_connections=2 * workers) as server,
    ):
        file = Path(folder) / "workers.json"
        groups = (
            f'{{"targets": ["{server.address}"], "labels": {{"__metrics_path__": "/{number}"}}}}'
            for number in range(workers)
        )
        file.write_text(f"[{', '.join(groups)}]")
        return measure("HTTP", ["--file-sd", str(file)], workers, seconds, sign)


def main() -> int:
    """Measures both sources.

    Returns:
        0 if both are within the limits.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    within = [run(arguments.workers, arguments.seconds) for run in (on_nats, over_http)]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
