"""The commands `ryot-metrics fleet` and `ryot-metrics mock-worker`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ryot_metrics.fleet._logged import logger
from ryot_metrics.fleet.aggregator import Fleet
from ryot_metrics.fleet.names import COMPONENT, ENDPOINT, NAMESPACE, NATS
from ryot_metrics.fleet.server import NatsServer
from ryot_metrics.fleet.worker import mock_workers

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

LISTS = (
    ("--target", "HOST:PORT", "read this worker's page over HTTP; may be repeated, as all below"),
    (
        "--file-sd",
        "FILE",
        "read the workers that this file names, as Prometheus' file_sd; JSON or YAML",
    ),
    ("--http-sd", "URL", "read the workers that this URL names, as Prometheus' http_sd"),
    (
        "--dns",
        "NAME[:PORT]",
        "read the workers at every address of this name, or, without a port,"
        " at those of its SRV records",
    ),
    ("--family", "NAME", "add only such families up; * is any text (default: all)"),
    ("--gauge", "NAME=MODE", "combine such gauges by sum (the default), min, max, mean or each"),
)
"""Options that may be repeated."""
ACCESS = {
    "--nats-user": (
        "NATS_AUTH_USERNAME",
        "NAME",
        "the user, whose password is $NATS_AUTH_PASSWORD",
    ),
    "--nats-credentials": ("NATS_AUTH_CREDENTIALS_FILE", "FILE", "a user's JWT and key"),
    "--nats-ca": ("NATS_CA", "FILE", "authorities of the server's certificate, as PEM"),
    "--nats-certificate": ("NATS_CERT", "FILE", "the client's own certificate, as PEM"),
    "--nats-key": ("NATS_KEY", "FILE", "its key, as PEM"),
}
"""Options by which a NATS server lets one in: their variables, and what they are. What is secret is
no option, since options can be seen: $NATS_AUTH_PASSWORD, and $NATS_AUTH_TOKEN."""
LEVELS = {"debug": "DEBUG", "info": "INFO", "warn": "WARNING"}


def add_fleet(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both commands to the parser."""
    fleet = commands.add_parser("fleet", help="put a fleet of workers on one page for Prometheus")
    _add_common(fleet)
    fleet.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    fleet.add_argument("--port", type=int, default=9091, help="(default: %(default)s)")
    _add_seconds(fleet, "--poll-interval", 1.0, "between two polls")
    for name, metavar, text in LISTS:
        fleet.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    fleet.add_argument(
        "--dns-server", metavar="ADDRESS[:PORT]", help="ask this server (default: the system's)"
    )
    _add_seconds(fleet, "--timeout", 1.0, "that an answer over HTTP may take")
    fleet.add_argument(
        "--push", action="store_true", help="push to a Pushgateway at HOST:PORT, serve nothing"
    )
    _add_seconds(fleet, "--push-interval", 2.0, "between two pushes")
    fleet.add_argument(
        "--serve-sd",
        action="store_true",
        help="tell Prometheus of the workers that are read over HTTP, at /sd",
    )
    fleet.set_defaults(run=_fleet)
    mock = commands.add_parser("mock-worker", help="workers of random load, to try `fleet` with")
    _add_common(mock)
    mock.add_argument("--workers", type=int, default=1, metavar="N", help="(default: %(default)s)")
    mock.add_argument("--seed", type=int, help="makes numbers, loads and events repeatable")
    _add_seconds(mock, "--event-interval", 1.0, "between two events")
    mock.set_defaults(run=_mock)


def _add_common(parser: argparse.ArgumentParser) -> None:
    namespace = os.environ.get("DYN_NAMESPACE", NAMESPACE)
    parser.add_argument("--namespace", default=namespace, help="(default: %(default)s)")
    parser.add_argument("--component", default=COMPONENT, help="(default: %(default)s)")
    parser.add_argument("--endpoint", default=ENDPOINT, help="(default: %(default)s)")
    parser.add_argument(
        "--service", help="the workers' service on NATS (default: made of namespace and component)"
    )
    server = os.environ.get("NATS_SERVER", NATS)
    parser.add_argument("--nats", metavar="URL", help=f"the NATS server (default: {server})")
    for name, (keyword, metavar, text) in ACCESS.items():
        help_text = f"{text} (default: ${keyword})"
        parser.add_argument(name, metavar=metavar, default=os.environ.get(keyword), help=help_text)
    parser.add_argument("--nats-tls", action="store_true", help="insist on TLS")
    level = os.environ.get("DYN_LOG", "info").lower()
    parser.add_argument(
        "--log-level",
        choices=LEVELS,
        default=level if level in LEVELS else "info",
        help="(default: %(default)s)",
    )


def _add_seconds(parser: argparse.ArgumentParser, name: str, value: float, what: str) -> None:
    text = f"seconds {what} (default: %(default)s)"
    parser.add_argument(name, type=float, default=value, metavar="S", help=text)


def _nats(arguments: argparse.Namespace) -> NatsServer:
    return NatsServer(
        arguments.nats or os.environ.get("NATS_SERVER", NATS),
        user=arguments.nats_user,
        password=os.environ.get("NATS_AUTH_PASSWORD"),
        token=os.environ.get("NATS_AUTH_TOKEN"),
        credentials=arguments.nats_credentials,
        tls=arguments.nats_tls,
        ca=arguments.nats_ca,
        certificate=arguments.nats_certificate,
        key=arguments.nats_key,
    )


def _fleet(arguments: argparse.Namespace) -> None:
    over_http = arguments.target or arguments.file_sd or arguments.http_sd or arguments.dns
    host, port = arguments.host, arguments.port
    gateway = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with (
        _logging("metrics", arguments.log_level),
        _until_signal() as stop,
        Fleet(
            arguments.namespace,
            arguments.component,
            arguments.endpoint,
            service=arguments.service,
            nats=_nats(arguments) if arguments.nats or not over_http else None,
            host=host,
            port=port,
            serve_sd=arguments.serve_sd,
            push=gateway if arguments.push else None,
            push_interval=arguments.push_interval,
            targets=arguments.target,
            file_sd=arguments.file_sd,
            http_sd=arguments.http_sd,
            dns=arguments.dns,
            dns_server=arguments.dns_server,
            timeout=arguments.timeout,
            families=arguments.family or None,
            gauges=dict(_pair(rule) for rule in arguments.gauge),
            poll_interval=arguments.poll_interval,
        ) as fleet,
    ):
        if fleet.url is None:
            logger.info("Pushing metrics to %s", gateway)
        else:
            logger.info("Prometheus metrics at %s", fleet.url)
        stop.wait()


def _mock(arguments: argparse.Namespace) -> None:
    with (
        _logging("mock_worker", arguments.log_level),
        _until_signal() as stop,
        mock_workers(
            arguments.workers,
            seed=arguments.seed,
            nats=_nats(arguments),
            namespace=arguments.namespace,
            component=arguments.component,
            endpoint=arguments.endpoint,
            service=arguments.service,
            event_interval=arguments.event_interval,
        ),
    ):
        stop.wait()


def _pair(rule: str) -> tuple[str, str]:
    name, _, mode = rule.rpartition("=")
    return name, mode


class _Lines(logging.Formatter):
    """A line as `2025-02-26T18:45:05.467026Z  INFO metrics: …`."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        level = "WARN" if record.levelname == "WARNING" else record.levelname
        text = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return f"{text} {level:>5} {self._target}: {record.getMessage()}"


@contextmanager
def _logging(target: str, level: str) -> Iterator[None]:
    """Writes what a fleet says to the standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(target))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(LEVELS[level])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def _until_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
