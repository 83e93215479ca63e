"""A pipeline whose stages are processes: their events come along with their outputs."""

from __future__ import annotations

import multiprocessing
from itertools import pairwise
from typing import Any

from ryot_metrics.pipeline import PipelineEvents, PipelineStats

STAGES = ["thinker", "talker", "vocoder"]
REQUESTS = 20


def work(place: int, inbox: Any, outbox: Any, results: Any) -> None:
    """A stage: it doubles what comes, sends it on, and sends its events to the tables."""
    events, stage = PipelineEvents(), STAGES[place]
    while True:
        message = inbox.recv()
        if message is None:
            break
        request, payload = message
        if place > 0:
            with events.receiving(request, STAGES[place - 1], stage):
                text = payload.decode()
        else:
            text = payload.decode()
        with events.stage(request, stage) as block:
            block.num_tokens_in = len(text)
            text *= 2
            block.num_tokens_out = len(text)
        if outbox is not None:
            with events.sending(request, stage, STAGES[place + 1]) as sent:
                sent.size_bytes = len(text)
                outbox.send((request, text.encode()))
        results.put((request, events.to_wire(request)))
    if outbox is not None:
        outbox.send(None)


def test_three_processes():
    """Tokens, bytes and times of three processes are in the tables of a fourth; all add up."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    pipes = [context.Pipe(duplex=False) for _ in STAGES]
    writers = [writer for _, writer in pipes]
    workers = [
        context.Process(target=work, args=(place, reader, following, results))
        for place, ((reader, _), following) in enumerate(
            zip(pipes, [*writers[1:], None], strict=True)
        )
    ]
    for worker in workers:
        worker.start()
    stats = PipelineStats(STAGES, record=False)
    missing = {}
    for number in range(REQUESTS):
        name = f"r{number}"
        stats.request_started(name)
        missing[name] = len(STAGES)
        writers[0].send((name, b"x" * (number + 1)))
    writers[0].send(None)
    taken = 0
    while missing:
        name, lines = results.get(timeout=60)
        taken += stats.feed(lines)
        assert stats.feed(lines) == 0, "a second delivery changes nothing"
        missing[name] -= 1
        if missing[name] == 0:
            stats.request_finished(name)
            del missing[name]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert taken == REQUESTS * (2 * len(STAGES) + 2 * (len(STAGES) - 1))
    tables = stats.tables()
    assert tables.overall.e2e_requests == REQUESTS
    in_flight = []  # none, where a receiver is there before its sender's block has ended
    for number in range(REQUESTS):
        name, size = f"r{number}", number + 1
        request, edges = tables.requests[name], tables.transfers[name]
        assert request.e2e_total_tokens == size * (1 + 2 + 4 + 8)
        assert [edge.size_bytes for edge in edges.values()] == [2 * size, 4 * size]
        assert list(edges) == [f"{a}->{b}" for a, b in pairwise(STAGES)]
        assert all(edge.in_flight_time_ms < request.e2e_total_ms for edge in edges.values())
        in_flight += [edge.in_flight_time_ms for edge in edges.values()]
        parts = [
            edge.tx_time_ms + edge.rx_decode_time_ms + edge.in_flight_time_ms
            for edge in edges.values()
        ]
        assert abs(sum(parts) - request.transfers_total_time_ms) < 1e-9
        assert list(tables.stages[name]) == STAGES
    assert any(time > 0 for time in in_flight)
