"""Metrics in tests: an isolated catalogue, a clock to move by hand, and assertions.

The test's catalogue has the settings of `ryot_metrics.configure`, but for sampling, which would
leave observations out, and for the profile: assertions are about the catalogue's own names.

With pytest, the fixture `ryot_metrics` (of the plugin that this package installs) gives a
`Metrics`; elsewhere `isolated` does. Meanwhile all requests of the process, whatever its threads
and tasks, record into the catalogue of the test. This module must not need pytest.

Example:
    >>> from ryot_metrics import track_inference_request
    >>> from ryot_metrics.testing import isolated
    >>> with isolated() as metrics:
    ...     @track_inference_request(model="m")
    ...     def words():
    ...         for word in ("to", "be"):
    ...             metrics.clock.advance(ms=20)
    ...             yield word
    ...     _ = list(words())
    ...     metrics.assert_metric("ryot_inference_requests_total", {"status": "success"}, delta=1)
    ...     metrics.assert_metric("ryot_ttft_latency_seconds", {"model": "m"}, count=1, sum=0.02)
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics import catalogue
from ryot_metrics._failure import explain
from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry, Isolated
from ryot_metrics.client.encoding import generate_latest
from ryot_metrics.live import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Change", "Clock", "Metrics", "isolated"]

_NANOSECONDS = {"seconds": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_SUFFIXES = ("_total", "_bucket", "_count", "_sum")
# They change by themselves.
_AMBIENT = ("process_", "python_")
_OF_PAGES = (
    "ryot_metrics_scrape_seconds",
    "ryot_metrics_series",
    "ryot_metrics_unshared_series",
)
_ROLLING = (
    "ryot_tokens_per_second",
    "ryot_average_tokens_per_minute",
    "ryot_token_efficiency_ratio",
    "ryot_engine_idle_ratio",
)


class Clock:
    """A monotonic clock that stands still until it is told to move; it counts nanoseconds."""

    def __init__(self, native: Isolated) -> None:
        self._native = native

    @property
    def now_ns(self) -> int:
        """The time since the beginning of the test, in nanoseconds."""
        return self._native.now

    def advance(self, *, seconds: float = 0, ms: float = 0, us: float = 0, ns: int = 0) -> None:
        """Moves the clock forward by the sum of its arguments, rounded to a nanosecond.

        Raises:
            ValueError: If that is no time, or would turn the clock back.

        Example:
            >>> with isolated() as metrics:
            ...     metrics.clock.advance(seconds=1, ms=250)
            ...     metrics.clock.now_ns
            1250000000
        """
        given = {"seconds": seconds, "ms": ms, "us": us, "ns": ns}
        nanos = sum(value * _NANOSECONDS[unit] for unit, value in given.items())
        if not 0 <= nanos < 2**63:
            raise ValueError(f"the clock is told to move by {nanos:g} ns; from 0 to 2**63 it can")
        self._native.advance(round(nanos))


class Change(NamedTuple):
    """A sample that the test has changed."""

    name: str
    labels: dict[str, str]
    before: float | None
    """None if it was not there."""
    after: float


class Metrics:
    """What a test has recorded; `isolated` and the fixture `ryot_metrics` make one.

    The families of the catalogue are the test's own. What else stands in the default registry,
    such as the metrics that a service makes when it is imported, is seen too; its `delta` counts
    from the beginning of the test.

    Attributes:
        registry: The registry with the test's own catalogue.
        clock: What requests are timed by.
    """

    def __init__(self, native: Isolated, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.clock = Clock(native)
        self._catalogue = {
            name: row.labels
            for row in catalogue.families()
            for name in row.samples
            if row.type in ("gauge", "info") or name.endswith(_SUFFIXES)
        }
        self._start = Snapshot.read(REGISTRY.collect(), 0.0).samples

    def samples(self) -> Snapshot:
        """All samples as they stand now, without those that change by themselves."""
        own = Snapshot.read(self.registry.collect(), 0.0).samples
        merged = {name: dict(it) for name, it in own.items() if name not in _OF_PAGES}
        for name, children in Snapshot.read(REGISTRY.collect(), 0.0).samples.items():
            if name in _OF_PAGES + _ROLLING:
                continue
            before = self._start.get(name, {})
            for key, value in children.items():
                if name not in self._catalogue:
                    if not name.startswith(_AMBIENT):
                        merged.setdefault(name, {})[key] = value
                elif value != before.get(key, 0.0):  # by what was made before the test
                    mine = merged.setdefault(name, {})
                    mine[key] = mine.get(key, 0.0) + value - before.get(key, 0.0)
        return Snapshot(merged, 0.0)

    def changes(self) -> list[Change]:
        """The samples that differ from the beginning of the test, in the order of the page."""
        changed = []
        for name, children in self.samples().samples.items():
            past = {} if name in self._catalogue else self._start.get(name, {})
            for key, value in children.items():
                before = past.get(key)
                if value != (before or 0.0):
                    changed.append(Change(name, dict(sorted(key)), before, value))
        return changed

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """The sum of the children of a sample that have these labels; None if there is none.

        Args:
            name: The sample's name on the page, suffix included.
            labels: Labels that a child must have; it may have others.
        """
        return self.samples().total(name, **(labels or {}))

    def delta(self, name: str, labels: Mapping[str, str] | None = None) -> float:
        """By how much that sum has grown in the test; 0.0 for a sample that nobody has written."""
        labels = labels or {}
        changes = (it for it in self.changes() if it.name == name)
        fitting = (it for it in changes if labels.items() <= it.labels.items())
        return math.fsum(it.after - (it.before or 0.0) for it in fitting)

    def page(self) -> str:
        """The test's own catalogue in the text format."""
        return generate_latest(self.registry).decode()

    def assert_metric(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        *,
        delta: float | None = None,
        value: float | None = None,
        count: float | None = None,
        sum: float | None = None,  # noqa: A002 - the suffix of a histogram's sample
        absent: bool = False,
    ) -> None:
        """Asserts what the test has recorded.

        Children that have these labels are summed, so labels that do not matter may be left out.
        Numbers are equal within a billionth of their size; `pytest.approx` is taken as well.

        Args:
            name: A sample's name on the page; for `count` and `sum`, a histogram's or summary's.
            labels: Labels that a child must have.
            delta: By how much it has grown in the test.
            value: What it stands at.
            count: By how many observations the histogram has grown in the test.
            sum: By how much their sum has grown.
            absent: No such child is there.

        Raises:
            AssertionError: It is otherwise, or there is no such name or label.
            TypeError: Nothing is asserted, or `absent` together with a number.

        Example:
            >>> with isolated() as metrics:
            ...     metrics.assert_metric("ryot_queue_depth", {"model": "m"}, absent=True)
        """
        __tracebackhide__ = True
        labels = dict(labels or {})
        given = {"delta": delta, "value": value, "count": count, "sum": sum}
        wanted = {what: number for what, number in given.items() if number is not None}
        if absent == bool(wanted):
            raise TypeError("assert_metric takes delta, value, count, sum, or absent=True alone")
        known = self._label_names(name)
        for what, expected in ({"absent": None} if absent else wanted).items():
            sample = f"{name}_{what}" if what in ("count", "sum") else name
            found = self._found(what, sample, labels)
            if labels.keys() - known or not _equal(found, expected):
                raise AssertionError(explain(self, what, sample, labels, expected, found, known))

    def names(self) -> list[str]:
        """The names of all samples that there are or may be, without those of the process."""
        return sorted(self._catalogue.keys() | self.samples().samples.keys())

    def _found(self, what: str, sample: str, labels: Mapping[str, str]) -> float | None:
        """The number that an expectation is about; None if nothing has the sample's name."""
        value = self.value(sample, labels)
        if what in ("value", "absent"):
            return value
        return self.delta(sample, labels) if sample in self.names() else None

    def _label_names(self, name: str) -> set[str]:
        """The labels that a family's samples have, by the catalogue and by the page."""
        names = {f"{name}{suffix}" for suffix in ("", "_count", "_sum")}
        declared = {label for it in names & self._catalogue.keys() for label in self._catalogue[it]}
        children = (it for sample in names for it in self.samples().samples.get(sample, {}))
        return declared | {label for child in children for label, _ in child}


def _equal(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    if not isinstance(expected, int | float):  # pytest.approx
        return bool(found == expected)
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


@contextmanager
def isolated() -> Iterator[Metrics]:
    """Lets the requests of this process record into a catalogue of its own, in the block.

    What has begun before the block, engines included, goes on recording where it began.

    Yields:
        The metrics of the block.
    """
    registry = CollectorRegistry()
    native = Isolated(registry)
    native.enter()
    try:
        yield Metrics(native, registry)
    finally:
        native.leave()
