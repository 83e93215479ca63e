"""What only native registries and metrics show: all types, custom collectors, restrictions."""

import asyncio
import gc
import sys
import threading
import urllib.request
from types import SimpleNamespace

import numpy as np
import prometheus_client
import prometheus_client.core
import prometheus_client.openmetrics.parser
import prometheus_client.parser
import pytest

from ryot_metrics import client
from ryot_metrics.client import core
from ryot_metrics.scrape import serve_metrics
from test_client import undated

MODULES = [client, prometheus_client]


def pages(make, openmetrics=True):
    """The pages that both packages write of the same registry."""
    accept = "application/openmetrics-text;version=1.0.0" if openmetrics else "text/plain"
    result = []
    for module in MODULES:
        registry = module.CollectorRegistry()
        make(module, registry)
        encoder, _ = module.exposition.choose_encoder(accept)
        result.append(undated(encoder(registry).decode()))
    return result


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_type_has_the_page_of_prometheus_client(openmetrics):
    """Summary, enum, exemplars, resets, functions and a target_info, in both formats."""

    def make(module, registry):
        summary = module.Summary("s", "S.", ["x"], registry=registry)
        summary.labels("1").observe(2.5)
        module.Enum("e", "E.", ["x"], states=["a", "b"], registry=registry).labels("1").state("b")
        counter = module.Counter("c", "C.", registry=registry)
        counter.inc(7)
        counter.reset()
        counter.inc(2)
        gauge = module.Gauge("g", "G.", registry=registry)
        gauge.set_function(lambda: 42)
        registry.set_target_info({"service": "x"})

    ours, theirs = pages(make, openmetrics)
    assert ours == theirs
    assert 's_count{x="1"} 1.0' in ours
    assert "g 42.0" in ours


def test_exemplars_stand_on_openmetrics_pages():
    """A counter's and a bucket's exemplar are written as prometheus_client writes them."""

    def make(module, registry):
        module.Counter("c", "C.", registry=registry).inc(1, {"trace": "abc"})
        histogram = module.Histogram("h", "H.", buckets=[1, 2], registry=registry)
        histogram.observe(1.5, {"trace": "d"})

    def untimed(page):
        lines = (line.rsplit(" ", 1)[0] if " # {" in line else line for line in page.splitlines())
        return list(lines)

    ours, theirs = map(untimed, pages(make))
    assert ours == theirs
    assert 'c_total 1.0 # {trace="abc"} 1.0' in ours
    registry = client.CollectorRegistry()
    counter = client.Counter("c", "C.", registry=registry)
    with pytest.raises(ValueError, match="exceeding the limit of 128"):
        counter.inc(1, {"trace": "x" * 200})


def test_custom_collectors_of_python():
    """A collector's families, timestamps and all, are on the page; a taken name is refused."""

    def collector_of(module):
        families = core if module is client else module.core

        class Collector:
            def collect(self):
                family = families.GaugeMetricFamily("depth", "Depth.", labels=["queue"])
                family.add_metric(["a"], 3, timestamp=1500000000.5)
                yield family
                yield families.CounterMetricFamily("jobs", "Jobs.", value=2)
                yield families.SummaryMetricFamily("size", "Size.", count_value=1, sum_value=5)

        return Collector()

    for openmetrics in (False, True):
        ours, theirs = pages(lambda m, r: r.register(collector_of(m)), openmetrics)
        assert ours == theirs
        assert 'depth{queue="a"} 3.0 1500000000' in ours
    registry = client.CollectorRegistry(auto_describe=True)
    collector = collector_of(client)
    registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        client.Gauge("depth", "", registry=registry)
    registry.unregister(collector)
    client.Gauge("depth", "", registry=registry)
    with pytest.raises(KeyError):
        registry.unregister(collector)


