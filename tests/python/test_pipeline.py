"""Statistics of pipelines: the document's figures, blocks, families, events that are dropped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import fields

import pytest

from ryot_metrics import configure
from ryot_metrics.config import settings
from ryot_metrics.pipeline import (
    OverallSummary,
    PipelineEvents,
    PipelineStats,
    RequestE2EStats,
    StageRequestStats,
    TransferEdgeStats,
)
from ryot_metrics.testing import isolated

DOCUMENTED = {
    OverallSummary: [
        "e2e_requests",
        "e2e_wall_time_ms",
        "e2e_total_tokens",
        "e2e_avg_time_per_request_ms",
        "e2e_avg_tokens_per_s",
        "stage_wall_time_ms",
    ],
    RequestE2EStats: [
        "e2e_total_ms",
        "e2e_total_tokens",
        "transfers_total_time_ms",
        "transfers_total_bytes",
    ],
    StageRequestStats: [
        "batch_id",
        "batch_size",
        "num_tokens_in",
        "num_tokens_out",
        "preprocess_time_ms",
        "stage_gen_time_ms",
    ],
    TransferEdgeStats: ["size_bytes", "tx_time_ms", "rx_decode_time_ms", "in_flight_time_ms"],
}
STAGES = ["thinker", "talker", "vocoder"]


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_the_fields_are_those_of_the_document(kind):
    """Each table has exactly the document's fields, in its order."""
    assert [field.name for field in fields(kind)] == DOCUMENTED[kind]


def test_average_time_is_the_wall_time_over_the_requests():
    """Ten requests in 81,430.702 ms are 8,143.070 ms each."""
    stats = PipelineStats(["0"])
    for number in range(10):
        stats.request_started(str(number), 1_000 + number)
        stats.request_finished(str(number), at=1_000 + 8_143_070_200 * (number + 1))
    overall = stats.tables().overall
    assert (overall.e2e_requests, overall.e2e_wall_time_ms) == (10, 81_430.702)
    assert f"{overall.e2e_avg_time_per_request_ms:,.3f}" == "8,143.070"


def three_stages() -> PipelineStats:
    """The document's request of three stages: text, its speech's codes, and the sound."""
    stats = PipelineStats(STAGES)
    stats.request_started("r", 0)
    for stage, tokens_in, tokens_out in (("thinker", 4860, 67), ("talker", 67, 275)):
        stats.stage_started("r", stage, at=10)
        stats.stage_finished(
            "r", stage, num_tokens_in=tokens_in, num_tokens_out=tokens_out, at=5_000_010
        )
    stats.stage_started("r", "vocoder", at=0)
    stats.stage_finished("r", "vocoder", num_tokens_in=275, preprocess_ns=7_000, at=1_000_000)
    edge = {"size_bytes": 2_048, "tx_ns": 92_581_000}
    stats.transfer_sent("r", "thinker", "talker", **edge)
    edge = {"rx_decode_ns": 60_000_000, "in_flight_ns": 40_000_000}
    stats.transfer_received("r", "thinker", "talker", size_bytes=2_048, **edge)
    edge = {"rx_decode_ns": 50_000_000, "in_flight_ns": 3_315_000}
    stats.transfer_received("r", "talker", "vocoder", size_bytes=512, **edge)
    stats.request_finished("r", at=41_299_190_000)
    return stats


def test_tokens_and_transfers_add_up():
    """4,860 in and 67 + 275 + 0 out are 5,202; the edges' 192.581 and 53.315 ms are 245.896."""
    tables = three_stages().tables()
    assert tables.overall.e2e_total_tokens == 5_202
    assert f"{tables.overall.e2e_avg_tokens_per_s:.3f}" == "125.959"
    request = tables.requests["r"]
    assert (request.e2e_total_tokens, request.e2e_total_ms) == (5_202, 41_299.190)
    assert (request.transfers_total_time_ms, request.transfers_total_bytes) == (245.896, 2_560)


def test_the_log_s_form():
    """The four tables as lines: fields by name, stages and edges as columns."""
    text = three_stages().tables().text()
    assert text.splitlines()[0] == "[Overall Summary]"
    start = text.index("[StageRequestStats")
    assert text[start:] == "\n".join(
        [
            "[StageRequestStats [request_id=r]]",
            "+--------------------+---------+--------+---------+",
            "| Field              | thinker | talker | vocoder |",
            "+--------------------+---------+--------+---------+",
            "| batch_id           |       0 |      0 |       0 |",
            "| batch_size         |       1 |      1 |       1 |",
            "| num_tokens_in      |   4,860 |     67 |     275 |",
            "| num_tokens_out     |      67 |    275 |       0 |",
            "| preprocess_time_ms |   0.000 |  0.000 |   0.007 |",
            "| stage_gen_time_ms  |   5.000 |  5.000 |   1.000 |",
            "+--------------------+---------+--------+---------+",
            "[TransferEdgeStats [request_id=r]]",
            "+-------------------+-----------------+-----------------+",
            "| Field             | thinker->talker | talker->vocoder |",
            "+-------------------+-----------------+-----------------+",
            "| in_flight_time_ms |          40.000 |           3.315 |",
            "| rx_decode_time_ms |          60.000 |          50.000 |",
            "| size_bytes        |           2,048 |             512 |",
            "| tx_time_ms        |          92.581 |           0.000 |",
            "+-------------------+-----------------+-----------------+",
        ]
    )


