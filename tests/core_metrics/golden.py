"""Writes the pages in `golden/` with prometheus_client: what `pages.rs` must write byte by byte.

Run it again when the pages change: `python tests/core_metrics/golden.py`.
"""

from pathlib import Path
from unittest import mock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    exposition,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.samples import Exemplar, Timestamp


class Custom:
    def describe(self):
        return []

    def collect(self):
        buckets = GaugeHistogramMetricFamily("gh", "Gauge histogram.", labels=["z"])
        buckets.add_metric(["1"], [("1.0", 2), ("+Inf", 3)], 4.5, 1.5)
        yield buckets
        yield UnknownMetricFamily("odd", "Unknown.", 3)
        counted = CounterMetricFamily("counted", "Counted.", labels=["a"])
        counted.add_metric(["x"], 5, created=12.5, timestamp=Timestamp(3, 5_000_000))
        counted.add_metric(["y"], 6, exemplar=Exemplar({"t": '"1"'}, 2.0, 1.5))
        yield counted
        yield GaugeMetricFamily("dot.ted", "Dotted.", 1)


def registry() -> CollectorRegistry:
    registry = CollectorRegistry(target_info={"service": "s", "a": "1"})
    counter = Counter("jobs", 'Jobs "done"\\\n.', ["queue", "a"], registry=registry)
    counter.labels('ma"il\n', "\\").inc(2, exemplar={"trace": "1", "a": "é"})
    counter.labels("é", "").inc(1_234_567.5)
    Gauge("depth_seconds", "Depth.", registry=registry, unit="seconds").set(-1.5)
    histogram = Histogram("size", "Sizes.", ["a", "z"], buckets=(0.5, 1e6), registry=registry)
    histogram.labels("1", "2").observe(0.25, exemplar={"trace": "2"})
    histogram.labels("1", "2").observe(7e6)
    Histogram("signed", "", buckets=(-1, 1), registry=registry).observe(-0.5)
    Summary("took", "Took.", ["z"], registry=registry).labels("1").observe(0.125)
    Info("build", "Build.", ["z"], registry=registry).labels("1").info({"a": "b", "é": "c"})
    Enum("state", "State.", ["z"], states=["off", 'on"'], registry=registry).labels("1").state(
        'on"'
    )
    Counter("na.me", "UTF-8.", ["la.bel", "b_c"], registry=registry).labels("x", "y").inc()
    registry.register(Custom())
    return registry


def main() -> None:
    golden = Path(__file__).parent / "golden"
    with mock.patch("time.time", return_value=1_700_000_000.25):
        pages = registry()
    for escaping in ("allow-utf-8", "underscores", "dots", "values"):
        (golden / f"text-{escaping}.txt").write_bytes(exposition.generate_latest(pages, escaping))
        if escaping in ("allow-utf-8", "underscores"):
            page = openmetrics.generate_latest(pages, escaping)
            (golden / f"open-{escaping}.txt").write_bytes(page)
    restricted = pages.restricted_registry(["depth_seconds"])
    (golden / "restricted.txt").write_bytes(openmetrics.generate_latest(restricted))


if __name__ == "__main__":
    main()
