"""Pushes pages to a Pushgateway, for jobs that end before anybody scrapes them.

Knows a gateway's addresses and methods; how a request is sent is for a handler to say.
"""

from __future__ import annotations

import base64
import gzip
import socket
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal
from urllib.parse import quote_plus, urlsplit

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry
from ryot_metrics.client.encoding import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from ryot_metrics.client.push_handlers import Handler, Headers, default_handler

CompressionType = Literal["gzip", "snappy"] | None


def push_to_gateway(
    gateway: str,
    job: str,
    registry: CollectorRegistry,
    grouping_key: Mapping[str, Any] | None = None,
    timeout: float | None = 30,
    handler: Handler = default_handler,
    compression: CompressionType = None,
) -> None:
    """Replaces all metrics of a group at a gateway with those of a registry.

    Args:
        gateway: The gateway's URL; without a scheme, it is HTTP.
        job: The group's label `job`.
        registry: What to push.
        grouping_key: The group's other labels.
        timeout: How many seconds it may take; None for any number.
        handler: What sends the request.
        compression: `gzip`, or `snappy` where python-snappy is installed.

    Raises:
        OSError: If the gateway cannot be reached, or refuses.
        ValueError: If there is no such compression.
        RuntimeError: If python-snappy is needed and is not installed.

    Example:
        >>> from ryot_metrics.client import CollectorRegistry
        >>> def show(url, method, timeout, headers, data):
        ...     return lambda: print(method, url)
        >>> key = {"path": "/a b"}
        >>> push_to_gateway("host:9091", "night", CollectorRegistry(), key, handler=show)
        PUT http://host:9091/metrics/job/night/path@base64/L2EgYg==
    """
    data, headers = _payload(registry, compression)
    _send("PUT", gateway, job, grouping_key, timeout, handler, headers, data)


def pushadd_to_gateway(
    gateway: str,
    job: str,
    registry: CollectorRegistry | None,
    grouping_key: Mapping[str, Any] | None = None,
    timeout: float | None = 30,
    handler: Handler = default_handler,
    compression: CompressionType = None,
) -> None:
    """Replaces the metrics of a group that a registry has, and leaves the others.

    Args:
        gateway: The gateway's URL; without a scheme, it is HTTP.
        job: The group's label `job`.
        registry: What to push; None for the default registry.
        grouping_key: The group's other labels.
        timeout: How many seconds it may take; None for any number.
        handler: What sends the request.
        compression: `gzip`, or `snappy` where python-snappy is installed.

    Raises:
        OSError: If the gateway cannot be reached, or refuses.
        ValueError: If there is no such compression.
        RuntimeError: If python-snappy is needed and is not installed.
    """
    data, headers = _payload(REGISTRY if registry is None else registry, compression)
    _send("POST", gateway, job, grouping_key, timeout, handler, headers, data)


def delete_from_gateway(
    gateway: str,
    job: str,
    grouping_key: Mapping[str, Any] | None = None,
    timeout: float | None = 30,
    handler: Handler = default_handler,
) -> None:
    """Deletes the metrics of a group.

    Args:
        gateway: The gateway's URL; without a scheme, it is HTTP.
        job: The group's label `job`.
        grouping_key: The group's other labels.
        timeout: How many seconds it may take; None for any number.
        handler: What sends the request.

    Raises:
        OSError: If the gateway cannot be reached, or refuses.
    """
    headers = [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)]
    _send("DELETE", gateway, job, grouping_key, timeout, handler, headers, b"")


def _send(
    method: str,
    gateway: str,
    job: str,
    grouping_key: Mapping[str, Any] | None,
    timeout: float | None,
    handler: Handler,
    headers: Headers,
    data: bytes,
) -> None:
    if urlsplit(gateway).scheme not in ("http", "https"):
        gateway = f"http://{gateway}"
    labels = [("job", job), *sorted((grouping_key or {}).items())]
    group = "".join(_segment(str(name), str(value)) for name, value in labels)
    send = handler(
        url=f"{gateway.rstrip('/')}/metrics{group}",
        method=method,
        timeout=timeout,
        headers=list(headers),
        data=data,
    )
    send()


def _segment(name: str, value: str) -> str:
    """A label as two parts of a path; what a path cannot hold, and nothing at all, is base64."""
    if not value:
        return f"/{name}@base64/="
    if "/" in value or " " in value:
        return f"/{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode()}"
    return f"/{name}/{quote_plus(value)}"


def _payload(
    registry: CollectorRegistry, compression: CompressionType
) -> tuple[bytes, list[tuple[str, str]]]:
    page = generate_latest(registry)
    headers = [("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)]
    if compression is None:
        return page, headers
    encoding = compression.lower()
    if encoding not in ("gzip", "snappy"):
        raise ValueError(f"Unsupported compression type: {compression}")
    packed = gzip.compress(page) if encoding == "gzip" else _snappy(page)
    return packed, [*headers, ("Content-Encoding", encoding)]


def _snappy(data: bytes) -> bytes:
    try:
        snappy = import_module("snappy")
    except ImportError as error:
        raise RuntimeError("compression by snappy needs the package python-snappy") from error
    packed: bytes = snappy.StreamCompressor().compress(data)
    return packed


def instance_ip_grouping_key() -> dict[str, str]:
    """A grouping key with this host's own address as `instance`.

    Returns:
        The key, for `grouping_key`.

    Example:
        >>> list(instance_ip_grouping_key())
        ['instance']
    """
    target = ("10.255.255.255", 1) if sys.platform == "darwin" else ("localhost", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing; it chooses the address to send from
        return {"instance": probe.getsockname()[0]}
