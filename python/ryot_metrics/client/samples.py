"""What a page is made of: samples, and what may hang on one.

Knows nothing of families, formats or the native module. Field names and their order are those of
`prometheus_client.samples`, so that code that unpacks a sample works with both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import total_ordering
from typing import NamedTuple

_NANOSECONDS = 1_000_000_000


@total_ordering
class Timestamp:
    """A point in time since the Unix epoch that keeps its nanoseconds.

    Args:
        sec: Whole seconds.
        nsec: Nanoseconds of the second, from 0 on and below 10⁹, counted away from zero.

    Raises:
        ValueError: If `nsec` is out of its range.

    Example:
        >>> str(Timestamp(12, 5))
        '12.000000005'
    """

    __slots__ = ("nsec", "sec")

    def __init__(self, sec: float, nsec: float) -> None:
        if not 0 <= nsec < _NANOSECONDS:
            raise ValueError(f"nsec is {nsec}; it must be at least 0 and below {_NANOSECONDS}")
        self.sec = int(sec)
        self.nsec = int(-nsec if sec < 0 else nsec)

    def __str__(self) -> str:
        return f"{self.sec}.{self.nsec:09d}"

    def __repr__(self) -> str:
        return f"Timestamp({self.sec}, {self.nsec})"

    def __float__(self) -> float:
        return self.sec + self.nsec / _NANOSECONDS

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timestamp):
            return NotImplemented
        return (self.sec, self.nsec) == (other.sec, other.nsec)

    def __lt__(self, other: Timestamp | float) -> bool:
        if isinstance(other, Timestamp):
            return (self.sec, self.nsec) < (other.sec, other.nsec)
        return float(self) < other

    def __hash__(self) -> int:
        return hash((self.sec, self.nsec))


class Exemplar(NamedTuple):
    """One observation that stands for others, with labels that lead to its trace."""

    labels: dict[str, str]
    value: float
    timestamp: Timestamp | float | None = None


class BucketSpan(NamedTuple):
    """A run of `length` native buckets, `offset` buckets after the last run's end."""

    offset: int
    length: int


class NativeHistogram(NamedTuple):
    """A histogram whose bounds follow from its schema, as one value."""

    count_value: float
    sum_value: float
    schema: int
    zero_threshold: float
    zero_count: float
    pos_spans: Sequence[BucketSpan] | None = None
    neg_spans: Sequence[BucketSpan] | None = None
    pos_deltas: Sequence[int] | None = None
    neg_deltas: Sequence[int] | None = None
    nh_exemplars: Sequence[Exemplar] | None = None


class Sample(NamedTuple):
    """One line of a page: a sample's name with its suffix, its labels and its value."""

    name: str
    labels: dict[str, str]
    value: float
    timestamp: Timestamp | float | None = None
    exemplar: Exemplar | None = None
    native_histogram: NativeHistogram | None = None
