"""The clients of the soak test: what they ask for, and what they see.

Must not know: the engine's metrics, and what must hold at the end.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from threading import Event
from typing import Any

from latency.trace import text
from ryot_metrics import Engine, SamplingParams, Stream

CLIENTS = 16
PRESSURE = 2.0
"""Cells that the clients' requests need together, as a multiple of the context."""

KINDS = {"whole": 60, "deadline": 12, "cancelled": 12, "dropped": 12, "too long": 4}
"""How a request is to end, with how many of a hundred do."""

ENDINGS = {
    "whole": {"length"},
    "deadline": {"length", "cancelled"},
    "cancelled": {"length", "cancelled"},
    "dropped": {"dropped"},
    "too long": {"refused"},
}
"""How each kind may end; a client that hangs up does not learn how."""

TENANTS = ("", "a", "b", "c")
BEGINNINGS = 4
"""Different common beginnings of prompts."""


@dataclass
class Seen:
    """What clients saw; counts only, so that a longer run takes no more memory.

    Attributes:
        ended: Requests by kind and ending.
        tokens: Tokens of answers to streams that were followed to their end, under `streaming`;
            of dropped ones, under `standard`; and of the prompts that were answered, `prompt`.
        unseen: The most tokens that there were beyond these.
        needed: Cells that all requests needed.
        faults: What was not expected.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    unseen: Counter[str] = field(default_factory=Counter)
    needed: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Adds what another client saw."""
        self.ended += other.ended
        self.tokens += other.tokens
        self.unseen += other.unseen
        self.needed += other.needed
        self.faults += other.faults

    def requests(self, ending: str | None = None) -> int:
        """Requests that ended so; by default all."""
        return sum(n for (_, seen), n in self.ended.items() if ending in (None, seen))


class Client:
    """Asks for one answer after another until it is told to stop."""

    def __init__(self, engine: Engine, seed: int, halt: Event) -> None:
        self.seen = Seen()
        self._engine = engine
        self._random = Random(seed)
        self._halt = halt
        self._mean = PRESSURE * engine.config.ctx_size / CLIENTS

    def run(self) -> None:
        """Asks; whatever goes wrong is noted, and the next request is sent."""
        while not self._halt.is_set():
            (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
            try:
                ending = self._ask(kind)
            except Exception as error:
                ending = repr(error)
            self.seen.ended[kind, ending] += 1
            if ending not in ENDINGS[kind]:
                self.seen.faults[f"{kind}: {ending}"] += 1

    def _ask(self, kind: str) -> str:
        """Sends a request and follows it as its kind wants; returns how it ended."""
        draw = self._random
        most = 1 + int(draw.random() * 0.68 * self._mean)
        prompt = self._prompt(kind)
        params = SamplingParams(
            max_tokens=most, temperature=draw.choice((0.0, 0.8)), ignore_eos=True
        )
        mode = "standard" if kind == "dropped" else "streaming"
        try:
            stream = self._engine.stream(prompt, params, mode=mode, **self._terms(kind))
        except ValueError:
            return "refused"
        self.seen.needed += len(prompt) + most
        leave_after = draw.randrange(most) if kind in ("cancelled", "dropped") else most
        for _ in itertools.islice(stream, leave_after):
            pass
        ending = "dropped" if kind == "dropped" else self._end(stream, most, kind == "cancelled")
        self._count(stream, mode, most)
        return ending

    def _count(self, stream: Stream, mode: str, most: int) -> None:
        """Counts tokens; of a dropped stream there may be more, up to `most`."""
        tokens = stream.completion_tokens
        self.seen.tokens[mode] += tokens
        if mode == "standard":
            self.seen.unseen[mode] += most - tokens
        prompts = self.seen.tokens if tokens else self.seen.unseen
        prompts["prompt"] += stream.prompt_tokens

    def _end(self, stream: Stream, most: int, cancel: bool) -> str:
        """Takes what is left; an ended stream must stay so."""
        if cancel:
            stream.cancel()
        for _ in stream:
            pass
        tokens, ending = stream.completion_tokens, stream.finish_reason or "not ended"
        if next(stream, None) is not None or (ending == "length") != (tokens == most):
            return f"{ending} after {tokens} of {most} tokens"
        return ending

    def _prompt(self, kind: str) -> list[int]:
        """Tokens; half of the prompts begin as others do."""
        if kind == "too long":
            return [1] * (self._engine.config.ctx_size + 1)
        length = 1 + int(self._random.uniform(0.06, 1.26) * self._mean)
        common = length // 2 if self._random.random() < 0.5 else 0
        beginning = text(Random(self._random.randrange(BEGINNINGS)), common)
        words = f"{beginning} {text(self._random, length)}"
        return self._engine.tokenize(words, add_special=False)[:length]

    def _terms(self, kind: str) -> Any:
        """Urgency, promises, tenant."""
        draw = self._random
        terms: dict[str, Any] = {"tenant": draw.choice(TENANTS)}
        terms["priority"] = draw.choice(("interactive", "interactive", "background"))
        if draw.random() < 0.5:
            terms |= {"ttft_ms": draw.uniform(50, 5_000), "tbt_ms": draw.uniform(20, 500)}
        if kind == "deadline":
            terms["deadline_ms"] = draw.uniform(1, 5_000)
        return terms
