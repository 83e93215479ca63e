"""Requests and when they arrive. The same seed gives the same trace, whoever answers it.

Must not know: engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

_WORDS = """
about above across after again air animal answer apple area ask back ball bank bear bed bird black
blue boat body book box boy bread bridge brown car cat chair child city clear clock cold color
corn country cover dark day deep desk dog door dream dress dry ear earth east egg evening eye face
family farm father field fire fish floor flower food foot forest form friend front fruit game
garden girl glass gold grass green ground hair hand hat head heart hill home horse hot hour house
ice idea iron island king kitchen lake land language leaf letter light line lion list little love
machine man map market milk mind minute money moon morning mother mountain music name night north
nose number ocean office orange paper park party path people picture place plane plant poem point
rain red river road rock room round salt school science sea season seed sheep ship shoe shop
silver sister sky sleep snow song sound south space spring star station stone store story street
sugar summer sun table teacher time town train tree valley voice wall water week wheel wind window
winter woman wood word work world year
"""
WORDS = _WORDS.split()
"""Each, with a space before it, is one token of SmolLM2's vocabulary."""


@dataclass(frozen=True)
class Ask:
    """One request of a trace.

    Attributes:
        at: When it is due, in seconds from the trace's start.
        prompt: Its text.
        tokens: Tokens to generate, exactly.
        kind: Which of the scenario's groups it belongs to.
        priority: `interactive` or `background`.
        ttft_ms: The longest time to the first token that it accepts; None for any.
        tbt_ms: The longest time between two tokens that it accepts; None for any.
    """

    at: float
    prompt: str
    tokens: int
    kind: str = "chat"
    priority: Literal["interactive", "background"] = "interactive"
    ttft_ms: float | None = None
    tbt_ms: float | None = None


def text(random: Random, words: int) -> str:
    """A text of about so many tokens that shares no more than a few of them with any other."""
    return " ".join(random.choices(WORDS, k=words))


def arrivals(random: Random, rate: float) -> Iterator[float]:
    """Times of a Poisson process: on average `rate` arrivals per second, without end."""
    at = 0.0
    while True:
        at += random.expovariate(rate)
        yield at
