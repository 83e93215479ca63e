"""The general client, read by `prometheus_client`."""

import math
import re

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ryot_metrics import client

MODULES = [client, prometheus_client]
VALUES = [0, 0.1, 1e-5, 123456.5, 1e6, 1234567.25, 1e16, -2e7, math.inf, -math.inf, math.nan]


def fill(module):
    """The same metrics, made with either package."""
    registry = module.CollectorRegistry()
    counter = module.Counter(
        "requests_total", 'Help "quoted" \\ and\nbroken.', ["path", "code"], registry=registry
    )
    counter.labels("/a", 200).inc()
    counter.labels(code='5"0\\0\n', path="/ü").inc(2.5)
    gauge = module.Gauge(
        "depth", "Depth.", ["n"], namespace="app", subsystem="queue", registry=registry
    )
    for index, value in enumerate(VALUES):
        gauge.labels(index).set(value)
    histogram = module.Histogram(
        "latency", "Latency.", ["zone", "le2"], unit="seconds", registry=registry
    )
    for value in (0.001, 0.005, 0.3, 99):
        histogram.labels("x", "y").observe(value)
    plain = module.Histogram("size", "Sizes.", buckets=[1, 2.5, 10], registry=registry)
    plain.observe(2)
    module.Info("build", "Build.", registry=registry).info({"version": "1", "b": "2"})
    module.Counter("untouched", "Never counted.", registry=registry)
    module.Counter("no_children", "Has labels.", ["a"], registry=registry)
    return registry


def undated(page):
    """A page of text with the same creation time everywhere."""
    return re.sub(r"^([^ ]*_created(?:{.*})?) .*$", r"\1 1.0", page, flags=re.MULTILINE)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text;version=1.0.0"])
def test_text_pages_are_the_same_as_prometheus_clients(accept):
    """The pages equal those of prometheus_client, byte for byte, but for the creation times."""
    ours, theirs = (
        module.exposition.choose_encoder(accept)[0](fill(module)).decode() for module in MODULES
    )
    assert undated(ours) == undated(theirs)
    assert ours.count("_created") >= 5


@pytest.mark.parametrize("openmetrics", [False, True])
def test_both_strict_parsers_read_our_pages(openmetrics):
    """Parsed by prometheus_client, each page has the samples that prometheus_client's own has."""
    from prometheus_client.openmetrics import exposition

    registry = fill(client)
    encode = client.generate_openmetrics if openmetrics else client.generate_latest
    theirs = exposition.generate_latest if openmetrics else prometheus_client.generate_latest
    parse = parse_openmetrics if openmetrics else parse_text

    def samples(page):
        return [
            (sample.name, tuple(sorted(sample.labels.items())), repr(sample.value))
            for family in parse(page.decode())
            for sample in family.samples
            if not sample.name.endswith("_created")
        ]

    expected = samples(theirs(fill(prometheus_client)))
    assert samples(encode(registry)) == expected
    assert len(expected) == 38


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "*/*",
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        "application/openmetrics-text",
        "application/openmetrics-text; version=1.0.0; escaping=dots",
        "text/html,application/xhtml+xml,*/*;q=0.8",
    ],
)
def test_choose_encoder_follows_the_accept_header(accept):
    """The content type is prometheus_client's, and the encoder agrees with it."""
    encoder, chosen = client.choose_encoder(accept)
    assert chosen == prometheus_client.exposition.choose_encoder(accept)[1]
    assert encoder(fill(client)).endswith(b"# EOF\n") == ("openmetrics" in chosen)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda m, r: m.Counter("", "", registry=r), "Metric name should not be empty"),
        (lambda m, r: m.Counter("a", "", ["__x"], registry=r), "Reserved label metric name"),
        (lambda m, r: m.Histogram("a", "", ["le"], registry=r), "Reserved label me"),
        (lambda m, r: m.Histogram("a", "", buckets=[2, 1], registry=r), "not in sorted order"),
        (lambda m, r: m.Counter("a", "", registry=r).inc(-1), "non-negative"),
        (lambda m, r: m.Counter("a", "", ["x"], registry=r).inc(), "missing label values"),
        (lambda m, r: m.Counter("a", "", ["x"], registry=r).labels(), "Incorrect label count"),
        (lambda m, r: m.Counter("a", "", ["x"], registry=r).labels(y=1), "Incorrect label names"),
        (lambda m, r: m.Counter("a", "", registry=r).labels("x"), "No label names were set"),
        (lambda m, r: m.Counter("taken", "", registry=r), "Duplicated timeseries"),
        (lambda m, r: m.Gauge("taken_total", "", registry=r), "Duplicated timeseries"),
    ],
)
def test_misuse_is_the_same_error_as_in_prometheus_client(make, text):
    """A wrong call raises ValueError, in both packages, and says why."""
    for module in MODULES:
        registry = module.CollectorRegistry()
        module.Counter("taken", "", registry=registry)
        with pytest.raises(ValueError, match=text):
            make(module, registry)


def test_a_removed_series_leaves_the_page():
    """`remove` and `clear` take series off, and their values are gone."""
    registry = client.CollectorRegistry()
    counter = client.Counter("a", "", ["x"], registry=registry)
    counter.labels("1").inc()
    counter.labels("2").inc()
    counter.remove("1")
    assert registry.get_sample_value("a_total", {"x": "1"}) is None
    assert registry.get_sample_value("a_total", {"x": "2"}) == 1.0
    assert counter.labels("2") is counter.labels(x=2)
    counter.clear()
    assert registry.get_sample_value("a_total", {"x": "2"}) is None


def test_collect_gives_families_with_their_samples():
    """`collect` gives what the page shows, as data."""
    families = {family.name: family for family in client.collect(fill(client))}
    assert families["latency_seconds"].type == "histogram"
    assert families["latency_seconds"].unit == "seconds"
    bucket = families["size"].samples[1]
    assert bucket == client.Sample("size_bucket", {"le": "2.5"}, 1.0)
    assert families["build"].samples[0].labels == {"version": "1", "b": "2"}


def test_a_metric_can_stand_in_no_registry():
    """`registry=None` keeps a metric off every page."""
    client.Counter("nowhere", "", registry=None).inc()
    assert b"nowhere" not in client.generate_latest()


def test_threads_lose_no_count():
    """Counters and histograms are exact under threads that count without pause."""
    import threading

    registry = client.CollectorRegistry()
    counter = client.Counter("a", "", registry=registry)
    histogram = client.Histogram("b", "", registry=registry)

    def work():
        for _ in range(5_000):
            counter.inc()
            histogram.observe(0.2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        page = client.generate_latest(registry).decode()
        lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
        assert lines['b_bucket{le="+Inf"}'] == lines["b_count"]
    assert registry.get_sample_value("a_total") == 40_000
    assert registry.get_sample_value("b_count") == 40_000
