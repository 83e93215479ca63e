"""The command `ryot-metrics exporter`: the page of a service's worker processes, from one beside.

The page is the native server's, of the mapping that the workers share; metrics of services that
still write `prometheus_client`'s files join it.
"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ryot_metrics.client import REGISTRY
from ryot_metrics.client.multiprocess import MultiProcessCollector
from ryot_metrics.config import configure
from ryot_metrics.scrape import DEFAULT_PORT, serve_metrics

if TYPE_CHECKING:
    import argparse


def add_exporter(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    exporter = commands.add_parser("exporter", help="serve the page of worker processes")
    exporter.add_argument(
        "shared", metavar="NAME", nargs="?", help="what the workers have as RYOT_METRICS_SHARED"
    )
    exporter.add_argument(
        "--db",
        metavar="DIR",
        action="append",
        default=[],
        type=Path,
        help="a PROMETHEUS_MULTIPROC_DIR, whose files join the page; may be repeated",
    )
    exporter.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    exporter.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0 takes a free one (default: %(default)s)"
    )
    exporter.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.shared is None and not arguments.db:
        raise ValueError("exporter has nothing to show: give a NAME, or a directory with --db")
    # What reads a page here is no part of the service: its own GPU readings would be.
    configure(gpu=False)
    if arguments.shared is not None:
        configure(shared=arguments.shared)
    for directory in arguments.db:
        MultiProcessCollector(REGISTRY, directory)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serve_metrics(arguments.port, arguments.host) as server:
        print(server.url, flush=True)
        stop.wait()