def test_a_broken_collector_costs_its_families_only(monkeypatch):
    """What a collector raises is reported, and the rest of the page is written."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)

    class Broken:
        def describe(self):
            return []

        def collect(self):
            raise RuntimeError("no")

    registry = client.CollectorRegistry()
    registry.register(Broken())
    client.Gauge("depth", "", registry=registry)
    assert b"depth 0.0" in client.generate_latest(registry)
    assert str(reported[0].exc_value) == "no"


def test_metrics_can_be_unregistered_and_restricted():
    """A restricted registry shows the samples that are named; an unregistered metric none."""
    for module in MODULES:
        registry = module.CollectorRegistry()
        histogram = module.Histogram("h", "", registry=registry)
        counter = module.Counter("c", "", registry=registry)
        page = module.generate_latest(registry.restricted_registry(["h_sum"])).decode()
        assert [line for line in page.splitlines() if line[0] != "#"] == ["h_sum 0.0"]
        registry.unregister(histogram)
        names = {family.name for family in registry.collect()}
        assert names == {"c"}
        assert [family.name for family in counter.collect()] == ["c"]
        assert [len(family.samples) for family in counter.describe()] == [0]


def test_labels_can_be_removed_by_some_of_them():
    """`remove_by_labels` takes off all series that have these values."""
    registries = []
    for module in MODULES:
        registry = module.CollectorRegistry()
        counter = module.Counter("c", "", ["x", "y"], registry=registry)
        for x in "12":
            for y in "ab":
                counter.labels(x, y).inc()
        counter.remove_by_labels({"x": "1"})
        registries.append(registry)
        assert registry.get_sample_value("c_total", {"x": "1", "y": "a"}) is None
        assert registry.get_sample_value("c_total", {"x": "2", "y": "b"}) == 1
    counter = client.Counter("c", "", ["x"], registry=None)
    with pytest.raises(ValueError, match="z"):
        counter.remove_by_labels({"z": "1"})


def test_timers_and_trackers_of_metrics():
    """`time`, `track_inprogress` and `count_exceptions` measure functions of every kind."""
    registry = client.CollectorRegistry()
    gauge = client.Gauge("g", "", registry=registry)
    histogram = client.Histogram("h", "", registry=registry)
    summary = client.Summary("s", "", registry=registry)
    counter = client.Counter("c", "", registry=registry)

    @histogram.time()
    @summary.time()
    @gauge.track_inprogress()
    async def stream():
        assert gauge_value() == 1
        yield 1

    def gauge_value():
        return registry.get_sample_value("g")

    async def main():
        return [item async for item in stream()]

    assert asyncio.run(main()) == [1]
    assert gauge_value() == 0
    assert registry.get_sample_value("h_count") == registry.get_sample_value("s_count") == 1
    with pytest.raises(ValueError, match="x"), counter.count_exceptions():
        raise ValueError("x")
    with pytest.raises(ValueError, match="x"), counter.count_exceptions((KeyError, OSError)):
        raise ValueError("x")
    assert registry.get_sample_value("c_total") == 1
    with gauge.time():
        pass
    assert 0 < gauge_value() < 1


VALUES = np.linspace(-1, 12, 100_003)


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        VALUES[::3],
        VALUES.astype(np.float32),
        VALUES.astype(np.float32)[::-2],
        VALUES.astype(np.int64),
        VALUES.tolist(),
        tuple(range(10)),
        [],
        np.array([], dtype=np.float64),
    ],
)
def test_many_observations_at_once_equal_one_after_the_other(values):
    """`observe_many` gives what `observe` gives for each value."""
    registry = client.CollectorRegistry()
    many = client.Histogram("many", "", registry=registry)
    each = client.Histogram("each", "", registry=registry)
    many.observe_many(values)
    for value in values:
        each.observe(value)
    (first, second) = registry.collect()
    for one, other in zip(first.samples, second.samples, strict=True):
        if one.name.endswith("_sum"):
            assert one.value == pytest.approx(other.value)
        elif not one.name.endswith("_created"):
            assert (one.labels, one.value) == (other.labels, other.value)


def test_batch_calls():
    """`observe_n` and `inc_many` count; a bad value counts nothing."""
    registry = client.CollectorRegistry()
    histogram = client.Histogram("h", "", registry=registry)
    histogram.observe_n(0.3, 5)
    with pytest.raises(TypeError):
        histogram.observe_many([1.0, "x"])
    assert registry.get_sample_value("h_count") == 5
    assert registry.get_sample_value("h_sum") == pytest.approx(1.5)
    counter = client.Counter("c", "", registry=registry)
    counter.inc_many(np.ones(1000))
    with pytest.raises(ValueError, match="non-negative"):
        counter.inc_many([1, -1])
    assert registry.get_sample_value("c_total") == 1000


def test_a_summary_has_quantiles_when_asked():
    """The quantiles of the last minutes are within two percent."""
    registry = client.CollectorRegistry()
    summary = client.Summary("s", "", quantiles=[0.5, 0.99], registry=registry)
    for value in range(1, 1001):
        summary.observe(value)
    assert registry.get_sample_value("s", {"quantile": "0.5"}) == pytest.approx(500, rel=0.02)
    assert registry.get_sample_value("s", {"quantile": "0.99"}) == pytest.approx(990, rel=0.02)
    with pytest.raises(ValueError, match="A quantile is 0 to 1, not 2"):
        client.Summary("t", "", quantiles=[2], registry=registry)


def test_constant_labels_of_a_registry():
    """Each sample carries them; a metric cannot have a label of the same name."""
    registry = client.CollectorRegistry(labels={"zone": "a"})
    client.Counter("c", "", ["x"], registry=registry).labels("1").inc()
    assert b'c_total{x="1",zone="a"} 1.0' in client.generate_latest(registry)
    with pytest.raises(ValueError, match="zone"):
        client.Counter("d", "", ["zone"], registry=registry)


def test_utf8_names_and_escapings():
    """Names outside of the old alphabet are escaped as asked, as in prometheus_client."""
    for escaping in ("underscores", "dots", "values", "allow-utf-8"):
        result = []
        for module in MODULES:
            registry = module.CollectorRegistry()
            module.Gauge("queue.depth", "D.", ["my.label"], registry=registry).labels("x").set(1)
            result.append(module.generate_latest(registry, escaping))
        assert result[0] == result[1]


def test_cycles_through_a_registry_are_no_obstacle():
    """A function that refers to its gauge is called, and the program goes on."""
    registry = client.CollectorRegistry()
    holder = SimpleNamespace()
    holder.gauge = client.Gauge("g", "", registry=registry)
    holder.gauge.set_function(lambda: holder.value)
    holder.value = 3
    gc.collect()
    assert registry.get_sample_value("g") == 3


def test_the_scrape_server_shows_the_last_value_of_a_stuck_collector():
    """While Python does not answer, its families have their last value, and their age is shown."""
    stuck, release = threading.Event(), threading.Event()

    class Collector:
        def describe(self):
            return []

        def collect(self):
            if stuck.is_set():
                release.wait(30)
            yield core.GaugeMetricFamily("depth", "Depth.", value=7)

    registry = client.CollectorRegistry()
    registry.register(Collector())
    gauge = client.Gauge("clock", "", registry=registry)
    gauge.set_function(lambda: 5)
    with serve_metrics(0, registry=registry) as server:

        def page():
            with urllib.request.urlopen(server.url, timeout=10) as response:
                return response.read().decode().splitlines()

        fresh = page()
        assert "depth 7.0" in fresh
        assert "clock 5.0" in fresh
        assert 'ryot_metrics_callback_age_seconds{callback="Collector"} 0.0' in fresh
        stuck.set()
        old = page()
        assert "depth 7.0" in old
        assert "clock 5.0" in old
        ages = [line for line in old if line.startswith("ryot_metrics_callback_age_seconds{")]
        assert len(ages) == 2
        assert all(float(line.split()[1]) > 0 for line in ages)
        release.set()


def test_a_series_limit_shares_an_overflow_series():
    """Past the limit, new label sets are counted together and nothing is lost."""
    registry = client.CollectorRegistry()
    counter = client.Counter("c", "", ["user"], registry=registry, series_limit=3)
    for user in range(10):
        counter.labels(user).inc()
    values = {
        sample.labels["user"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "c_total"
    }
    assert values == {"0": 1, "1": 1, "2": 1, "__overflow__": 7}
    with pytest.raises(ValueError, match="series_limit is 0; it must be above 0"):
        client.Counter("d", "", ["x"], series_limit=0, registry=None)


def test_a_module_that_is_loaded_again_gets_the_first_metric():
    """With `exist_ok`, the same description gives the same series, another one is refused."""
    registry = client.CollectorRegistry()
    first = client.Histogram("h", "H.", ["x"], buckets=[1, 2], registry=registry, exist_ok=True)
    first.labels("a").observe(1)
    again = client.Histogram("h", "H.", ["x"], buckets=[1, 2], registry=registry, exist_ok=True)
    again.labels("a").observe(1)
    assert registry.get_sample_value("h_count", {"x": "a"}) == 2
    for other in ({"buckets": [1, 3]}, {"labelnames": ["y"]}):
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            client.Histogram("h", "H.", registry=registry, exist_ok=True, **other)


@pytest.mark.parametrize("value", ['"', "\\", "\n", "\0", "{}", "é", "x" * 1_000_000, 'le="1"'])
def test_hostile_label_values_leave_a_whole_page(value):
    """Whatever a label's value is, both strict parsers read it back."""
    registry = client.CollectorRegistry()
    client.Gauge("g", value[:100], ["x"], registry=registry).labels(value).set(1)
    page = client.generate_latest(registry).decode()
    strict = client.exposition.choose_encoder("application/openmetrics-text")[0](registry).decode()
    for parse, text in (
        (prometheus_client.parser.text_string_to_metric_families, page),
        (prometheus_client.openmetrics.parser.text_string_to_metric_families, strict),
    ):
        (family,) = parse(text)
        assert family.samples[0].labels == {"x": value}


def test_a_lone_surrogate_is_refused_where_it_comes_in():
    """Text that is no UTF-8 raises at `labels`, and the page stays whole."""
    registry = client.CollectorRegistry()
    gauge = client.Gauge("g", "", ["x"], registry=registry)
    with pytest.raises(UnicodeEncodeError):
        gauge.labels("\ud800")
    assert client.generate_latest(registry) == b"# HELP g \n# TYPE g gauge\n"
