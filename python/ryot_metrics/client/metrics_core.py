"""Families that a collector of one's own fills, one class for each type.

Knows nothing of registries, formats or the native module. A class knows the suffixes of its
samples, and nothing of what its values mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

from ryot_metrics.client.families import METRIC_TYPES, Metric
from ryot_metrics.client.samples import Exemplar, Timestamp

__all__ = [
    "METRIC_TYPES",
    "CounterMetricFamily",
    "GaugeHistogramMetricFamily",
    "GaugeMetricFamily",
    "HistogramMetricFamily",
    "InfoMetricFamily",
    "Metric",
    "StateSetMetricFamily",
    "SummaryMetricFamily",
    "UnknownMetricFamily",
    "UntypedMetricFamily",
]

_Bucket = tuple[str, float] | tuple[str, float, Exemplar | None]


class _Family(Metric):
    """What the families below share: names of labels, given once, or a value at once."""

    def __init__(
        self,
        name: str,
        documentation: str,
        typ: str,
        labels: Iterable[str] | None,
        value: object,
        unit: str = "",
    ) -> None:
        super().__init__(name, documentation, typ, unit)
        if labels is not None and value is not None:
            raise ValueError("Can only specify at most one of value and labels.")
        self._labelnames = tuple(labels or ())

    def _add(
        self,
        suffix: str,
        labels: Iterable[str],
        value: float,
        timestamp: Timestamp | float | None,
        exemplar: Exemplar | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        named = {**dict(zip(self._labelnames, labels, strict=False)), **more}
        self.add_sample(self.name + suffix, named, value, timestamp, exemplar)


class _ValueFamily(_Family):
    """A family whose samples have the name of the family, one for each series."""

    _TYPE: ClassVar[str]

    def __init__(
        self,
        name: str,
        documentation: str,
        value: float | None = None,
        labels: Sequence[str] | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(name, documentation, self._TYPE, labels, value, unit)
        if value is not None:
            self.add_metric([], value)

    def add_metric(
        self, labels: Sequence[str], value: float, timestamp: Timestamp | float | None = None
    ) -> None:
        """Adds the value of one series, by the values of its labels."""
        self._add("", labels, value, timestamp)


class UnknownMetricFamily(_ValueFamily):
    """A family whose type nobody knows; its arguments are those of `GaugeMetricFamily`."""

    _TYPE = "unknown"


UntypedMetricFamily = UnknownMetricFamily


class GaugeMetricFamily(_ValueFamily):
    """A gauge.

    Args:
        name: Its name.
        documentation: Its help.
        value: The value, for a family without labels.
        labels: The names of its labels; give either these or the value.
        unit: Its unit, if any.

    Raises:
        ValueError: If both the value and labels are given.

    Example:
        >>> depth = GaugeMetricFamily("depth", "Waiting jobs.", labels=["queue"])
        >>> depth.add_metric(["mail"], 3)
        >>> depth.samples[0].labels
        {'queue': 'mail'}
    """

    _TYPE = "gauge"


class CounterMetricFamily(_Family):
    """A counter.

    Args:
        name: Its name, with or without `_total`.
        documentation: Its help.
        value: The value, for a family without labels.
        labels: The names of its labels; give either these or the value.
        created: When the counter began, in seconds since the epoch.
        unit: Its unit, if any.
        exemplar: An observation that stands for the others.

    Raises:
        ValueError: If both the value and labels are given.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        value: float | None = None,
        labels: Sequence[str] | None = None,
        created: float | None = None,
        unit: str = "",
        exemplar: Exemplar | None = None,
    ) -> None:
        super().__init__(name.removesuffix("_total"), documentation, "counter", labels, value, unit)
        if value is not None:
            self.add_metric([], value, created, exemplar=exemplar)

    def add_metric(
        self,
        labels: Sequence[str],
        value: float,
        created: float | None = None,
        timestamp: Timestamp | float | None = None,
        exemplar: Exemplar | None = None,
    ) -> None:
        """Adds the count of one series and, if it is known, when it began."""
        self._add("_total", labels, value, timestamp, exemplar)
        if created is not None:
            self._add("_created", labels, created, timestamp)


