"""Families, samples and timestamps, made with either package from the same arguments."""

import importlib
import itertools
import math
from typing import TypeVar

import prometheus_client.core
import prometheus_client.utils
import pytest

from ryot_metrics.client import core, utils

MODULES = [core, prometheus_client.core]
BUCKETS = [("1.0", 2), ("+Inf", 3)]

FAMILIES = {
    "unknown": lambda m: m.UnknownMetricFamily("a", "A.", 1.5),
    "untyped": lambda m: m.UntypedMetricFamily("a", "A.", 1.5, unit="seconds"),
    "gauge": lambda m: m.GaugeMetricFamily("a_seconds", "A.", value=1, unit="seconds"),
    "gauge with labels": lambda m: labelled(m.GaugeMetricFamily("a", "A.", labels=["x", "y"]), 2),
    "too few labels": lambda m: labelled(m.GaugeMetricFamily("a", "A.", labels=["x", "y", "z"]), 2),
    "counter": lambda m: m.CounterMetricFamily(
        "a_total", "A.", 3, created=5, exemplar=m.Exemplar({"t": "1"}, 2)
    ),
    "counter with labels": lambda m: labelled(
        m.CounterMetricFamily("a", "A.", labels=["x", "y"]), 2, created=3, timestamp=4
    ),
    "summary": lambda m: m.SummaryMetricFamily("a", "A.", count_value=3, sum_value=0),
    "summary with labels": lambda m: labelled(
        m.SummaryMetricFamily("a", "A.", labels=["x", "y"]), 2, 3.5
    ),
    "histogram": lambda m: m.HistogramMetricFamily("a", "A.", BUCKETS, sum_value=4),
    "histogram without sum": lambda m: m.HistogramMetricFamily("a", "A.", buckets=BUCKETS),
    "histogram below zero": lambda m: m.HistogramMetricFamily(
        "a", "A.", buckets=[("-1", 1), ("+Inf", 3)], sum_value=4
    ),
    "histogram with exemplars": lambda m: labelled(
        m.HistogramMetricFamily("a", "A.", labels=["x", "y"]),
        [("1.0", 2, m.Exemplar({}, 1, m.Timestamp(2, 3))), ("+Inf", 3, None)],
        4,
        timestamp=m.Timestamp(5, 6),
    ),
    "gauge histogram": lambda m: m.GaugeHistogramMetricFamily("a", "A.", BUCKETS, gsum_value=-4),
    "info": lambda m: m.InfoMetricFamily("a", "A.", {"x": "y"}),
    "info with labels": lambda m: labelled(
        m.InfoMetricFamily("a", "A.", labels=["x", "y"]), {"y": "z", "w": "v"}
    ),
    "state set": lambda m: m.StateSetMetricFamily("a", "A.", {"on": True, "off": False}),
    "state set with labels": lambda m: labelled(
        m.StateSetMetricFamily("a", "A.", labels=["x", "y"]), {"on": 1, "broken": 0}
    ),
    "empty": lambda m: m.Metric("a", "A.", "untyped", "bytes"),
}
MISUSES = [
    lambda m: m.Metric("", "A.", "gauge"),
    lambda m: m.Metric("a", "A.", "meter"),
    lambda m: m.Metric("\ud800", "A.", "gauge"),
    lambda m: m.GaugeMetricFamily("a", "A.", 1, labels=["x"]),
    lambda m: m.CounterMetricFamily("a", "A.", 1, labels=["x"]),
    lambda m: m.SummaryMetricFamily("a", "A.", 1),
    lambda m: m.SummaryMetricFamily("a", "A.", 1, 2, labels=["x"]),
    lambda m: m.HistogramMetricFamily("a", "A.", sum_value=2),
    lambda m: m.HistogramMetricFamily("a", "A.", BUCKETS, labels=["x"]),
    lambda m: m.GaugeHistogramMetricFamily("a", "A.", BUCKETS, labels=["x"]),
    lambda m: m.InfoMetricFamily("a", "A.", {}, labels=["x"]),
    lambda m: m.StateSetMetricFamily("a", "A.", {}, labels=["x"]),
    lambda m: m.Timestamp(1, -1),
    lambda m: m.Timestamp(1, 1_000_000_000),
]


