"""Workers' pages over HTTP, added up: real pages, lists of workers, Pushgateway and Prometheus."""

import gzip
import json
import re
import socket
import struct
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nats_server import until
from ryot_metrics import Engine, SamplingParams, client
from ryot_metrics.fleet import Fleet
from ryot_metrics.scrape import serve_metrics
from ryot_metrics.testing import isolated
from test_client_push import page as gateway_page
from test_client_push import pushgateway  # noqa: F401
from test_fleet import LINE, SOON, command, logged
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


@pytest.mark.parametrize(("profile", "slots"), [("ryot", 8), ("vllm", None)])
def test_an_engine_s_page_gives_the_document_s_families(stack, profile, slots):
    """Slots, blocks and hits of an engine come from its own page, and vLLM's names give theirs."""
    metrics = stack.enter_context(isolated())
    engine = stack.enter_context(Engine("toy"))
    for _ in range(2):
        engine.generate("the same beginning " * 20, SamplingParams(max_tokens=2))
    server = stack.enter_context(serve_metrics(0, registry=metrics.registry, profile=profile))
    address = server.address
    with Fleet(targets=[address], **QUICK) as fleet:
        until(lambda: fleet.workers().endpoints)
        ((worker, *load),) = fleet.workers().endpoints
        assert (worker, load[0]) == (address, server.url)
        assert load[1:3] == [0, slots]
        shown = samples(fleet.page())

        def of(name):
            return shown.get((name, "backend", "generate", address))

        assert of("llm_kv_blocks_total") == 4096
        assert of("llm_requests_total_slots") == slots
        used = of("llm_kv_blocks_active")
        assert shown["llm_load_avg", "backend", "generate"] == used >= 0
        rate, looked_up = of("llm_kv_hit_rate_percent"), of("llm_kv_hit_rate_isl_blocks")
        assert rate == 100 * of("llm_kv_hit_rate_overlap_blocks") / looked_up
        assert 0 < rate < 100
        server.shutdown()
        until(lambda: "llm_" not in fleet.page())


def test_the_command_warns_until_a_worker_is_there(stack):
    """Workers over HTTP alone: each second a warning, until one answers; then its load is told."""
    metrics, port = stack.enter_context(isolated()), free_port()
    stack.enter_context(Engine("toy"))
    with command("fleet", "--target", f"127.0.0.1:{port}", "--port", "0") as fleet:
        said = (line.groups() for line in map(LINE.fullmatch, map(str.rstrip, fleet.stderr)))
        none = ("WARN", "No endpoints found at 1 addresses")
        until(lambda: next(said) == none)
        assert next(said) == none
        stack.enter_context(serve_metrics(port, registry=metrics.registry))
        address = re.escape(f"127.0.0.1:{port}")
        load = "request_active_slots: 0, request_total_slots: 8, kv_active_blocks: .*4096"
        expected = rf'Aggregated metrics: .*name: "{address}".*ForwardPassMetrics {{ {load} }}'
        until(lambda: re.match(expected, next(said)[1]))


class Packed(BaseHTTPRequestHandler):
    """Answers with gzip, if it is asked for."""

    def do_GET(self):
        page = b"# TYPE depth gauge\ndepth 7\n"
        bodies = {
            "/metrics": gzip.compress(page),
            "/large": gzip.compress(page + b"#" * 100_000),
            "/broken": b"no gzip",
            "/other": page,
        }
        assert self.headers["Accept-Encoding"] == "gzip"
        self.send_response(200)
        self.send_header("Content-Encoding", "br" if self.path == "/other" else "gzip")
        self.end_headers()
        self.wfile.write(bodies[self.path])

    def log_message(self, *_):
        pass


