"""What a request suffers from others, and the process from the engine."""

from __future__ import annotations

import time
from itertools import takewhile
from random import Random
from threading import Event, Thread

from .client import Answer, Peer, follow, of_kind, play, tokens_per_second
from .figures import Figure, Samples
from .peers import Ours, Size
from .scenario import Scenario
from .trace import Ask, arrivals, text

MILLISECONDS = 1e3


def stall(peer: Peer, seed: int) -> Samples:
    """Four answers are under way when a cold prompt of 1,500 tokens comes."""
    random = Random(seed)
    asks = [
        Ask(0.0, text(random, 24), 192, kind="stream", tbt_ms=90.0, ttft_ms=2_000.0)
        for _ in range(4)
    ]
    asks.append(Ask(2.0, text(random, 1_500), 16, kind="long"))
    answers = play(peer, asks)
    (long,) = of_kind(answers, "long")
    while_it_comes = long.due, long.stamps[0]
    streams = of_kind(answers, "stream")
    return {
        "gap": [gap * MILLISECONDS for one in streams for gap in one.gaps(*while_it_comes)],
        "ttft": [long.ttft],
        "rate": [tokens_per_second(answers)],
    }


def behind(peer: Peer, seed: int) -> Samples:
    """Short requests come, two in three seconds, after four prompts of 1,000 tokens did."""
    random = Random(seed)
    asks = [Ask(0.0, text(random, 1_000), 32, kind="long", priority="background") for _ in range(4)]
    for at in takewhile(lambda at: at < 16.0, arrivals(random, 2 / 3)):
        asks.append(Ask(0.5 + at, text(random, 24), 8, ttft_ms=500.0, tbt_ms=150.0))
    answers = play(peer, asks)
    return {
        "ttft": [one.ttft * MILLISECONDS for one in of_kind(answers, "chat")],
        "long": [max(one.ended - one.due for one in of_kind(answers, "long"))],
        "rate": [tokens_per_second(answers)],
    }


def cancel(peer: Ours, seed: int) -> Samples:
    """Prompts of 1,000 tokens are cancelled on the way, alone and beside a running answer."""
    random = Random(seed)
    alone = [_cancel_once(peer, random) for _ in range(20)]
    halt = Event()
    stream = Answer(Ask(0.0, text(random, 24), 2_000, tbt_ms=60.0), time.perf_counter())
    thread = Thread(target=follow, args=(peer, stream, halt))
    thread.start()
    while not stream.stamps:
        time.sleep(0.01)
    beside = [_cancel_once(peer, random) for _ in range(20)]
    halt.set()
    thread.join()
    return {
        "alone": [(freed - at) * MILLISECONDS for at, freed in alone],
        "beside": [(freed - at) * MILLISECONDS for at, freed in beside],
    }


def _cancel_once(peer: Ours, random: Random) -> tuple[float, float]:
    """When a prompt was cancelled, and when its stream ended: it has no place any more."""
    before = peer.engine.stats()["running"]
    stream = peer.stream(Ask(0.0, text(random, 1_000), 4))
    time.sleep(random.uniform(0.05, 0.35))
    at = time.perf_counter()
    stream.cancel()
    assert not list(stream), "its prompt was not computed yet"
    freed = time.perf_counter()
    while peer.engine.stats()["running"] > before:
        time.sleep(0.001)
    return at, freed


def heartbeat(peer: Peer, seed: int) -> Samples:
    """A thread wants to run every millisecond while eight answers are under way."""
    random = Random(seed)
    late: list[float] = []
    stop = Event()

    def beat() -> None:
        due = time.perf_counter()
        while not stop.is_set():
            due += 0.001
            time.sleep(max(due - time.perf_counter(), 0))
            late.append((time.perf_counter() - due) * MILLISECONDS)

    thread = Thread(target=beat)
    thread.start()
    answers = play(peer, [Ask(0.0, text(random, 24), 96) for _ in range(8)])
    stop.set()
    thread.join()
    return {"late": late, "rate": [tokens_per_second(answers)]}


STALL = Scenario(
    "stall",
    "4 streams while a cold prompt of 1,500 tokens arrives",
    stall,
    (
        Figure("gap", "inter-token p99 of the streams", "p99", "ms", default=1 / 20, tuned=1 / 3),
        Figure("gap", "inter-token max of the streams", "max", "ms"),
        Figure("ttft", "TTFT of the prompt", "median", "s"),
        Figure("rate", "all tokens", "median", "tok/s", higher=True, tuned=0.95),
    ),
    Size(longest=2_048),
)
BEHIND = Scenario(
    "behind",
    "short interactive requests behind 4 background prompts of 1,000 tokens",
    behind,
    (
        Figure("ttft", "TTFT p99 of the short", "p99", "ms", default=1 / 10, tuned=1 / 3),
        Figure("ttft", "TTFT p50 of the short", "p50", "ms"),
        Figure("long", "last background answer", "median", "s"),
        Figure("rate", "all tokens", "median", "tok/s", higher=True),
    ),
    Size(longest=1_280),
)
CANCEL = Scenario(
    "cancel",
    "a prompt of 1,000 tokens is cancelled while it is computed",
    cancel,
    (
        Figure("alone", "until it is freed, alone, p99", "p99", "ms", limit=60.0),
        Figure("beside", "until it is freed, beside a stream, p99", "p99", "ms", limit=60.0),
        Figure("beside", "until it is freed, beside a stream, p50", "p50", "ms"),
    ),
    compared=False,
)
HEARTBEAT = Scenario(
    "heartbeat",
    "a Python thread at 1 kHz while 8 answers are under way",
    heartbeat,
    (
        Figure("late", "lateness p99", "p99", "ms", limit=3.0),
        Figure("late", "lateness p50", "p50", "ms"),
        Figure("rate", "all tokens", "median", "tok/s", higher=True),
    ),
    Size(longest=1_024),
)
