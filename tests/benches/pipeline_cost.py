"""What a pipeline's statistics cost: an event, and an engine's throughput with and without.

An event is one of the eight of a request of two stages with a transfer, in CPU time, into the
tables and the families, and into the buffer of a worker. The engine's requests are of the toy
model, one after the other: turns with the statistics (the two ends of a request, a stage of its own
and its figures, and the page's tables after each turn) and turns without alternate. Losing 3 % is
what SGLang's statistics in its log took from it.

Run: python tests/benches/pipeline_cost.py [--rounds 15] [--requests 200]
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

from ryot_metrics import Engine, SamplingParams
from ryot_metrics.pipeline import PipelineEvents, PipelineStats

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = 8
LIMIT = 0.97
"""The share of its throughput that an engine must keep."""


def request(calls: PipelineStats | PipelineEvents, name: str) -> None:
    """The events of a request of two stages."""
    calls.request_started(name)
    calls.stage_started(name, "draft")
    calls.stage_finished(name, "draft", num_tokens_in=10, num_tokens_out=40)
    calls.transfer_sent(name, "draft", "rewrite", size_bytes=160, tx_ns=1_000)
    calls.transfer_received(name, "draft", "rewrite", size_bytes=160, rx_decode_ns=1_000)
    calls.stage_started(name, "rewrite")
    calls.stage_finished(name, "rewrite", num_tokens_in=40, num_tokens_out=30)
    calls.request_finished(name)


def event_ns(calls: PipelineStats | PipelineEvents, turn: int, count: int) -> float:
    """Nanoseconds of CPU for an event, over so many requests."""
    names = [f"{turn}-{number}" for number in range(count)]
    began = thread_time()
    for name in names:
        request(calls, name)
    return (thread_time() - began) * 1e9 / (count * EVENTS)


def throughput(engine: Engine, count: int, stats: PipelineStats | None, turn: int) -> float:
    """Requests a second of the engine; with statistics, if there are any."""
    sampling = SamplingParams(max_tokens=16, ignore_eos=True)
    began = perf_counter()
    for number in range(count):
        if stats is None:
            engine.generate("to be or not to be", sampling)
            continue
        with stats.request(f"{turn}-{number}") as request, request.stage("0") as stage:
            answer = engine.generate("to be or not to be", sampling)
            stage.num_tokens_in = answer.prompt_tokens
            stage.num_tokens_out = answer.token_count
    if stats is not None:
        stats.tables(reset=True).text()
    return count / (perf_counter() - began)


def median(measure: Callable[[int], float], rounds: int) -> float:
    """The median of so many turns."""
    return statistics.median(map(measure, range(rounds)))


def main() -> None:
    """Measure, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    rounds, count = options.rounds, options.requests
    stats, events = PipelineStats(["draft", "rewrite"]), PipelineEvents()
    for what, calls in (("tables and families", stats), ("buffer", events)):
        cost = median(lambda turn, calls=calls: event_ns(calls, turn, 10 * count), rounds)
        print(f"{what}: {cost:,.0f} ns an event, {1e9 / cost:,.0f} events/s")
    ratios = []
    with Engine("toy") as engine:
        own = PipelineStats(["0"])
        for turn in range(rounds):
            order = [None, own] if turn % 2 else [own, None]
            rates = {stats is None: throughput(engine, count, stats, turn) for stats in order}
            ratios.append(rates[False] / rates[True])
    kept = statistics.median(ratios)
    print(
        f"the engine keeps {kept:.3f} of its throughput ({min(ratios):.3f} to {max(ratios):.3f});"
        f" {'above' if kept > LIMIT else 'below'} {LIMIT}"
    )


if __name__ == "__main__":
    main()
