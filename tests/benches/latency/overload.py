"""What is kept when more is asked than there is: of time, or of memory."""

from __future__ import annotations

from itertools import islice
from random import Random
from threading import Event, Lock

from .client import Answer, Peer, of_kind, play, tokens_per_second
from .figures import Figure, Samples, highest
from .peers import Size
from .scenario import Scenario
from .trace import Ask, arrivals, text

REQUESTS = 30
SHARE = 0.9
RATES = (0.25, 4.0)
PROBES = 5
CELLS = 2_048


def mixed(seed: int, rate: float) -> list[Ask]:
    """Chats, some long prompts and some background work, at so many requests a second.

    What comes in which order is the seed's; the times between depend on the rate, and so do the
    words, because an engine may remember the prompts of another rate.
    """
    random, words = Random(seed), Random(f"{seed} at {rate}")
    times = [at / rate for at in islice(arrivals(random, 1.0), REQUESTS)]
    return [_request(random, words, at) for at in times]


def _request(random: Random, words: Random, at: float) -> Ask:
    (kind,) = random.choices(("chat", "long", "background"), (70, 15, 15))
    if kind == "chat":
        prompt, tokens = text(words, random.randint(24, 64)), random.randint(16, 24)
        return Ask(at, prompt, tokens, kind, ttft_ms=1_000.0, tbt_ms=250.0)
    if kind == "long":
        prompt = text(words, random.randint(300, 600))
        return Ask(at, prompt, 16, kind, ttft_ms=8_000.0, tbt_ms=250.0)
    prompt = text(words, random.randint(200, 400))
    return Ask(at, prompt, 32, kind, priority="background", ttft_ms=30_000.0)


def attainment(peer: Peer, seed: int, rate: float) -> float:
    """The share of a trace's requests whose SLOs were met; ends early once too many were not."""
    asks = mixed(seed, rate)
    halt, lock, missed = Event(), Lock(), 0

    def ended(answer: Answer) -> None:
        nonlocal missed
        with lock:
            missed += not answer.kept and not halt.is_set()
            if missed > (1 - SHARE) * len(asks):
                halt.set()

    answers = play(peer, asks, halt=halt, ended=ended)
    return sum(answer.kept for answer in answers) / len(asks)


def goodput(peer: Peer, seed: int) -> Samples:
    """The highest rate of the mixed trace at which nine in ten requests meet their SLOs."""
    rate = highest(lambda rate: attainment(peer, seed, rate) >= SHARE, *RATES, PROBES)
    return {"rate": [rate]}


def searched(peer: Peer, seed: int) -> Samples:
    """The share that meets its SLOs at one rate in the middle."""
    return {"share": [attainment(peer, seed, 1.0)]}


def overcommit(peer: Peer, seed: int) -> Samples:
    """Six requests need twice the cells that there are; short ones come by all the while."""
    random = Random(seed)
    asks = [Ask(0.0, text(random, 256), 2 * CELLS // 6 - 256, kind="large") for _ in range(6)]
    asks += [Ask(1.0 + 2 * index, text(random, 24), 48) for index in range(6)]
    answers = play(peer, asks)
    bystanders = of_kind(answers, "chat")
    return {
        "completed": [100 * sum(one.completed for one in answers) / len(answers)],
        "errors": [float(sum(not one.completed for one in bystanders))],
        "ttft": [one.ttft for one in bystanders],
        "rate": [tokens_per_second(answers)],
    }


GOODPUT = Scenario(
    "goodput",
    f"the highest rate at which {SHARE:.0%} of a mixed trace's requests meet their SLOs",
    goodput,
    (Figure("rate", "goodput", "median", "req/s", higher=True, default=2.0, tuned=1.3),),
    Size(longest=1_024),
    search=(searched, Figure("share", "requests inside their SLOs", "median", "", higher=True)),
    seconds=600.0,
)
OVERCOMMIT = Scenario(
    "overcommit",
    "6 requests that need twice the KV cells there are, and 6 bystanders",
    overcommit,
    (
        Figure("completed", "completed", "median", "%", higher=True, limit=100.0),
        Figure("errors", "bystanders without their answer", "sum", "", limit=0.0),
        Figure("ttft", "TTFT max of bystanders", "max", "s"),
        Figure("rate", "all tokens", "median", "tok/s", higher=True),
    ),
    Size(cells=CELLS),
)
