"""What a scenario is. Must not know: which there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .figures import Figure, Samples
from .peers import Size


@dataclass(frozen=True)
class Scenario:
    """One promise, measured.

    Attributes:
        name: Its name on the command line.
        title: What happens in it.
        measure: One round: asks an engine, with a seed for the trace, and gives the samples.
        figures: What is made of them.
        size: What the engines need.
        search: What the peer's best setting is searched by: a round that may be shorter, and its
            figure; by default `measure` and the first figure.
        compared: Whether the peer is measured at all.
        seconds: The most time that a round of one engine may take.
    """

    name: str
    title: str
    measure: Callable[[Any, int], Samples]
    figures: tuple[Figure, ...]
    size: Size = field(default_factory=Size)
    search: tuple[Callable[[Any, int], Samples], Figure] | None = None
    compared: bool = True
    seconds: float = 180.0

    @property
    def searched(self) -> tuple[Callable[[Any, int], Samples], Figure]:
        """What the peer's best setting is searched by."""
        return self.search or (self.measure, self.figures[0])
