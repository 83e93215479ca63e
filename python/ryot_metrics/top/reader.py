"""From pages to figures: what one look at a service gives, also if it gives nothing.

Fetching and both clocks are arguments: this module must know neither HTTP nor the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ryot_metrics.live import Figures, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


@dataclass(frozen=True)
class Reading:
    """One look at a service."""

    at: datetime
    figures: Figures | None = None
    """None on the first look, and where there is a problem."""
    problem: str | None = None
    """Why there are no figures, as a sentence to show."""

    def as_dict(self) -> dict[str, Any]:
        """The reading as plain data, ready for JSON."""
        head = {"at": self.at.isoformat(), "problem": self.problem}
        return head | (self.figures.as_dict() if self.figures else {})


class Reader:
    """Looks at a service again and again; figures are between one page and the next.

    Args:
        fetch: Gives the page; raises OSError if the service does not answer with one.
        clock: Seconds that do not jump.
        wall: The time of day.

    Example:
        >>> from datetime import datetime
        >>> pages = iter(["ryot_tokens_generated_total{token_type='completion'} 1"] * 2)
        >>> reader = Reader(lambda: next(pages).replace("'", '"'), iter([0, 1]).__next__,
        ...                 lambda: datetime(2030, 1, 1))
        >>> reader.read().figures, reader.read().figures.tokens_per_second
        (None, 0.0)
    """

    def __init__(
        self,
        fetch: Callable[[], str],
        clock: Callable[[], float],
        wall: Callable[[], datetime],
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wall = wall
        self._before: Snapshot | None = None
        self._down_since: datetime | None = None

    def read(self) -> Reading:
        """Looks once. After an outage, the first page counts as a first look again."""
        now = self._wall()
        try:
            page = Snapshot.parse(self._fetch(), self._clock())
        except OSError as error:
            self._before = None
            self._down_since = self._down_since or now
            since = f"{self._down_since:%H:%M:%S}"
            return Reading(now, problem=f"unreachable since {since}: {error}")
        except ValueError as error:
            self._before = None
            return Reading(now, problem=f"not a page of metrics: {error}")
        self._down_since = None
        before, self._before = self._before, page
        if page.names is None:
            return Reading(now, problem="no family of a language model (ryot_* or vllm:*) is there")
        return Reading(now, Figures.between(before, page) if before else None)
