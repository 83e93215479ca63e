"""A fleet on a real NATS server: workers, aggregator and commands, beside `nats-py`."""

import asyncio
import contextlib
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import nats
import nats.micro
import pytest
from nats.micro.service import (
    EndpointConfig,
    ServiceConfig,
    ServiceInfo,
    ServicePing,
    ServiceStats,
)
from prometheus_client.parser import text_string_to_metric_families

from nats_server import nats_server, until
from ryot_metrics import Engine, SamplingParams, cli
from ryot_metrics.fleet import Fleet, Load, NatsServer, mock_workers, publish
from test_prometheus import free_port

SERVICE = "dynemo_backend_2ee707d8"
SOON = {"poll_interval": 0.1, "stale_after": 0.5}
FAMILIES = [
    "llm_kv_blocks_active",
    "llm_kv_blocks_total",
    "llm_requests_active_slots",
    "llm_requests_total_slots",
    "llm_kv_hit_rate_percent",
    "llm_kv_hit_rate_isl_blocks",
    "llm_kv_hit_rate_overlap_blocks",
    "llm_load_avg",
    "llm_load_std",
]


@pytest.fixture
def server():
    with nats_server() as url:
        yield url


def figures(fleet, name):
    """A family's samples, by worker."""
    for family in text_string_to_metric_families(fleet.page()):
        if family.name == name:
            return {sample.labels.get("worker_id"): sample.value for sample in family.samples}
    return {}


def test_two_workers_give_the_document_s_figures(server):
    """77 and 29 active blocks are on the page with mean 53 and deviation 24, and hits by worker."""
    with (
        publish(lambda: Load(58, 100, 77, 100, 10, 6), nats=server, worker_id=1),
        publish(
            lambda: {
                "request_active_slots": 71,
                "request_total_slots": 100,
                "kv_active_blocks": 29,
                "kv_total_blocks": 100,
            },
            nats=server,
            worker_id=2,
        ),
        Fleet(nats=server, **SOON) as fleet,
    ):
        until(lambda: figures(fleet, "llm_load_avg") == {None: 53.0})
        assert figures(fleet, "llm_load_std") == {None: 24.0}
        assert figures(fleet, "llm_kv_blocks_active") == {"1": 77.0, "2": 29.0}
        workers = fleet.workers()
        assert (workers.load_avg, workers.load_std) == (53.0, 24.0)
        first = workers.endpoints[0]
        assert (first.name, first.subject) == ("worker-1", f"{SERVICE}.generate-1")
        assert (first.request_active_slots, first.kv_total_blocks) == (58, 100)
        until(lambda: figures(fleet, "llm_kv_hit_rate_percent") == {"1": 60.0})


def test_a_worker_that_stops_leaves_no_series(server):
    """Within `stale_after`, a stopped worker's series have gone, and the last takes the load."""
    with Fleet(nats=server, **SOON) as fleet:
        with mock_workers(2, seed=1, nats=server, event_interval=0.05):
            until(lambda: len(figures(fleet, "llm_kv_hit_rate_isl_blocks")) == 2)
            until(lambda: len(figures(fleet, "llm_kv_blocks_active")) == 2)
        until(lambda: fleet.workers().endpoints == [])
        assert "llm_" not in fleet.page()


def test_an_engine_tells_its_load_in_two_lines(server):
    """The cells and slots of a real engine are a worker's, and its prefix cache's hits events."""
    with (
        Engine("toy") as engine,
        publish(engine, nats=server, event_interval=0.05) as worker,
        Fleet(nats=server, **SOON) as fleet,
    ):
        name = str(worker.ids[0])
        until(lambda: name in figures(fleet, "llm_kv_blocks_total"))
        assert figures(fleet, "llm_kv_blocks_total") == {name: 4096.0}
        assert figures(fleet, "llm_requests_total_slots") == {name: 8.0}
        for _ in range(2):
            engine.generate("the same beginning " * 20, SamplingParams(max_tokens=2))
        until(lambda: figures(fleet, "llm_kv_hit_rate_overlap_blocks").get(name, 0) > 0)
        assert 0 < figures(fleet, "llm_kv_hit_rate_percent")[name] < 100
        engine.shutdown()
        until(lambda: figures(fleet, "llm_kv_blocks_total") == {})


