"""Reading the default registry in tests: what changed since a point in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ryot_metrics import client


class Change:
    """Differences of samples since its construction."""

    def __init__(self) -> None:
        self._before = _samples()
        self._after: dict[tuple[str, frozenset[tuple[str, str]]], float] | None = None

    def close(self) -> None:
        self._after = _samples()

    def sum(self, name: str, **labels: str) -> float:
        """The change of all samples of this name that have these labels."""
        after = self._after if self._after is not None else _samples()
        return round(
            sum(
                value - self._before.get(key, 0.0)
                for key, value in after.items()
                if key[0] == name and labels.items() <= dict(key[1]).items()
            ),
            9,
        )

    def statuses(self, model: str) -> dict[str, int]:
        """How many requests ended with which status."""
        known = ("success", "error", "timeout", "partial", "cancelled")
        name = "ryot_inference_requests_total"
        counts = {status: int(self.sum(name, model=model, status=status)) for status in known}
        return {status: count for status, count in counts.items() if count}


@contextmanager
def changes() -> Iterator[Change]:
    """What the block changes on the page."""
    change = Change()
    yield change
    change.close()


def _samples() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in client.collect()
        for sample in family.samples
    }
