"""What need not be computed twice: a prefix that several prompts share, a conversation so far."""

from __future__ import annotations

import time
from random import Random
from threading import Thread

from .client import Answer, Ending, Peer, follow, makespan, play
from .figures import Figure, Samples
from .peers import Size
from .scenario import Scenario
from .trace import Ask, arrivals, text

CONVERSATIONS = 32
TURNS = 4


def prefix(peer: Peer, seed: int) -> Samples:
    """Eight prompts come at once; the first 1,000 tokens of all are the same, and new."""
    random = Random(seed)
    shared = text(random, 1_000)
    asks = [Ask(0.0, f"{shared} {text(random, 32)}", 32) for _ in range(8)]
    before = peer.prefilled()
    answers = play(peer, asks)
    assert all(answer.completed for answer in answers), answers
    prompts = [answer.ending.prompt_tokens for answer in answers if answer.ending]
    unique = sum(prompts) - 1_000 * (len(prompts) - 1)
    return {
        "makespan": [makespan(answers)],
        "ttft": [answer.ttft for answer in answers],
        "computed": [(peer.prefilled() - before) / unique],
    }


def conversations(peer: Peer, seed: int) -> Samples:
    """Thirty-two conversations come, two a second; each goes on a while after its answer."""
    random = Random(seed)
    before, start = peer.prefilled(), time.perf_counter()
    talks: list[list[Answer]] = [[] for _ in range(CONVERSATIONS)]
    threads = [
        Thread(target=_talk, args=(peer, start + at, random.randrange(2**32), talk), daemon=True)
        for at, talk in zip(arrivals(random, 2.0), talks, strict=False)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = [answer for talk in talks for answer in talk[1:]]
    asked = sum(_ending(answer).prompt_tokens for talk in talks for answer in talk)
    cached = asked - (peer.prefilled() - before)
    return {
        "cached": [cached / sum(map(_ideal, talks))],
        "ttft": [answer.ttft * 1e3 for answer in later],
        "makespan": [makespan([answer for talk in talks for answer in talk])],
    }


def _talk(peer: Peer, begin: float, seed: int, talk: list[Answer]) -> None:
    """One conversation: what was said so far is the next prompt's beginning."""
    random = Random(seed)
    history, due = text(random, 128), begin
    for _ in range(TURNS):
        time.sleep(max(due - time.perf_counter(), 0))
        answer = follow(peer, Answer(Ask(0.0, history, 16), due))
        assert answer.completed, answer
        talk.append(answer)
        history = f"{history}{_ending(answer).text} {text(random, 16)}"
        due = answer.ended + random.uniform(0.5, 2.0)


def _ideal(talk: list[Answer]) -> int:
    """What later turns find computed: all tokens of the turn before but its last."""
    before = map(_ending, talk[:-1])
    return sum(ending.prompt_tokens + ending.completion_tokens - 1 for ending in before)


def _ending(answer: Answer) -> Ending:
    assert answer.ending
    return answer.ending


PREFIX = Scenario(
    "prefix",
    "8 simultaneous prompts that share their first 1,000 tokens",
    prefix,
    (
        Figure("makespan", "makespan", "median", "s", default=1 / 5, tuned=1 / 4),
        Figure("computed", "prompt tokens computed / unique", "median", "", limit=1.1),
        Figure("ttft", "TTFT p50", "p50", "s"),
    ),
    Size(cells=10_240, longest=1_280),
    seconds=240.0,
)
CONVERSE = Scenario(
    "conversations",
    f"{CONVERSATIONS} conversations of {TURNS} turns over 8 sequences",
    conversations,
    (
        Figure("ttft", "TTFT p50 of later turns", "p50", "ms", tuned=1.0),
        Figure("cached", "cached tokens / ideal", "median", "", higher=True, limit=0.9),
        Figure("ttft", "TTFT p99 of later turns", "p99", "ms"),
        Figure("makespan", "makespan", "median", "s"),
    ),
    Size(cells=4_096, longest=512),
    seconds=240.0,
)