def labelled(family, *arguments, **options):
    family.add_metric(["1", "2"], *arguments, **options)
    return family


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_a_family_is_the_same_in_both_packages(make):
    """Name, type, unit and samples, down to their text."""
    ours, theirs = map(make, MODULES)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("make", MISUSES)
def test_a_misuse_is_an_error_in_both_packages(make):
    """A wrong argument raises ValueError, here and there."""
    for module in MODULES:
        with pytest.raises(ValueError):  # noqa: PT011
            make(module)


def test_equality_is_that_of_the_facts():
    """Families are equal by what is on the page, not by how they were made."""
    family = FAMILIES["gauge with labels"](core)
    plain = core.Metric("a", "A.", "gauge")
    plain.add_sample("a", {"x": "1", "y": "2"}, 2)
    assert family == plain
    plain.add_sample("a", {"x": "1", "y": "3"}, 2)
    assert family != plain
    assert family != "a"


def test_a_gauge_histogram_may_lack_its_sum():
    """Then it has no count either; the other package makes a sum of None, and a page of neither."""
    family = core.GaugeHistogramMetricFamily("a", "A.", BUCKETS)
    assert {sample.name for sample in family.samples} == {"a_bucket"}


def test_a_family_can_be_restricted():
    """Only samples of the names stay; a family without any is None."""
    family = FAMILIES["histogram"](core)
    assert [sample.name for sample in family.restricted({"a_sum", "b"}).samples] == ["a_sum"]
    assert family.restricted({"a"}) is None


def test_timestamps_compare_and_print_as_in_prometheus_client():
    """All pairs of some timestamps are ordered alike, and print alike."""
    times = list(itertools.product((-2, 0, 1, 1.5), (0, 1, 999_999_999)))
    for first, second in itertools.product(times, times):
        pairs = [(m.Timestamp(*first), m.Timestamp(*second)) for m in MODULES]
        facts = [(a < b, a > b, a == b, str(a), repr(b), float(a)) for a, b in pairs]
        assert facts[0] == facts[1]
    assert core.Timestamp(1, 500_000_000) > 1.25
    assert len({core.Timestamp(1, 2), core.Timestamp(1, 2)}) == 1


@pytest.mark.parametrize("number", [0, 1, -1e9, 1e5, 123456.5, 1e6, 1.2e6, 1234567.25, 1e15, 1e16])
def test_numbers_print_as_in_prometheus_client(number):
    """So do those that are none."""
    for value in (number, number / 3, math.inf, -math.inf, math.nan):
        theirs = prometheus_client.utils.floatToGoString(value)
        assert utils.floatToGoString(value) == theirs


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".asgi",
        ".bridge.graphite",
        ".core",
        ".exposition",
        ".gc_collector",
        ".metrics",
        ".metrics_core",
        ".openmetrics.exposition",
        ".openmetrics.parser",
        ".parser",
        ".platform_collector",
        ".process_collector",
        ".registry",
        ".samples",
        ".utils",
    ],
)
def test_a_module_path_has_the_public_names_of_prometheus_clients(path):
    """What code imports from there, it can import from here; what is native comes from Rust."""
    theirs = importlib.import_module(f"prometheus_client{path}")
    ours = importlib.import_module(f"ryot_metrics.client{path}")
    public = getattr(theirs, "__all__", None) or [
        name
        for name, value in vars(theirs).items()
        if getattr(value, "__module__", None) == theirs.__name__ and not name.startswith("_")
        if not isinstance(value, TypeVar)
    ]
    missing = {name for name in public if not hasattr(ours, name)}
    assert missing == NOT_YET & set(public)


# Helpers that are no part of the surface.
NOT_YET = {
    "escape_label_name",
    "escape_metric_name",
    "parse_labels",
    "parse_version",
    "replace_escape_sequence",
}