def test_json_has_the_same():
    """The JSON's fields are those of the dataclasses."""
    found = json.loads(three_stages().tables().json())
    assert found["overall"]["stage_wall_time_ms"] == [5.0, 5.0, 1.0]
    assert found["stages"]["r"]["talker"]["num_tokens_out"] == 275


def test_nothing_gives_zeros_and_a_reset_begins_anew():
    """A zero divisor gives 0; after a reset, only open requests are known."""
    stats = three_stages()
    stats.request_started("open")
    assert stats.tables(reset=True).overall.e2e_requests == 1
    empty = stats.tables()
    assert empty.overall == OverallSummary(0, 0.0, 0, 0.0, 0.0, [0.0, 0.0, 0.0])
    assert (empty.requests, stats.open_requests) == ({}, 1)


def test_a_stage_that_is_visited_again_has_a_second_column():
    """Further visits are told apart, and both count."""
    stats = PipelineStats(["draft"])
    with stats.request("r") as request:
        for visit in range(2):
            with request.stage("draft", visit=visit) as stage:
                stage.num_tokens_in, stage.num_tokens_out = 3, 4
    tables = stats.tables()
    assert list(tables.stages["r"]) == ["draft", "draft_2"]
    assert tables.overall.e2e_total_tokens == 14


@pytest.mark.asyncio
async def test_blocks_of_coroutines():
    """`async with` times what is awaited within, for requests that overlap."""
    stats = PipelineStats(["draft", "rewrite"])
    both = asyncio.Barrier(2) if sys.version_info >= (3, 11) else None

    async def serve(name):
        async with stats.request(name) as request:
            async with request.stage("draft") as draft:
                draft.num_tokens_out = 5
                draft.preprocessed()
                if both is not None:
                    await both.wait()
            async with request.sending("draft", "rewrite") as sent:
                sent.size_bytes = 9
            async with request.receiving("draft", "rewrite"):
                await asyncio.sleep(0)

    await asyncio.gather(serve("a"), serve("b"))
    tables = stats.tables()
    assert tables.overall.e2e_total_tokens == 10
    for name in ("a", "b"):
        edge = tables.transfers[name]["draft->rewrite"]
        assert edge.size_bytes == 9
        assert min(edge.tx_time_ms, edge.rx_decode_time_ms, edge.in_flight_time_ms) > 0
        stage = tables.stages[name]["draft"]
        assert 0 < stage.preprocess_time_ms <= stage.stage_gen_time_ms


class OwnError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "in_stage", "outcome"),
    [
        (None, False, "completed"),
        (asyncio.CancelledError(), True, "client_abort"),
        (KeyboardInterrupt(), False, "client_abort"),
        (BrokenPipeError(), False, "client_disconnect"),
        (OwnError(), True, "stage_error"),
        (OwnError(), False, "unknown"),
    ],
)
def test_how_a_block_ends(error, in_stage, outcome):
    """Each end is one of five outcomes; the exception goes on; only completed ones have tables."""
    with isolated() as metrics:
        stats = PipelineStats(["draft"], model="m")
        try:
            with stats.request("r") as request:
                if in_stage:
                    with request.stage("draft"):
                        raise error
                if error is not None:
                    raise error
        except BaseException as caught:
            assert caught is error
        metrics.assert_metric("ryot_pipeline_requests_total", {"outcome": outcome}, delta=1)
        metrics.assert_metric("ryot_pipeline_active_requests", {"model": "m"}, value=0)
        assert stats.tables().overall.e2e_requests == (outcome == "completed")


def test_a_reason_that_nobody_knows_is_unknown():
    """The reasons of failures are a closed set."""
    with isolated() as metrics:
        stats = PipelineStats(["draft"])
        stats.request_started("r")
        stats.request_finished("r", "the cat")
        metrics.assert_metric("ryot_pipeline_requests_total", {"outcome": "unknown"}, delta=1)


GARBAGE = [None, -1, 2**64, 1.5, "x", object(), [], float("nan")]