@contextmanager
def logged(caplog):
    with caplog.at_level(logging.DEBUG, "ryot_metrics.fleet"):
        yield lambda: [record.getMessage() for record in caplog.records]


def test_nonsense_is_named_and_skipped(server, caplog):
    """A worker that raises, and events that are no events, are named; others are unharmed."""

    def broken():
        raise RuntimeError("no figures today")

    with (
        logged(caplog) as lines,
        publish(broken, nats=server, worker_id=5),
        publish(lambda: Load(1, 2, 3, 4), nats=server, worker_id=6),
        Fleet(nats=server, **SOON) as fleet,
    ):
        until(lambda: figures(fleet, "llm_kv_blocks_active") == {"6": 3.0})
        expected = 'Skipping worker-5: it could not tell its load: "RuntimeError: no figures today"'
        until(lambda: expected in lines())

        async def send():
            client = await nats.connect(server)
            await client.publish("dynemo.kv-hit-rate", b'{"worker_id": "six"}')
            await client.drain()

        asyncio.run(send())
        until(lambda: any("Skipping an event on dynemo.kv-hit-rate" in line for line in lines()))
        failures = {
            sample.labels["reason"]: sample.value
            for family in text_string_to_metric_families(fleet.page())
            if family.name == "ryot_fleet_failures"
            for sample in family.samples
        }
        assert failures["nonsense"] >= 2


def test_nats_py_s_service_is_a_worker(server):
    """A micro-service of the official Python client is read, and its events count."""
    load = dict.fromkeys(Load._fields[:4], 3)

    async def handle(request):
        await request.respond(b"")

    async def serve(fleet):
        client = await nats.connect(server)
        config = ServiceConfig(name=SERVICE, version="0.0.1", stats_handler=lambda _: load)
        service = await nats.micro.add_service(client, config)
        subject = f"{SERVICE}.generate-1f"
        await service.add_endpoint(EndpointConfig("generate-1f", handle, subject=subject))
        event = {"worker_id": 31, "isl_blocks": 8, "overlap_blocks": 2}
        await client.publish("dynemo.kv-hit-rate", json.dumps(event).encode())
        rate = {"31": 25.0}
        await asyncio.to_thread(until, lambda: figures(fleet, "llm_kv_hit_rate_percent") == rate)
        await asyncio.to_thread(until, lambda: figures(fleet, "llm_load_avg") == {None: 3.0})
        await service.stop()
        await client.drain()

    with Fleet(nats=server, **SOON) as fleet:
        until(lambda: asks(server, "dynemo.components.metrics.instance"))
        asyncio.run(serve(fleet))


def asks(server, subject):
    """The answers to a question on NATS within a fifth of a second."""

    async def ask():
        client = await nats.connect(server)
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish(subject, b"", reply=inbox)
        answers = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                answers.append((await subscription.next_msg(timeout=0.2)).data)
        await client.close()
        return [answer for answer in answers if answer]

    return asyncio.run(ask())


def test_nats_py_reads_our_workers(server):
    """The official client's own types take a worker's answers to PING, INFO and STATS."""
    with publish(lambda: Load(1, 2, 3, 4), nats=server, worker_id=31):
        until(lambda: asks(server, "$SRV.PING"))
        for subject in ("$SRV.PING", f"$SRV.PING.{SERVICE}", f"$SRV.PING.{SERVICE}.1f"):
            (answer,) = asks(server, subject)
            assert ServicePing.from_dict(json.loads(answer)).id == "1f"
        assert asks(server, f"$SRV.PING.{SERVICE}.20") == []
        (answer,) = asks(server, f"$SRV.INFO.{SERVICE}")
        info = ServiceInfo.from_dict(json.loads(answer))
        assert info.endpoints[0].subject == f"{SERVICE}.generate-1f"
        (answer,) = asks(server, f"$SRV.STATS.{SERVICE}")
        stats = ServiceStats.from_dict(json.loads(answer))
        assert stats.endpoints[0].data == dict(zip(Load._fields[:4], (1, 2, 3, 4), strict=True))


