"""A real Prometheus scrapes the service, answers PromQL over it, and its linter finds nothing."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import ryot_metrics
from ryot_metrics import (
    CostModel,
    Engine,
    InferenceContext,
    SamplingParams,
    catalogue,
    client,
    model_info,
    set_cost_model,
    system_info,
)
from ryot_metrics.pipeline import PipelineStats
from ryot_metrics.scrape import serve_metrics
from test_facts import CALLS

# The first needs worker processes, then a GPU's driver, then a model with weights and a prefix
# cache; the others are an aggregator's.
ELSEWHERE = {
    "ryot_metrics_unshared_series",
    "ryot_gpu_memory_total_bytes",
    "ryot_gpu_power_watts",
    "ryot_gpu_temperature_celsius",
    "ryot_engine_bytes_moved_per_token",
    "ryot_engine_prefix_cache_resident_bytes",
    *(
        family.name
        for family in catalogue.families()
        if family.name.startswith(("llm_", "ryot_fleet_"))
    ),
}

CONFIG = """
global: {{scrape_interval: 200ms}}
scrape_configs:
  - job_name: ryot
    params: {params}
    static_configs: [{{targets: ["{target}"]}}]
"""


def binary(name):
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed (Debian's package prometheus)")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def prometheus(tmp_path, live_server):
    """The address of a Prometheus that scrapes the service five times a second."""
    with scraping(tmp_path, live_server.removeprefix("http://")) as address:
        yield address


@contextmanager
def scraping(tmp_path, target, *options, params=None):
    """Runs a Prometheus that scrapes one target with a query; gives its address."""
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(target=target, params=json.dumps(params or {})))
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=error",
        *options,
    ]
    process = subprocess.Popen(command)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def query(prometheus, expression):
    url = f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)["data"]["result"]


def wait_for(prometheus, expression):
    """The first result of a query that is neither empty nor NaN."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            for result in query(prometheus, expression):
                value = float(result["value"][1])
                if value == value:
                    return value
        except OSError:
            pass  # it is still starting
        time.sleep(0.1)
    pytest.fail(f"no value for {expression} within a minute")


def test_prometheus_answers_quantiles_over_ttft(prometheus, live_server):
    """`histogram_quantile` over the service's TTFT gives a time, and the target is up."""

    def complete():
        body = json.dumps({"prompt": "hello", "max_tokens": 3}).encode()
        url = f"{live_server}/v1/completions"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200

    complete()
    assert wait_for(prometheus, 'up{job="ryot"}') == 1
    assert wait_for(prometheus, "ryot_ttft_latency_seconds_count") >= 1
    complete()
    rate = "sum by (le) (rate(ryot_ttft_latency_seconds_bucket[30s]))"
    complete()
    assert 0 < wait_for(prometheus, f"histogram_quantile(0.95, {rate})") <= 2.5
    view = "sum by (model, le) (rate(ryot_inference_ttft_seconds_bucket[30s]))"
    assert 0 < wait_for(prometheus, f"histogram_quantile(0.95, {view})") <= 2.5


def test_prometheus_ingests_native_histograms(tmp_path):
    """From a Python process, over protobuf, a real Prometheus reads a native histogram."""
    registry = client.CollectorRegistry()
    histogram = client.Histogram("wait", "W.", buckets=None, native_factor=1.1, registry=registry)
    histogram.observe_many([0.1] * 50 + [0.2] * 50)
    feature = "--enable-feature=native-histograms"
    with (
        serve_metrics(0, registry=registry) as server,
        scraping(tmp_path, server.address, feature) as prometheus,
    ):
        assert wait_for(prometheus, "histogram_count(wait)") == 100
        assert wait_for(prometheus, "histogram_sum(wait)") == pytest.approx(15)
        median = wait_for(prometheus, "histogram_quantile(0.25, wait)")
        assert median == pytest.approx(0.1, rel=0.1)


@pytest.fixture
def full_registry():
    """The default registry, with samples in every family."""
    with Engine("toy") as engine:
        engine.generate("x", SamplingParams(max_tokens=3))
    with pytest.raises(RuntimeError), InferenceContext():
        raise RuntimeError
    set_cost_model("default", CostModel.fixed_rate(prompt=1, completion=2))
    with InferenceContext() as context:
        context.set_ttft(-1)
        context.add_tokens(5)
    set_cost_model("default", None)
    system_info.info({"version": "1.0.0"})
    model_info.info({"models": "toy"})
    for (name, *arguments), _ in CALLS:
        getattr(ryot_metrics, name)(*arguments)
    stats = PipelineStats(["draft", "rewrite"])
    with stats.request("r") as r, r.stage("draft"), r.sending("draft", "rewrite"):
        pass
    client.generate_latest()  # the next page tells how long this one took
    return client.REGISTRY


def test_promtool_finds_nothing_on_our_families(full_registry):
    """`promtool check metrics` accepts a page on which every family has samples."""
    promtool = binary("promtool")
    page = client.generate_latest(full_registry)
    shown = {line.split()[2] for line in page.decode().splitlines() if line.startswith("# TYPE")}
    assert {family.name for family in catalogue.families()} - ELSEWHERE <= shown
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_strict_parsers_read_our_families(full_registry):
    """`prometheus_client`'s parsers find every family on both pages, with its type and help."""
    plain = parse_text(client.generate_latest(full_registry).decode())
    types = {"info": "gauge"}
    found = {(family.name, family.type, family.documentation) for family in plain}
    strict = parse_openmetrics(client.generate_openmetrics(full_registry).decode())
    found_strict = {(family.name, family.type, family.documentation) for family in strict}
    for family in catalogue.families():
        if family.name in ELSEWHERE:
            continue
        base = family.name.removesuffix("_total") if family.type == "counter" else family.name
        assert (base, types.get(family.type, family.type), family.help) in found
        base = base.removesuffix("_info") if family.type == "info" else base
        assert (base, family.type, family.help) in found_strict


@pytest.mark.parametrize("wanted", ["OpenMetricsText", "PrometheusText", "PrometheusProto"])
def test_prometheus_scrapes_every_format(tmp_path, wanted):
    """The real scraper's own `Accept` headers give it the page in each of the three formats."""
    registry = client.CollectorRegistry()
    client.Counter("jobs", "J.", ["queue"], registry=registry).labels("a").inc(3)
    accept = {
        "OpenMetricsText": "application/openmetrics-text;version=1.0.0,"
        "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "PrometheusText": "text/plain;version=0.0.4;q=1,*/*;q=0.1",
        "PrometheusProto": "application/vnd.google.protobuf;"
        "proto=io.prometheus.client.MetricFamily;encoding=delimited,"
        "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    }[wanted]
    kinds = {
        "OpenMetricsText": "application/openmetrics-text",
        "PrometheusText": "text/plain",
        "PrometheusProto": "application/vnd.google.protobuf",
    }
    with serve_metrics(0, registry=registry) as server:
        request = urllib.request.Request(server.url, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"].startswith(kinds[wanted])
        options = ["--enable-feature=native-histograms"] if wanted == "PrometheusProto" else []
        if wanted == "PrometheusText":
            return  # what it falls back to; the service's test above scrapes it
        with scraping(tmp_path, server.address, *options) as prometheus:
            assert wait_for(prometheus, 'jobs_total{queue="a"}') == 3
