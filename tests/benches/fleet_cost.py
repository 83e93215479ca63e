"""What an aggregator costs with a thousand workers, and how soon its page comes.

The workers are mock workers on a real NATS server, each asked once a second; then workers over
HTTP, each with a port of its own in one of several processes, read once a second over a connection
of its own and added up. The aggregator has a process of its own: its CPU time is that
of the process, threads of the page and of the log included. The page is scraped all the while, and
the time of a scrape is that of the whole answer, over a kept connection.

Run: python tests/benches/fleet_cost.py [--workers 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
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
"""Series of a worker's page over HTTP, beside a histogram and the families of an engine's load."""
WORKERS_A_PROCESS = 100


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


def serve_workers(count: int) -> None:
    """Serves so many workers' pages, each at a port of its own, until the input ends."""
    registry = client.CollectorRegistry()
    jobs = client.Counter("jobs", "J.", ["queue"], registry=registry)
    for number in range(SERIES):
        jobs.labels(str(number)).inc()
    client.Histogram("wait", "W.", registry=registry).observe(0.1)
    for name, value in (
        ("ryot_engine_active_sessions", 3),
        ("ryot_engine_slots", 8),
        ("ryot_kv_cache_usage_ratio", 0.5),
    ):
        client.Gauge(name, "E.", ["model"], registry=registry).labels("m").set(value)
    cache = client.Gauge(
        "ryot_kv_cache_info", "E.", ["model", "block_size", "blocks"], registry=registry
    )
    cache.labels("m", "1", "4096").set(1)
    servers = [serve_metrics(0, registry=registry) for _ in range(count)]
    print(json.dumps([server.address for server in servers]), flush=True)
    sys.stdin.read()


@contextmanager
def processes(workers: int) -> Iterator[list[str]]:
    """The addresses of so many workers, in processes of their own."""
    with ExitStack() as stack:
        running = []
        for first in range(0, workers, WORKERS_A_PROCESS):
            count = str(min(WORKERS_A_PROCESS, workers - first))
            command = [sys.executable, __file__, "--serve", count]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.communicate, timeout=20)
            running.append(process)
        yield [address for process in running for address in json.loads(process.stdout.readline())]


def over_http(workers: int, seconds: float) -> bool:
    """Workers' pages, which a file names; the page is complete when all are read and their load."""
    sign = f'ryot_fleet_workers{{source="http",state="up"}} {workers}.0'.encode()
    with TemporaryDirectory() as folder, processes(workers) as addresses:
        file = Path(folder) / "workers.json"
        file.write_text(json.dumps([{"targets": addresses}]))
        return measure("HTTP", ["--file-sd", str(file)], workers, seconds, sign)


def main() -> int:
    """Measures both sources.

    Returns:
        0 if both are within the limits.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--serve", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_workers(arguments.serve)
        return 0
    within = [run(arguments.workers, arguments.seconds) for run in (on_nats, over_http)]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