def test_the_server_may_go_and_come_back(caplog):
    """Workers leave while NATS is away and are back with it; nobody has to be started again."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with (
        logged(caplog) as lines,
        Fleet(nats=url, **SOON) as fleet,  # before there is a server
        publish(lambda: Load(1, 2, 3, 4), nats=url, worker_id=1),
    ):
        until(lambda: any("No endpoints found" in line for line in lines()))
        for _ in range(2):
            with nats_server(port):
                until(lambda: figures(fleet, "llm_load_avg") == {None: 3.0})
            until(lambda: "llm_" not in fleet.page())
        assert f"Lost the connection to {url}" in lines()
        until(lambda: "worker-1 has gone" in lines())


def test_a_worker_that_stalls_costs_only_its_own_freshness(server):
    """While one callable hangs, the other's figures stay fresh; it leaves, and comes back."""
    goes_on = threading.Event()
    goes_on.set()
    calls = 0

    def stalling():
        goes_on.wait(20)
        return Load(0, 1, 5, 10)

    def counting():
        nonlocal calls
        calls += 1
        return Load(0, 1, calls, 1_000_000)

    with (
        publish(stalling, nats=server, worker_id=1),
        publish(counting, nats=server, worker_id=2),
        Fleet(nats=server, **SOON) as fleet,
    ):
        until(lambda: figures(fleet, "llm_kv_blocks_active").get("1") == 5)
        goes_on.clear()
        until(lambda: set(figures(fleet, "llm_kv_blocks_total")) == {"2"})
        before = figures(fleet, "llm_kv_blocks_active")["2"]
        until(lambda: figures(fleet, "llm_kv_blocks_active")["2"] > before + 3)
        goes_on.set()
        until(lambda: figures(fleet, "llm_kv_blocks_active").get("1") == 5)


def lets_in(server, lines):
    """Whether a worker and an aggregator find each other there; no secret is logged."""
    with (
        publish(lambda: Load(1, 2, 3, 4), nats=server, worker_id=1),
        Fleet(nats=server, **SOON) as fleet,
    ):
        until(lambda: figures(fleet, "llm_load_avg") == {None: 3.0})
    assert not any("s3cret" in line for line in lines())


def test_nats_lets_in_by_user_and_password(caplog):
    """Both are given apart or in the URL; without them, or with others, the log says why not."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with logged(caplog) as lines, nats_server(port, "--user", "me", "--pass", "s3cret"):
        lets_in(NatsServer(url, user="me", password="s3cret"), lines)
        lets_in(url.replace("://", "://me:s3cret@"), lines)
        for wrong in (NatsServer(url), NatsServer(url, user="me", password="s3cret2")):
            caplog.clear()
            with Fleet(nats=wrong, **SOON):
                until(lambda: any("authorization violation" in line for line in lines()))
            assert not any("s3cret" in line for line in lines())


def test_nats_lets_in_by_a_token_and_over_tls(caplog, certificates):
    """A token is given apart or in the URL; certificates of both sides are checked."""
    port = free_port()
    files = {name: str(certificates / name) for name in ("ca.pem", "server.pem", "server.key")}
    options = ("--tlsverify", "--tlscert", files["server.pem"], "--tlskey", files["server.key"])
    url = f"tls://localhost:{port}"
    client = {
        "ca": files["ca.pem"],
        "certificate": certificates / "client.pem",
        "key": certificates / "client.key",
    }
    with (
        logged(caplog) as lines,
        nats_server(port, "--auth", "s3cret", *options, "--tlscacert", files["ca.pem"]),
    ):
        lets_in(NatsServer(url, token="s3cret", **client), lines)
        lets_in(NatsServer(url.replace("://", "://s3cret@"), tls=True, **client), lines)
        caplog.clear()
        with Fleet(nats=NatsServer(url, token="s3cret"), **SOON):
            until(lambda: any(line.startswith("Cannot reach") for line in lines()))


def test_a_nats_server_that_is_none_is_refused(tmp_path):
    """A file that is not there, and what does not go together, are named at once."""
    with pytest.raises(FileNotFoundError, match="no-such-file"):
        Fleet(nats=NatsServer(credentials=tmp_path / "no-such-file"))
    with pytest.raises(ValueError, match="a user has a password, and a password a user"):
        publish(lambda: Load(1, 2, 3, 4), nats=NatsServer("nats://a", user="me"))
    with pytest.raises(ValueError, match="it must be a URL such as nats://"):
        Fleet(nats="ftp://me:s3cret@a")


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z +(INFO|WARN) metrics: (.*)")


@contextmanager
def command(*arguments):
    """A running `ryot-metrics`, its standard error taken line by line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ryot_metrics", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
        assert (process.returncode, "Traceback" in rest) == (0, False)