def test_no_call_raises(caplog):
    """Whatever is said: it is dropped, counted, and named once for each reason."""
    with isolated() as metrics:
        stats = PipelineStats(["draft"])
        for thing in GARBAGE:
            stats.request_started(thing, thing)
            stats.stage_started("r", thing, visit=thing)
            stats.stage_finished("r", "draft", num_tokens_in=thing, at=thing)
            stats.transfer_sent("nobody", thing, thing, size_bytes=thing)
            stats.transfer_received("r", "a", "b", in_flight_ns=thing)
            stats.request_finished(thing, thing, thing)
            assert stats.feed(thing) == 0
            assert stats.feed({"event": "stage_started", "stage": thing}) == 0
        for wire in ("{}", "[1]\n", b"\xff", '{"event":"request_started","at":1}', "\ud800"):
            assert stats.feed(wire) == 0
        dropped = metrics.registry.get_sample_value
        before = dropped("ryot_metrics_dropped_total", {"reason": "invalid_value"})
        assert before > 30
        metrics.registry.collect()
        lines = [record.message for record in caplog.records if "ryot_pipeline" in record.message]
        assert len(lines) == len(set(lines)) <= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recent": -1}, "recent is -1; it must be 1 to 100000"),
        ({"recent": 100_001}, "recent is 100001; it must be 1 to 100000"),
        ({"max_open": 0}, "max_open is 0; it must be 1 to 1000000"),
    ],
)
def test_limits_have_limits(options, message):
    """A limit out of its range is refused with both numbers."""
    with pytest.raises(ValueError, match=message):
        PipelineStats(["draft"], **options)


def test_the_settings_are_the_limits_of_what_is_made_then():
    """`configure` says what is kept where the constructor does not, and refuses what it would."""
    configure(pipeline_recent=2, pipeline_max_open=1, pipeline_max_buffered=1)
    try:
        stats, told, events = PipelineStats(["0"]), PipelineStats(["0"], recent=3), PipelineEvents()
        for number in range(4):
            for of in (stats, told):
                of.request_started(str(number), number)
                of.request_finished(str(number), at=number + 1)
        assert (len(stats.tables().requests), len(told.tables().requests)) == (2, 3)
        stats.request_started("a", 9)
        stats.request_started("b", 9)
        assert stats.open_requests == 1
        events.stage_started("a", "0", at=1)
        events.stage_started("b", "0", at=1)
        assert len(events.to_wire().splitlines()) == 1
        for name, most in (("recent", 100_000), ("max_open", 1_000_000), ("max_buffered", 10**7)):
            for bad in (-1, 0, most + 1):
                message = f"pipeline_{name} is {bad}; it must be 1 to {most}"
                with pytest.raises(ValueError, match=message):
                    configure(**{f"pipeline_{name}": bad})
    finally:
        configure(pipeline_recent=None, pipeline_max_open=None, pipeline_max_buffered=None)
    assert settings().pipeline_recent == 256


def test_what_nobody_fetches_does_not_grow():
    """A buffer has its limit; the oldest events go, and are counted."""
    with isolated() as metrics:
        events = PipelineEvents(max_buffered=10)
        for number in range(100):
            events.stage_started(str(number), "draft", at=number)
        metrics.assert_metric("ryot_metrics_dropped_total", {"reason": "pipeline_full"}, delta=90)
        lines = [json.loads(line) for line in events.to_wire().splitlines()]
        assert [line["request"] for line in lines] == [str(number) for number in range(90, 100)]


def test_threads_share_the_tables():
    """Four threads with requests of their own lose none of them."""
    stats = PipelineStats(["draft"], recent=1_000)

    def serve(thread):
        for number in range(200):
            with stats.request(f"{thread}-{number}") as request, request.stage("draft") as stage:
                stage.num_tokens_in, stage.num_tokens_out = 1, 2

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    overall = stats.tables().overall
    assert (overall.e2e_requests, overall.e2e_total_tokens) == (800, 2_400)


FORKS = """
import json, os
from ryot_metrics.pipeline import PipelineEvents, PipelineStats
events = PipelineEvents()
events.stage_started("r", "draft", at=1)
reader, writer = os.pipe()
if os.fork() == 0:
    events.stage_finished("r", "draft", num_tokens_out=5, at=3)
    os.write(writer, events.to_wire().encode())
    os._exit(0)
os.wait()
stats = PipelineStats(["draft"])
stats.request_started("r")
assert stats.feed(os.read(reader, 10_000)) == 1
assert stats.feed(events.to_wire()) == 1
stats.request_finished("r")
print(stats.tables().overall.e2e_total_tokens)
"""


def test_a_forked_worker_sends_its_own_events():
    """What waited before the fork is the parent's to send; the child's are its own."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("5\n", "")