def test_packed_pages_are_read_within_the_limit(stack, caplog):
    """A page in gzip is unpacked; one that is too large, none or another is named."""
    address = stack.enter_context(answering(Packed))
    lines = stack.enter_context(logged(caplog))
    paths = ("/metrics", "/large", "/broken", "/other")
    targets = [f"http://{address}{path}" for path in paths]
    with Fleet(targets=targets, max_page_bytes=1000, **QUICK) as fleet:
        until(lambda: samples(fleet.page()).get(("depth",)) == 7)
        for path, reason in (
            ("/large", "it has more than 1000 bytes (max_page_bytes)"),
            ("/broken", "it is no gzip: "),
            ("/other", 'it is encoded as "br"'),
        ):
            text = f"Skipping {address}{path}: {reason}"
            until(lambda text=text: any(line.startswith(text) for line in lines()), text)


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


def test_lists_in_yaml_and_by_pattern(stack, tmp_path):
    """Files that end in .yml are YAML, as Prometheus has them; `*` in a name finds new ones."""
    one, two = Worker(stack), Worker(stack)
    one.jobs.inc(1)
    two.jobs.inc(10)
    (tmp_path / "a.yml").write_text(f"# first\n- targets: ['{one.address}']\n  labels: {{a: b}}\n")
    with Fleet(file_sd=[tmp_path / "*.yml"], **QUICK) as fleet:
        until(lambda: totals(fleet) == 1)
        (tmp_path / "b.yml").write_text(f"- targets:\n  - {two.address}\n")
        (tmp_path / "c.json").write_text("not looked at")
        until(lambda: totals(fleet) == 11)


class Names:
    """A DNS server of a few records, by name and type."""

    A, SRV = 1, 33

    def __init__(self):
        self.records = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                query, sender = self.socket.recvfrom(4096)
                self.socket.sendto(self.answer(query), sender)
            except OSError:  # it was closed
                return

    def answer(self, query):
        end = query.index(0, 12) + 5
        name, (kind,) = query[12 : end - 5], struct.unpack(">H", query[end - 4 : end - 2])
        found = self.records.get((name.lower(), kind), [])
        known = any(name.lower() == of for of, _ in self.records)
        counts = (0x8180 if known else 0x8183, 1, len(found), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHI", kind, 1, 0)
        answers = (record + struct.pack(">H", len(data)) + data for data in found)
        return query[:2] + struct.pack(">5H", *counts) + query[12:end] + b"".join(answers)


def encoded(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))


def srv(host, port):
    return struct.pack(">3H", 0, 0, port) + encoded(host) + b"\0"


def test_names_of_services_are_looked_up(stack, caplog):
    """SRV records name hosts and ports, a name has addresses; without records there are none."""
    workers = [Worker(stack) for _ in range(3)]
    ports = []
    for worker, count in zip(workers, (1, 10, 100), strict=True):
        worker.jobs.inc(count)
        ports.append(int(worker.address.rpartition(":")[2]))
    names = Names()
    stack.callback(names.socket.close)
    service, host = encoded("_metrics._tcp.fleet.test"), encoded("fleet.test")
    names.records[host, Names.A] = [bytes([127, 0, 0, 1])]
    names.records[service, Names.SRV] = [srv("localhost", ports[0])]
    lines = stack.enter_context(logged(caplog))
    places = ["_metrics._tcp.fleet.test", f"fleet.test:{ports[2]}"]
    with Fleet(dns=places, dns_server=names.address, **QUICK) as fleet:
        until(lambda: totals(fleet) == 101)
        names.records[service, Names.SRV] = [srv("localhost", ports[1])]
        until(lambda: totals(fleet) == 111)
        until(lambda: f"localhost:{ports[0]} is named no more" in lines())
        del names.records[service, Names.SRV]
        until(lambda: f"localhost:{ports[1]} is named no more" in lines())
        names.socket.close()
        workers[2].jobs.inc(100)
        until(lambda: totals(fleet) == 211)  # who is named stays so while nobody answers


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
        ({"dns": ["name:x"]}, 'dns is "name:x"; it must be NAME:PORT, or NAME for its SRV'),
        ({"dns_server": "name"}, 'dns_server is "name"; it must be an address'),
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
