"""The arithmetic: what is made of the samples of all rounds.

A percentile is the nearest rank: the least sample that at least so many percent of all samples,
pooled over the rounds, do not exceed. A ratio is ours over the peer's, both pooled; its spread is
from the least to the greatest ratio of one round.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Samples = dict[str, list[float]]
"""What one round of one engine gave: the samples of each figure."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN without a sample."""
    if not samples:
        return math.nan
    rank = math.ceil(percent / 100 * len(samples))
    return sorted(samples)[max(rank, 1) - 1]


REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": lambda samples: percentile(samples, 50),
    "p99": lambda samples: percentile(samples, 99),
    "max": lambda samples: max(samples, default=math.nan),
    "sum": sum,
    "median": lambda samples: statistics.median(samples) if samples else math.nan,
}


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    Attributes:
        key: The samples it is made of.
        title: What it is.
        reduce: How: a name in `REDUCTIONS`.
        unit: `ms`, `s`, `tok/s`, ...; shown, never computed with.
        higher: Whether more is better.
        default: What the ratio to the untuned peer must not exceed, or, if `higher`, must reach.
        tuned: The same for the peer tuned best.
        limit: What our own value must not exceed, or must reach.
    """

    key: str
    title: str
    reduce: str
    unit: str
    higher: bool = False
    default: float | None = None
    tuned: float | None = None
    limit: float | None = None

    def of(self, rounds: Sequence[Samples]) -> float:
        """Its value over these rounds."""
        pooled = [sample for samples in rounds for sample in samples.get(self.key, ())]
        return REDUCTIONS[self.reduce](pooled)

    def meets(self, value: float, target: float | None) -> bool | None:
        """Whether a value or ratio meets its target; None without one."""
        if target is None or math.isnan(value):
            return None
        return value >= target if self.higher else value <= target


@dataclass(frozen=True)
class Ratio:
    """Ours over the peer's."""

    pooled: float
    least: float
    greatest: float


def ratio(figure: Figure, ours: Sequence[Samples], theirs: Sequence[Samples]) -> Ratio:
    """Compares two engines' rounds; round by round for the spread."""
    single = [
        divide(figure.of([one]), figure.of([other]))
        for one, other in zip(ours, theirs, strict=True)
    ]
    known = [value for value in single if not math.isnan(value)]
    return Ratio(
        divide(figure.of(ours), figure.of(theirs)),
        min(known, default=math.nan),
        max(known, default=math.nan),
    )


def divide(value: float, by: float) -> float:
    """The quotient; infinite by 0, NaN for 0 by 0."""
    if by == 0:
        return math.nan if value == 0 else math.inf
    return value / by


def highest(passes: Callable[[float], bool], low: float, high: float, probes: int) -> float:
    """The highest rate found to pass, by bisection of the logarithm; 0 if none did.

    Each probe halves what is between the highest rate that passed and the lowest that did not, so
    the answer is exact to a factor of `(high / low) ** (1 / 2 ** probes)`.
    """
    best = 0.0
    for _ in range(probes):
        rate = math.sqrt(low * high)
        if passes(rate):
            best = low = rate
        else:
            high = rate
    return best


def as_json(value: Any) -> Any:
    """The value with its NaNs and infinities as None, which JSON has no numbers for."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
