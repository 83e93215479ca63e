"""The tables of finished requests: real figures, the sums of the document, nothing lost."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest

from fakes import ScriptedEngine
from ryot_metrics.serve import create_app
from ryot_metrics.serve.stats import SHOWN_MAX, Finished, StatsLog
from ryot_metrics.tables import table

COMPLETIONS = "/v1/completions"


def figures(text: str) -> dict[str, str]:
    """The fields of a table with one column."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    return {field.strip(): value.strip() for _, field, value, _ in rows[1:]}


def call(number: int, started: float, finished: float) -> Finished:
    """A call with a hundred tokens in and some out; its times are in seconds."""
    begun = round(started * 1e9)
    return Finished(
        str(number), begun, begun + 250_000_000, round(finished * 1e9), 100, 10 * number, 1
    )


def test_sums() -> None:
    """The overall figures follow from the calls; overlapping calls share the wall time."""
    printed: list[str] = []
    log = StatsLog(60, printed.append)
    log(call(1, 1.0, 3.0))
    log(call(2, 2.0, 5.0))
    log.print()
    overall, first, stage, *_ = (figures(text) for text in printed[0].split("\n["))
    assert overall == {
        "e2e_requests": "2",
        "e2e_wall_time_ms": "4,000.000",
        "e2e_total_tokens": "230",
        "e2e_avg_time_per_request_ms": "2,000.000",
        "e2e_avg_tokens_per_s": "57.500",
        "stage_wall_time_ms": "[4,000.000]",
    }
    assert first == {
        "e2e_total_ms": "2,000.000",
        "e2e_total_tokens": "110",
        "transfers_total_time_ms": "0.000",
        "transfers_total_bytes": "0",
    }
    assert stage == {
        "batch_id": "0",
        "batch_size": "1",
        "num_tokens_in": "100",
        "num_tokens_out": "10",
        "preprocess_time_ms": "250.000",
        "stage_gen_time_ms": "2,000.000",
    }


def test_columns_of_a_table() -> None:
    """Several columns stand beside each other; a field that one lacks is blank there."""
    assert table("Edges", {"0->1": {"a": 1}, "1->2": {"a": 2, "b": 0.5}}) == "\n".join(
        [
            "[Edges]",
            "+-------+------+-------+",
            "| Field | 0->1 |  1->2 |",
            "+-------+------+-------+",
            "| a     |    1 |     2 |",
            "| b     |      | 0.500 |",
            "+-------+------+-------+",
        ]
    )


def test_every_call_is_printed_once() -> None:
    """What finished is printed at the next time, the numbers go on; silence prints nothing."""
    printed: list[str] = []
    log = StatsLog(60, printed.append)
    for number in range(SHOWN_MAX + 2):
        log(call(number, 0.0, 1.0))
    log.print()
    log.print()
    log(call(SHOWN_MAX + 2, 0.0, 1.0))
    log.print()
    first, second = printed
    assert figures(first.split("\n[Request")[0])["e2e_requests"] == str(SHOWN_MAX + 2)
    assert first.count("[StageRequestStats") == SHOWN_MAX
    assert first.endswith("and 2 more requests")
    assert f"| batch_id           | {SHOWN_MAX + 2:>9} |" in second


def test_printed_from_time_to_time_and_at_the_end() -> None:
    """A thread prints while the block runs; what finished last is printed when it ends."""
    printed: list[str] = []
    seen = threading.Event()

    def write(text: str) -> None:
        printed.append(text)
        seen.set()

    with StatsLog(0.01, write) as log:
        log(call(1, 0.0, 1.0))
        assert seen.wait(10)
    with StatsLog(1000, write) as log:
        log(call(2, 0.0, 1.0))
    assert ["[request_id=1]" in printed[0], "[request_id=2]" in printed[1]] == [True, True]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_time_that_never_comes_is_refused(seconds: float) -> None:
    """The time between two prints must be a positive number of seconds."""
    with pytest.raises(ValueError, match=r"log_stats is .*; it must be above 0 seconds"):
        StatsLog(seconds)


@pytest.mark.asyncio
@pytest.mark.parametrize("stream", [False, True])
async def test_figures_of_an_answer(engine: Any, stream: bool) -> None:
    """Whole or streamed, an answer is reported once, with the tokens of its usage."""
    calls: list[Finished] = []
    transport = httpx.ASGITransport(create_app(engine, on_answer=calls.append))
    body = {"prompt": ["one", "three"], "max_tokens": 4, "ignore_eos": True, "stream": stream}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        await client.post(COMPLETIONS, json=body)
        await client.post(COMPLETIONS, json={**body, "prompt": []})
    (finished,) = calls
    assert (finished.tokens_in, finished.tokens_out, finished.batch_size) == (8, 8, 2)
    assert finished.started <= finished.submitted <= finished.finished


@pytest.mark.asyncio
async def test_what_did_not_finish_is_not_reported() -> None:
    """An answer that the engine gave up is no completed request."""
    calls: list[Finished] = []
    engine: Any = ScriptedEngine(["a"], end="cancelled")
    transport = httpx.ASGITransport(create_app(engine, on_answer=calls.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.post(COMPLETIONS, json={"prompt": "p"})).status_code == 503
    assert calls == []
