"""Sends a trace in an open loop and notes when each token came.

Each request has a thread of its own, started when it is due; all engines are asked this way. Must
not know: what is made of the times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event, Thread
from typing import Protocol

from .trace import Ask

HEAD_START = 0.05
"""Seconds from the call of `play` to the trace's time 0: all threads exist by then."""


@dataclass(frozen=True)
class Ending:
    """How a request ended: its text, and what the engine says about its tokens."""

    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


class Peer(Protocol):
    """An engine in this process."""

    def answer(self, ask: Ask, on_token: Callable[[], bool]) -> Ending:
        """Answers on the calling thread; gives up if `on_token` says True."""

    def prefilled(self) -> int:
        """Prompt tokens computed since the engine was made."""


@dataclass
class Answer:
    """A request as its client saw it; times are of `time.perf_counter`.

    Attributes:
        ask: What was asked.
        due: When it was to be sent.
        stamps: When each token came.
        ended: When nothing more came.
        ending: How it ended; None until then.
    """

    ask: Ask
    due: float
    stamps: list[float] = field(default_factory=list)
    ended: float = 0.0
    ending: Ending | None = None

    @property
    def completed(self) -> bool:
        """Whether every token that was asked for came."""
        return (
            self.ending is not None
            and self.ending.error is None
            and self.ending.completion_tokens == self.ask.tokens
        )

    @property
    def ttft(self) -> float:
        """Seconds from due to the first token; infinite if none came."""
        return self.stamps[0] - self.due if self.stamps else float("inf")

    def gaps(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds between two tokens, of those gaps that overlap this time."""
        return [b - a for a, b in pairwise(self.stamps) if b > since and a < until]

    @property
    def kept(self) -> bool:
        """Whether it is complete, its first token in time, and no gap longer than accepted."""
        ask = self.ask
        return (
            self.completed
            and (ask.ttft_ms is None or self.ttft * 1e3 <= ask.ttft_ms)
            and (ask.tbt_ms is None or max(self.gaps(), default=0.0) * 1e3 <= ask.tbt_ms)
        )


def follow(peer: Peer, answer: Answer, halt: Event | None = None) -> Answer:
    """Asks and waits for the end."""

    def on_token() -> bool:
        answer.stamps.append(time.perf_counter())
        return halt is not None and halt.is_set()

    answer.ending = peer.answer(answer.ask, on_token)
    answer.ended = time.perf_counter()
    return answer


def play(
    peer: Peer,
    asks: Iterable[Ask],
    *,
    halt: Event | None = None,
    ended: Callable[[Answer], None] = lambda _: None,
) -> list[Answer]:
    """Sends each request when it is due and waits for all that were sent.

    Args:
        peer: Who answers.
        asks: The trace, in the order of time.
        halt: Once set, nothing more is sent, and running answers end at their next token.
        ended: Called with each answer, on its own thread.

    Returns:
        The answers to what was sent, in the trace's order.
    """
    halt = halt or Event()
    start = time.perf_counter() + HEAD_START
    answers = [Answer(ask, start + ask.at) for ask in asks]
    threads = [
        Thread(target=lambda one=answer: ended(follow(peer, one, halt)), daemon=True)
        for answer in answers
    ]
    sent: list[Answer] = []
    for answer, thread in zip(answers, threads, strict=True):
        if halt.wait(max(answer.due - time.perf_counter(), 0)):
            break
        thread.start()
        sent.append(answer)
    for thread in threads[: len(sent)]:
        thread.join()
    return sent


def of_kind(answers: Sequence[Answer], kind: str) -> list[Answer]:
    """Those of one group."""
    return [answer for answer in answers if answer.ask.kind == kind]


def tokens_per_second(answers: Sequence[Answer]) -> float:
    """All tokens, of prompts and answers, over the time from the first due to the last end."""
    tokens = sum(
        answer.ending.prompt_tokens + answer.ending.completion_tokens
        for answer in answers
        if answer.ending
    )
    return tokens / makespan(answers)


def makespan(answers: Sequence[Answer]) -> float:
    """Seconds from the first due to the last end."""
    return max(answer.ended for answer in answers) - min(answer.due for answer in answers)