def test_the_commands_say_what_the_document_says(server):
    """Without workers a warning each second; with a mock worker it stops, and the page is there."""
    port = free_port()
    trio = ("--namespace", "dynemo", "--component", "backend", "--endpoint", "generate")
    with command("fleet", *trio, "--nats", server, "--port", str(port)) as fleet:
        lines = (LINE.fullmatch(line.rstrip()) for line in fleet.stderr)
        said = (line.groups() for line in lines)
        start = [next(said) for _ in range(4)]
        place = "dynemo/components/metrics/instance"
        filtering = f"Scraping service {SERVICE} and filtering on subject {SERVICE}.generate"
        for line in (
            f"Creating unique instance of Metrics at {place}",
            filtering,
            f"Prometheus metrics at http://127.0.0.1:{port}/metrics",
        ):
            assert ("INFO", line) in start
        none = ("WARN", f"No endpoints found matching subject {SERVICE}.generate")
        assert [line for line in (next(said), next(said), next(said)) if line[0] == "WARN"][
            -2:
        ] == [
            none,
            none,
        ]
        with command("mock-worker", "--nats", server, "--seed", "7"):
            until(lambda: next(said)[1].startswith("Aggregated metrics: ProcessedEndpoints {"))
            following = [next(said) for _ in range(2)]
            assert all(text.startswith("Aggregated metrics: ") for _, text in following)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
                page = response.read().decode()
    shown = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE llm_")]
    assert shown == FAMILIES
    labels = r'\{component="backend",endpoint="generate",worker_id="\d+"\}'
    assert re.search(rf"^llm_kv_blocks_total{labels} 100\.0$", page, re.MULTILINE)


def test_a_second_aggregator_is_told_of_the_first(server, caplog):
    """Two aggregators of a namespace can run; the second one says that it is not alone."""
    with logged(caplog) as lines, Fleet(nats=server, **SOON):
        until(lambda: asks(server, "dynemo.components.metrics.instance"))
        with Fleet(nats=server, **SOON):
            told = "Another instance of Metrics is at dynemo/components/metrics/instance"
            until(lambda: told in lines())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["fleet", "--namespace", "a.b"], 'namespace is "a.b"; it must be of one letter at least'),
        (["fleet", "--poll-interval", "0"], "poll_interval is 0 s; it must be at least 0.1 s"),
        (["fleet", "--poll-interval", "-1"], "poll_interval is -1; it must be above 0 s"),
        (["fleet", "--port", "70000"], "port is 70000; it must be 0 to 65535"),
        (["mock-worker", "--event-interval", "0"], "event_interval is 0 s; it must be at least"),
        (["mock-worker", "--workers", "0"], "workers is 0; it must be 1 to 100000"),
    ],
)
def test_bad_options_are_named_with_their_limits(arguments, error, capsys):
    """A value out of range gives one line with its name, the value and the range."""
    assert cli.main(arguments) == 2
    assert error in capsys.readouterr().err


def test_a_mock_worker_can_be_repeated(server):
    """The same seed gives the same numbers and the same first loads; another gives others."""

    def first(seed):
        with mock_workers(3, seed=seed, nats=server) as workers:
            until(lambda: len(answers := asks(server, f"$SRV.STATS.{SERVICE}")) == 3 and answers)
            return workers.ids

    assert first(7) == first(7)
    assert first(7) != first(8)