class SummaryMetricFamily(_Family):
    """A summary without quantiles.

    Args:
        name: Its name.
        documentation: Its help.
        count_value: How many observations, for a family without labels.
        sum_value: Their sum; given together with the count.
        labels: The names of its labels; give either these or the count.
        unit: Its unit, if any.

    Raises:
        ValueError: If only one of count and sum is given, or labels beside them.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        count_value: int | None = None,
        sum_value: float | None = None,
        labels: Sequence[str] | None = None,
        unit: str = "",
    ) -> None:
        if (sum_value is None) != (count_value is None):
            raise ValueError("count_value and sum_value must be provided together.")
        super().__init__(name, documentation, "summary", labels, count_value, unit)
        if count_value is not None and sum_value is not None:
            self.add_metric([], count_value, sum_value)

    def add_metric(
        self,
        labels: Sequence[str],
        count_value: int,
        sum_value: float,
        timestamp: Timestamp | float | None = None,
    ) -> None:
        """Adds the count and the sum of one series."""
        self._add("_count", labels, count_value, timestamp)
        self._add("_sum", labels, sum_value, timestamp)


class HistogramMetricFamily(_Family):
    """A histogram with cumulative buckets.

    Args:
        name: Its name.
        documentation: Its help.
        buckets: Pairs of a bound and a count, or triples with an exemplar; in order of the bounds,
            `+Inf` last.
        sum_value: The sum of all observations.
        labels: The names of its labels; give either these or the buckets.
        unit: Its unit, if any.

    Raises:
        ValueError: If both buckets and labels are given, or a sum without buckets.

    Example:
        >>> family = HistogramMetricFamily("wait", "Wait.", [("1.0", 2), ("+Inf", 3)], 4.5)
        >>> [sample.name for sample in family.samples]
        ['wait_bucket', 'wait_bucket', 'wait_count', 'wait_sum']
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[_Bucket] | None = None,
        sum_value: float | None = None,
        labels: Sequence[str] | None = None,
        unit: str = "",
    ) -> None:
        if sum_value is not None and buckets is None:
            raise ValueError("sum value cannot be provided without buckets.")
        super().__init__(name, documentation, "histogram", labels, buckets, unit)
        if buckets is not None:
            self.add_metric([], buckets, sum_value)

    def add_metric(
        self,
        labels: Sequence[str],
        buckets: Sequence[_Bucket],
        sum_value: float | None,
        timestamp: Timestamp | float | None = None,
    ) -> None:
        """Adds one series; count and sum are left out where a bound is negative."""
        for bound, count, *rest in buckets:
            exemplar = rest[0] if rest else None
            self._add("_bucket", labels, count, timestamp, exemplar, {"le": bound})
        if sum_value is not None and float(buckets[0][0]) >= 0:
            self._add("_count", labels, buckets[-1][1], timestamp)
            self._add("_sum", labels, sum_value, timestamp)


class GaugeHistogramMetricFamily(_Family):
    """A histogram of what is there now, so that its buckets may fall.

    Args:
        name: Its name.
        documentation: Its help.
        buckets: Pairs of a bound and a count, in order of the bounds, `+Inf` last.
        gsum_value: The sum of all values.
        labels: The names of its labels; give either these or the buckets.
        unit: Its unit, if any.

    Raises:
        ValueError: If both buckets and labels are given.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[tuple[str, float]] | None = None,
        gsum_value: float | None = None,
        labels: Sequence[str] | None = None,
        unit: str = "",
    ) -> None:
        super().__init__(name, documentation, "gaugehistogram", labels, buckets, unit)
        if buckets is not None:
            self.add_metric([], buckets, gsum_value)

    def add_metric(
        self,
        labels: Sequence[str],
        buckets: Sequence[tuple[str, float]],
        gsum_value: float | None,
        timestamp: Timestamp | float | None = None,
    ) -> None:
        """Adds one series; its count and sum come as a pair, or not at all."""
        for bound, count in buckets:
            self._add("_bucket", labels, count, timestamp, more={"le": bound})
        if gsum_value is not None:
            self._add("_gcount", labels, buckets[-1][1], timestamp)
            self._add("_gsum", labels, gsum_value, timestamp)


class InfoMetricFamily(_Family):
    """Facts that do not change, as labels of a constant 1.

    Args:
        name: Its name, without `_info`.
        documentation: Its help.
        value: The facts, for a family without labels.
        labels: The names of its labels; give either these or the facts.

    Raises:
        ValueError: If both the facts and labels are given.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        value: Mapping[str, str] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, documentation, "info", labels, value)
        if value is not None:
            self.add_metric([], value)

    def add_metric(
        self,
        labels: Sequence[str],
        value: Mapping[str, str],
        timestamp: Timestamp | float | None = None,
    ) -> None:
        """Adds the facts of one series."""
        self._add("_info", labels, 1, timestamp, more=value)


class StateSetMetricFamily(_Family):
    """States, each of which holds or does not.

    Args:
        name: Its name, which is also the name of the label with the state.
        documentation: Its help.
        value: Which states hold, for a family without labels.
        labels: The names of its labels; give either these or the states.

    Raises:
        ValueError: If both the states and labels are given.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        value: Mapping[str, bool] | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, documentation, "stateset", labels, value)
        if value is not None:
            self.add_metric([], value)

    def add_metric(
        self,
        labels: Sequence[str],
        value: Mapping[str, bool],
        timestamp: Timestamp | float | None = None,
    ) -> None:
        """Adds the states of one series, in the order of their names."""
        for state, holds in sorted(value.items()):
            self._add("", labels, int(bool(holds)), timestamp, more={self.name: state})
