"""The service level objectives that are ratios, as error budgets and the rates at which they burn.

"p95 latency < 500 ms" says that 95% of the requests are good, where good is a latency within a
bucket's bound; its budget is the other 5%. An alert asks for the same burn rate over a long window
(it matters) and a short one (it still goes on), with the factors of Google's SRE workbook. This
module must not know YAML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics.observability import promql
from ryot_metrics.observability.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from ryot_metrics.observability.thresholds import Thresholds


class Burn(NamedTuple):
    """A speed at which the budget of 30 days burns, seen in a long and a short window."""

    factor: float
    long: str
    short: str


class Speed(NamedTuple):
    """How urgent a burn is.

    Attributes:
        name: The end of its alerts' names.
        severity: Their severity.
        burns: Any of them is enough.
        means: What follows from it.
    """

    name: str
    severity: str
    burns: tuple[Burn, ...]
    means: str


SPEEDS = (
    Speed(
        "FastBurn",
        "critical",
        (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m")),
        "the budget of 30 days is gone within 5 days or less",
    ),
    Speed(
        "SlowBurn",
        "warning",
        (Burn(3, "1d", "2h"), Burn(1, "3d", "6h")),
        "the budget of 30 days will be used up",
    ),
)
WINDOWS = ("5m", "30m", "1h", "2h", "6h")
LONG_WINDOWS = ("1d", "3d")


class Objective(NamedTuple):
    """An objective over requests.

    Attributes:
        name: The value of the label `slo`.
        alert: The stem of its alerts' names.
        target: The share of requests that are good, below 1.
        says: The objective in words.
        bad: The share of bad requests over a window.
        total: The counter of all requests, and which of them count.
    """

    name: str
    alert: str
    target: float
    says: str
    bad: Callable[[str], str]
    total: tuple[str, str]

    @property
    def budget(self) -> float:
        """The share of requests that may be bad."""
        return round(1 - self.target, 9)

    def recordings(self, windows: tuple[str, ...]) -> list[Recording]:
        """The share of bad requests over each window, by model."""
        return [
            Recording(f"ryot:slo_bad:ratio_rate{window}", self.bad(window), self.name)
            for window in windows
        ]

    def volume(self, window: str) -> Recording:
        """How many requests a window has, by model."""
        family, where = self.total
        expression = promql.rate(family, window=window, where=where, function="increase")
        return Recording(f"ryot:slo_requests:increase{window}", expression, self.name)

    def burning(self, speed: Speed, requests: float) -> str:
        """Whether the budget burns at this speed, with so many requests in the first window."""
        slo = f'{{slo="{self.name}"}}'
        over = [
            f"  ryot:slo_bad:ratio_rate{window}{slo} > {burn.factor:g} * {self.budget:g}"
            for burn in speed.burns
            for window in (burn.long, burn.short)
        ]
        pairs = [f"{long}\nand\n{short}" for long, short in zip(over[::2], over[1::2], strict=True)]
        enough = f"ryot:slo_requests:increase{speed.burns[0].long}{slo} >= {requests:g}"
        return "(\n" + "\nor\n".join(pairs) + f"\n)\nand {enough}"


def objectives(limits: Thresholds) -> list[Objective]:
    """The objectives, with the thresholds' numbers.

    Raises:
        ValueError: A time is not a bound of its histogram's buckets.
    """
    latency, ttft = promql.LATENCY, promql.TTFT
    return [
        _within(latency, "latency_p95", "RyotLatencyP95", 0.95, limits.slo_latency_p95_seconds),
        _within(latency, "latency_p99", "RyotLatencyP99", 0.99, limits.slo_latency_p99_seconds),
        _within(ttft, "ttft_p95", "RyotTTFTP95", 0.95, limits.slo_ttft_p95_seconds),
        Objective(
            "success",
            "RyotSuccess",
            limits.slo_success_ratio,
            f"{100 * limits.slo_success_ratio:g}% of requests succeed",
            lambda window: promql.failed_ratio(window=window),
            (promql.REQUESTS, promql.NOT_CANCELLED),
        ),
    ]


def _within(family: str, name: str, alert: str, target: float, seconds: float) -> Objective:
    """The objective that a share of a histogram's observations is at most so many seconds."""
    found = promql.row(family)
    bounds = found.buckets if found else []
    if seconds not in bounds:
        shown = " ".join(f"{bound:g}" for bound in bounds)
        raise ValueError(
            f"slo_{name}_seconds must be a bound of {family}'s buckets ({shown}), not {seconds:g}"
        )
    # A whole bound is written 1 or 1.0, as the format of the page goes.
    le = f'le=~"{seconds:g}([.]0)?"' if seconds == int(seconds) else f'le="{seconds:g}"'
    total = f"{family}_count"

    def bad(window: str) -> str:
        good = promql.rate(f"{family}_bucket", window=window, where=le)
        return f"1 - {good} / {promql.rate(total, window=window)}"

    measured = "TTFT" if family == promql.TTFT else "latency"
    says = f"{100 * target:g}% of requests have a {measured} of at most {seconds:g} s"
    return Objective(name, alert, target, says, bad, (total, ""))
