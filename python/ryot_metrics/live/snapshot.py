"""One page of a service: its samples by name and labels, sums, quantiles, and growth between two.

The arithmetic is PromQL's. Must know neither HTTP nor a clock, nor what is shown of it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from ryot_metrics.client.parser import text_string_to_metric_families
from ryot_metrics.live.names import RYOT, VLLM, Names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ryot_metrics.client.families import Metric

START_TIME = "process_start_time_seconds"


class Snapshot:
    """The samples of one page.

    Args:
        samples: Values by label set, by name of sample.
        at: When the page was read, in seconds of any clock that does not jump.
    """

    def __init__(
        self, samples: Mapping[str, Mapping[frozenset[tuple[str, str]], float]], at: float
    ) -> None:
        self.samples = samples
        self.at = at

    @classmethod
    def parse(cls, text: str, at: float) -> Snapshot:
        """Reads a page in the text format.

        Args:
            text: The page.
            at: When it was read, in seconds.

        Raises:
            ValueError: If a line cannot be read.
        """
        return cls.read(text_string_to_metric_families(text), at)

    @classmethod
    def read(cls, families: Iterable[Metric], at: float) -> Snapshot:
        """Takes families that a registry gives or a parser has read."""
        samples: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for family in families:
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = sample.value
        return cls(dict(samples), at)

    @property
    def names(self) -> Names | None:
        """The profile of the page; None if it has no family of a language model."""
        for names, prefix in ((RYOT, "ryot_"), (VLLM, "vllm:")):
            if any(name.startswith(prefix) for name in self.samples):
                return names
        return None

    def by(self, name: str, label: str, /, **labels: str) -> dict[str, float]:
        """Sums of a sample's children by one label, of those children that have these labels."""
        sums: dict[str, float] = defaultdict(float)
        for key, value in self.samples.get(name, {}).items():
            if labels.items() <= key:
                sums[dict(key).get(label, "")] += value
        return dict(sums)

    def total(self, name: str, /, **labels: str) -> float | None:
        """The sum of a sample's children that have these labels; None if there is none."""
        return sum(sums.values()) if (sums := self.by(name, "", **labels)) else None

    def quantile(self, histogram: str, q: float) -> float:
        """A quantile of a histogram, summed over its children; NaN if it has no sample."""
        buckets = {float(le): count for le, count in self.by(f"{histogram}_bucket", "le").items()}
        bounds = sorted(buckets)
        # A reset of one child alone can leave a bucket above the next one.
        counts = list(accumulate((buckets[bound] for bound in bounds), max))
        return histogram_quantile(q, bounds, counts)

    def since(self, before: Snapshot) -> Snapshot:
        """What counters and histograms have grown by; for gauges it means nothing.

        One that fell was reset and has grown from zero. If the process is another one, all have.
        """
        restarted = self.samples.get(START_TIME) != before.samples.get(START_TIME)
        old = {} if restarted else before.samples
        grown = {}
        for name, children in self.samples.items():
            past = old.get(name, {})
            grown[name] = {
                key: value - past[key] if value >= past.get(key, math.inf) else value
                for key, value in children.items()
            }
        return Snapshot(grown, self.at - before.at)


def histogram_quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """PromQL's `histogram_quantile` over one classic histogram.

    Args:
        q: The quantile, from 0 to 1.
        bounds: Upper bounds in ascending order, the last one infinite.
        counts: The cumulative count up to each bound.

    Returns:
        The quantile, taking the samples of a bucket as evenly spread. One that falls into the
        infinite bucket is the highest finite bound; NaN without samples or without buckets.

    Raises:
        ValueError: `q` is not within 0 and 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q is {q}; a quantile is from 0 to 1")
    if len(bounds) < 2 or bounds[-1] != math.inf or counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    bucket = bisect_left(counts, rank, hi=len(counts) - 1)
    if bucket == len(counts) - 1:
        return bounds[-2]
    if bucket == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[bucket - 1], counts[bucket - 1]) if bucket else (0.0, 0.0)
    inside = counts[bucket] - below
    return lower + (bounds[bucket] - lower) * ((rank - below) / inside) if inside else math.nan
