"""Workers' pages over HTTP, added up: real pages, lists of workers, Pushgateway and Prometheus."""

import json
import re
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nats_server import until
from ryot_metrics import client
from ryot_metrics.fleet import Fleet
from ryot_metrics.scrape import serve_metrics
from test_client_push import page as gateway_page
from test_client_push import pushgateway  # noqa: F401
from test_fleet import SOON, command, logged
from test_prometheus import binary, free_port, wait_for

ROOT = Path(__file__).parents[2]
QUICK = SOON | {"refresh_interval": 0.1, "timeout": 0.3}


class Worker:
    """A service with a page of its own."""

    def __init__(self, stack, value=1.0, port=0):
        registry = client.CollectorRegistry()
        self.jobs = client.Counter("jobs", "J.", ["queue"], registry=registry).labels("a")
        self.depth = client.Gauge("depth", "D.", registry=registry)
        self.wait = client.Histogram("wait", "W.", buckets=[1, 2], registry=registry)
        self.sparse = client.Histogram(
            "sparse", "S.", buckets=None, native_factor=1.1, registry=registry
        )
        self.depth.set(value)
        self.server = stack.enter_context(serve_metrics(port, registry=registry))
        self.address = self.server.address


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def samples(page):
    families = text_string_to_metric_families(page)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_families_are_added_up_by_their_type(stack):
    """Counters and histograms, classic and native, of two real pages are summed, gauges by mode."""
    one, two = Worker(stack, 2), Worker(stack, 6)
    one.jobs.inc(3)
    two.jobs.inc(4)
    for worker, values in ((one, [0.5, 1.5]), (two, [1.5, 9.0, 9.0])):
        for value in values:
            worker.wait.observe(value)
            worker.sparse.observe(value)
    for mode, depth in (("sum", 8.0), ("min", 2.0), ("max", 6.0), ("mean", 4.0)):
        targets = [one.address, two.address]
        with Fleet(targets=targets, gauges={"dep*": mode}, **QUICK) as fleet:
            until(lambda: samples(fleet.page()).get(("jobs_total", "a")) == 7)
            shown = samples(fleet.page())
            assert shown["depth",] == depth
    assert [shown["wait_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [1, 3, 5]
    assert (shown["wait_sum",], shown["wait_count",]) == (21.5, 5)
    assert (shown["sparse_sum",], shown["sparse_count",]) == (21.5, 5)
    assert shown["ryot_fleet_workers", "http", "up"] == 2
    assert shown["ryot_fleet_workers", "http", "down"] == 0


def test_a_sum_never_goes_down_while_workers_come_and_go(stack):
    """A worker that starts anew counts on, one that has gone stays counted; its gauge goes."""
    port, named = free_port(), []
    with Fleet(targets=[f"127.0.0.1:{port}"], **QUICK) as fleet:
        for life in range(1, 4):
            with ExitStack() as own:
                worker = Worker(own, port=port)
                worker.jobs.inc(5)
                until(
                    lambda total=5 * life: samples(fleet.page()).get(("jobs_total", "a")) == total
                )
                assert samples(fleet.page())["depth",] == 1
            until(lambda: ("depth",) not in samples(fleet.page()))
            named.append(samples(fleet.page())["jobs_total", "a"])
        assert named == [5, 10, 15]
        assert samples(fleet.page())["ryot_fleet_workers", "http", "down"] == 1


def test_each_keeps_the_gauges_of_workers_apart(stack):
    """With `each`, a gauge has a series for every worker, and only chosen families are shown."""
    workers = [Worker(stack, 2), Worker(stack, 6)]
    targets = [worker.address for worker in workers]
    with Fleet(targets=targets, gauges={"depth": "each"}, families=["depth"], **QUICK) as fleet:
        expected = {("depth", workers[0].address): 2, ("depth", workers[1].address): 6}
        until(lambda: expected.items() <= samples(fleet.page()).items())
        assert "jobs" not in fleet.page()


class Nonsense(BaseHTTPRequestHandler):
    """Answers with what is no page, or not at all well."""

    def do_GET(self):
        status = 500 if self.path == "/broken" else 200
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_):
        pass


@contextmanager
def answering(handler):
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_bad_worker_costs_nobody_else_anything(stack, caplog):
    """One that is silent, talks nonsense, fails or is not there is named; the good one is fresh."""
    good = Worker(stack)
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    silent = f"127.0.0.1:{silent.getsockname()[1]}"
    nonsense = stack.enter_context(answering(Nonsense))
    nobody = f"127.0.0.1:{free_port()}"
    broken = f"http://{nonsense}/broken"
    lines = stack.enter_context(logged(caplog))
    targets = [good.address, silent, nonsense, broken, nobody]
    with Fleet(targets=targets, **QUICK) as fleet:
        for total in range(1, 6):
            good.jobs.inc()
            until(lambda total=total: samples(fleet.page()).get(("jobs_total", "a")) == total)
        for line in (
            f"Skipping {silent}: no answer within 0.3 s",
            f'Skipping {nonsense}: line 1: no value: "<html>hello</html>"',
            f"Skipping {nonsense}/broken: it answers with 500",
            f"Skipping {nobody}: ",
        ):
            until(lambda line=line: any(text.startswith(line[:60]) for text in lines()), line)
        failures = {
            key[1] for key in samples(fleet.page()) if key[0] == "ryot_fleet_failures_total"
        }
        assert failures >= {"timeout", "nonsense", "status", "unreachable"}
        assert samples(fleet.page())["ryot_fleet_workers", "http", "up"] == 1
    repeated = [text for text in lines() if text.startswith(f"Skipping {silent}")]
    assert len(repeated) == 1


def totals(fleet):
    return samples(fleet.page()).get(("jobs_total", "a"))


def test_workers_are_found_in_files_lists_and_names(stack, tmp_path, caplog):
    """A file that changes, a list over HTTP and a name in the DNS name workers; a bad file none."""
    one, two, three = (Worker(stack) for _ in range(3))
    for worker, count in ((one, 1), (two, 10), (three, 100)):
        worker.jobs.inc(count)
    file = tmp_path / "workers.json"
    file.write_text(json.dumps([{"targets": [one.address]}]))
    lines = stack.enter_context(logged(caplog))
    with Fleet(targets=[two.address], host="127.0.0.1", serve_sd=True, **QUICK) as other:
        until(lambda: totals(other) == 10)
        places = {
            "file_sd": [file],
            "http_sd": [other.url.replace("/metrics", "/sd")],
            "dns": [f"localhost:{three.address.rpartition(':')[2]}"],
        }
        with Fleet(**places, **QUICK) as fleet:
            until(lambda: totals(fleet) == 111)
            four = Worker(stack)
            four.jobs.inc(1000)
            file.write_text(json.dumps([{"targets": [four.address]}]))
            until(lambda: totals(fleet) == 1111)
            assert f"{one.address} is named no more" in lines()
            file.write_text("[")
            until(lambda: any(f"Cannot read the list {file}" in line for line in lines()))
            four.jobs.inc(1000)
            until(lambda: totals(fleet) == 2111)


def test_a_real_pushgateway_has_the_page(pushgateway, stack):  # noqa: F811
    """The command pushes the workers' sums; what leaves the page leaves the gateway."""
    worker = Worker(stack)
    worker.jobs.inc(7)
    host, _, port = pushgateway.rpartition(":")
    options = ("--host", host, "--port", port, "--push", "--push-interval", "0.1")
    with command("fleet", "--target", worker.address, "--poll-interval", "0.1", *options):
        jobs = 'jobs_total{instance="",job="dynamo_push_metrics",queue="a"} 7\n'
        until(lambda: jobs in gateway_page(pushgateway))
        assert "\ndepth{" in gateway_page(pushgateway)
        worker.server.shutdown()
        until(lambda: "\ndepth{" not in gateway_page(pushgateway))
        assert jobs in gateway_page(pushgateway)


def test_prometheus_finds_the_workers_as_the_document_says(stack, tmp_path):
    """With the configuration of docs/fleet.md, a real Prometheus reads the page and all workers."""
    workers = [Worker(stack) for _ in range(3)]
    for worker in workers:
        worker.jobs.inc(2)
    targets = [worker.address for worker in workers]
    with Fleet(targets=targets, host="127.0.0.1", serve_sd=True, **QUICK) as fleet:
        until(lambda: totals(fleet) == 6)
        document = (ROOT / "docs" / "fleet.md").read_text()
        (config,) = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
        place = fleet.url.removeprefix("http://").removesuffix("/metrics")
        assert "localhost:9091" in config
        config = config.replace("localhost:9091", place).replace("15s", "200ms")
        (tmp_path / "prometheus.yml").write_text(config)
        address = f"127.0.0.1:{free_port()}"
        arguments = [
            binary("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
        process = subprocess.Popen(arguments)
        try:
            here = f"http://{address}"
            until(lambda: wait_for(here, 'count(up{job="workers"} == 1)') == 3)
            assert wait_for(here, 'sum(jobs_total{job="workers"})') == 6
            assert wait_for(here, 'sum(jobs_total{job="fleet"})') == 6
            assert wait_for(here, 'ryot_fleet_workers{job="fleet",state="up"}') == 3
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"targets": ["a b"]}, 'target is "a b"; it must be HOST:PORT'),
        ({"http_sd": ["nowhere"]}, 'http_sd is "nowhere"; it must be a URL'),
        ({"dns": ["name"]}, 'dns is "name"; it must be NAME:PORT'),
        ({"gauges": {"a": "most"}}, 'gauge is "a=most"; it must be NAME=MODE'),
        ({"timeout": 0.001}, "timeout is 0.001 s; it must be at least 0.01 s"),
        ({"series_limit": 0}, "series_limit is 0; it must be at least 1"),
        ({"max_page_bytes": 0}, "max_page_bytes is 0; it must be at least 1"),
        ({"push": "http://a", "push_job": "a/b"}, 'for job "a/b"; it must be a URL and a word'),
        ({"push": "http://a", "push_interval": 0.01}, "push_interval is 0.01 s; it must be at"),
    ],
)
def test_bad_arguments_are_named_with_their_limits(arguments, error):
    """A value out of range is named in the error, with the range."""
    with pytest.raises(ValueError, match=re.escape(error)):
        Fleet(**arguments)


def test_a_page_over_the_limit_is_nonsense(stack, caplog):
    """A page of more bytes than `max_page_bytes` is skipped, and the limit named."""
    worker = Worker(stack)
    with logged(caplog) as lines, Fleet(targets=[worker.address], max_page_bytes=50, **QUICK):
        text = f"Skipping {worker.address}: it has more than 50 bytes (max_page_bytes)"
        until(lambda: text in lines())


def test_a_worker_with_tls_is_read(stack, certificates, monkeypatch):
    """An https URL is read if the system's certificates, here SSL_CERT_FILE, know the worker's."""
    registry = client.CollectorRegistry()
    client.Gauge("depth", "D.", registry=registry).set(5)
    files = {"certfile": certificates / "server.pem", "keyfile": certificates / "server.key"}
    server = stack.enter_context(serve_metrics(0, "localhost", registry=registry, **files))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
    with Fleet(targets=[f"https://localhost:{server.port}"], **QUICK) as fleet:
        until(lambda: samples(fleet.page()).get(("depth",)) == 5)
