"""Every number that a rule compares with: its name, its default, and what it means.

The defaults are those of the Ryot metric design. This module must not know PromQL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def _row(default: float, meaning: str) -> float:
    number: float = field(default=default, metadata={"meaning": meaning})
    return number


@dataclass(frozen=True)
class Thresholds:
    """What the rules compare with; seconds, bytes, requests and tokens are the units.

    Raises:
        ValueError: A number is not positive and finite, or a ratio is not below 1.

    Example:
        >>> Thresholds(error_ratio=0.01).error_ratio
        0.01
    """

    error_ratio: float = _row(0.05, "share of requests that fail")
    latency_seconds: float = _row(2.5, "p95 latency that warns")
    latency_critical_seconds: float = _row(10, "p95 latency that is critical")
    ttft_seconds: float = _row(1, "p95 TTFT")
    tokens_per_second: float = _row(50, "completion tokens per second of a busy model")
    busy_requests: float = _row(1, "mean requests in flight that make a model busy")
    queue_depth: float = _row(100, "waiting requests that are critical")
    memory_efficiency_ratio: float = _row(0.5, "used over reserved GPU memory")
    slo_latency_p95_seconds: float = _row(0.5, "latency that 95% of requests keep")
    slo_latency_p99_seconds: float = _row(2.5, "latency that 99% of requests keep")
    slo_ttft_p95_seconds: float = _row(0.05, "TTFT that 95% of requests keep")
    slo_success_ratio: float = _row(0.999, "share of requests that succeed")
    slo_min_requests: float = _row(20, "requests in an SLO's window, for its budget to count")
    slo_tokens_per_second: float = _row(100, "completion tokens per second of a busy model")
    slo_gpu_headroom_percent: float = _row(15, "GPU memory that stays free")
    slo_queue_depth: float = _row(50, "waiting requests at most")

    def __post_init__(self) -> None:
        for row in fields(self):
            value = getattr(self, row.name)
            limit = 1.0 if row.name.endswith("_ratio") else math.inf
            if not 0 < value < limit:
                wanted = "between 0 and 1" if limit == 1 else "positive and finite"
                raise ValueError(f"{row.name} must be {wanted}, not {value:g}")

    @classmethod
    def parse(cls, settings: Iterable[str]) -> Thresholds:
        """Thresholds from settings like `ttft_seconds=0.5`; the others keep their defaults.

        Raises:
            ValueError: A setting is not `NAME=NUMBER`, or no threshold has this name.
        """
        known = {row.name for row in fields(cls)}
        changed = {}
        for setting in settings:
            name, _, number = setting.partition("=")
            if name not in known:
                raise ValueError(f"no threshold {name!r}; there are {', '.join(sorted(known))}")
            try:
                changed[name] = float(number)
            except ValueError:
                raise ValueError(f"{setting!r} is not NAME=NUMBER") from None
        return cls(**changed)

    @classmethod
    def table(cls) -> str:
        """Names, defaults and meanings, a line each."""
        rows = ((row.name, row.default, row.metadata["meaning"]) for row in fields(cls))
        return "\n".join(f"  {name} = {default:g}: {meaning}" for name, default, meaning in rows)
