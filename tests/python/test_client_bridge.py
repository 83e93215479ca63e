"""Graphite, and the two ways between this package and `prometheus_client`."""

import logging
import socket
import threading

import prometheus_client
import prometheus_client.core
import pytest
from prometheus_client.bridge.graphite import GraphiteBridge as TheirBridge

from ryot_metrics import client
from ryot_metrics.client import core
from ryot_metrics.client.bridge.graphite import GraphiteBridge
from ryot_metrics.client.interop import (
    PrometheusClientCollector,
    from_prometheus_client,
    register_in_prometheus_client,
)
from test_client import fill, undated
from test_client_families import FAMILIES

FIELDS = ("name", "documentation", "type", "unit")


@pytest.fixture
def graphite():
    """A listening socket, and a function that takes what one connection brings."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def receive():
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as stream:
                return stream.read().decode("ascii")

        yield listening.getsockname(), receive


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("prefix", ["", "pre.fix"])
def test_graphite_gets_what_prometheus_client_sends(graphite, tags, prefix):
    """The same lines, but for `_created`."""
    address, receive = graphite
    sent = []
    for bridge, module in ((GraphiteBridge, client), (TheirBridge, prometheus_client)):
        bridge(address, fill(module), _timer=lambda: 1234.5, tags=tags).push(prefix=prefix)
        sent.append([line for line in receive().splitlines() if "_created" not in line])
    assert sent[0] == sent[1]
    assert len(sent[0]) > 30


def test_graphite_is_pushed_to_at_intervals_until_stopped(graphite):
    """One push follows the other, from a thread that `stop` ends."""
    address, receive = graphite
    bridge = GraphiteBridge(address, fill(client))
    before = set(threading.enumerate())
    bridge.start(interval=0.001, prefix="p")
    (thread,) = set(threading.enumerate()) - before
    assert receive().startswith("p.")
    assert receive().startswith("p.")
    bridge.stop()
    thread.join(20)
    assert not thread.is_alive()


def test_a_failed_push_is_logged_and_tried_again(graphite):
    """A server that is away does not end the thread: a later push arrives."""
    address, receive = graphite
    records = []

    class Unlucky(GraphiteBridge):
        def push(self, prefix=""):
            if not records:
                raise ConnectionRefusedError("away")
            super().push(prefix)

    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("ryot_metrics.client.bridge.graphite")
    logger.addHandler(handler)
    bridge = Unlucky(address, fill(client))
    try:
        bridge.start(interval=0.001)
        assert "latency_seconds_count" in receive()
    finally:
        bridge.stop()
        logger.removeHandler(handler)
    assert "away" in str(records[0].exc_info[1])


def test_prometheus_client_shows_our_families():
    """A page of the other package, with our families in it, is our own page."""
    theirs = prometheus_client.CollectorRegistry()
    register_in_prometheus_client(fill(client), theirs)
    theirs_page = prometheus_client.generate_latest(theirs).decode()
    assert undated(theirs_page) == undated(client.generate_latest(fill(client)).decode())
    part = theirs.restricted_registry(["size_sum"])
    assert b"size_sum 2.0" in prometheus_client.generate_latest(part)


def test_what_prometheus_client_shows_already_stays_its_own():
    """A family that both have is shown once, from the other package."""
    theirs = prometheus_client.CollectorRegistry(auto_describe=True)
    prometheus_client.Gauge("app_queue_depth", "Theirs.", registry=theirs).set(42)
    collector = register_in_prometheus_client(fill(client), theirs)
    page = prometheus_client.generate_latest(theirs).decode()
    assert page.count("# TYPE app_queue_depth") == 1
    assert "app_queue_depth 42.0" in page
    theirs.unregister(collector)
    assert "latency" not in prometheus_client.generate_latest(theirs).decode()


def test_the_default_registries_are_joined_by_default():
    """Without arguments, it is the page of this process that the other package shows."""
    client.Gauge("joined_by_default", "Stays in the registry, so it has a help.").set(7)
    collector = register_in_prometheus_client()
    try:
        assert b"joined_by_default 7.0" in prometheus_client.generate_latest()
    finally:
        prometheus_client.REGISTRY.unregister(collector)
    names = {family.name for family in from_prometheus_client().collect()}
    assert "python_info" in names


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_any_family_goes_there_and_back(make):
    """Each type, with timestamps and exemplars, is of the right classes there, and equal back."""
    source = type("Source", (), {"collect": lambda self: [make(core)]})()
    collector = PrometheusClientCollector(source)
    (there,) = collector.collect()
    assert there == make(prometheus_client.core)
    assert list(from_prometheus_client(collector).collect()) == [make(core)]


def test_a_native_histogram_goes_there_and_back():
    """Its spans, deltas and exemplars too, and a timestamp before the epoch."""

    def family(m):
        exemplars = [m.Exemplar({"a": "b"}, 1.5, m.Timestamp(-3, 4))]
        spans = (m.BucketSpan(0, 2), m.BucketSpan(1, 1))
        histogram = m.NativeHistogram(
            6, 2.5, 3, 0.1, 1, pos_spans=spans, pos_deltas=(1, 2, -1), nh_exemplars=(*exemplars,)
        )
        metric = m.Metric("a", "A.", "histogram")
        metric.add_sample("a", {}, 0, m.Timestamp(-1, 5), native_histogram=histogram)
        return metric

    source = type("Source", (), {"collect": lambda self: [family(core)]})()
    collector = PrometheusClientCollector(source)
    (there,) = collector.collect()
    assert there == family(prometheus_client.core)
    (span, _) = there.samples[0].native_histogram.pos_spans
    assert isinstance(span, prometheus_client.core.BucketSpan)
    assert list(from_prometheus_client(collector).collect()) == [family(core)]
