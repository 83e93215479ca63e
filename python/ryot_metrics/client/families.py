"""A family as data: what a collector gives and a parser reads.

Knows nothing of registries, formats or the native module. A family checks its name and its type;
whether its samples make sense is for the strict parser to say.
"""

from __future__ import annotations

from collections.abc import Collection

from ryot_metrics.client.samples import Exemplar, NativeHistogram, Sample, Timestamp

METRIC_TYPES = (
    "counter",
    "gauge",
    "summary",
    "histogram",
    "gaugehistogram",
    "unknown",
    "info",
    "stateset",
)


class Metric:
    """One family of a page, with all its samples.

    Args:
        name: The family's name; a unit that it does not end with is added to it.
        documentation: Its help.
        typ: One of `METRIC_TYPES`, or `untyped` for `unknown`.
        unit: Its unit, if any.

    Raises:
        ValueError: If the name is empty or no UTF-8, or the type is unknown.

    Example:
        >>> wait = Metric("wait", "Time in the queue.", "gauge", "seconds")
        >>> wait.add_sample("wait_seconds", {}, 0.5)
        >>> wait.name, wait.samples[0].value
        ('wait_seconds', 0.5)
    """

    def __init__(self, name: str, documentation: str, typ: str, unit: str = "") -> None:
        if unit and not name.endswith("_" + unit):
            name += "_" + unit
        if not name:
            raise ValueError("a metric name must not be empty")
        name.encode()  # a lone surrogate cannot stand on a page: UnicodeEncodeError, a ValueError
        kind = "unknown" if typ == "untyped" else typ
        if kind not in METRIC_TYPES:
            raise ValueError(f"Invalid metric type: {typ}")
        self.name = name
        self.documentation = documentation
        self.type = kind
        self.unit = unit
        self.samples: list[Sample] = []

    def add_sample(
        self,
        name: str,
        labels: dict[str, str],
        value: float,
        timestamp: Timestamp | float | None = None,
        exemplar: Exemplar | None = None,
        native_histogram: NativeHistogram | None = None,
    ) -> None:
        """Adds one sample, by the name it has on the page."""
        self.samples.append(Sample(name, labels, value, timestamp, exemplar, native_histogram))

    def restricted(self, names: Collection[str]) -> Metric | None:
        """The family with only the samples of these names.

        Args:
            names: Names of samples, with their suffixes.

        Returns:
            A new family; None if no sample has such a name.
        """
        samples = [sample for sample in self.samples if sample.name in names]
        if not samples:
            return None
        part = Metric(self.name, self.documentation, self.type, self.unit)
        part.samples = samples
        return part

    def _facts(self) -> tuple[str, str, str, str, list[Sample]]:
        return self.name, self.documentation, self.type, self.unit, self.samples

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metric) and self._facts() == other._facts()

    __hash__ = None  # type: ignore[assignment]  # it changes with each sample

    def __repr__(self) -> str:
        return "Metric({}, {}, {}, {}, {})".format(*self._facts())
