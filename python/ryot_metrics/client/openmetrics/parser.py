"""Reads the OpenMetrics text format 1.0, strictly.

Must not import the native module. A line is read here and in `_samples`; whether a family's
samples may stand together is for `_rules` to say. Native histograms, which OpenMetrics has from
2.0 on, are read where `prometheus_client` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import StringIO
from typing import NamedTuple

from ryot_metrics.client._lines import is_name, read_name, split, unescape
from ryot_metrics.client.families import Metric
from ryot_metrics.client.openmetrics import _rules
from ryot_metrics.client.openmetrics._samples import read_sample
from ryot_metrics.client.samples import Sample, Timestamp

_Key = tuple[tuple[str, str], ...]


def text_string_to_metric_families(text: str) -> Iterator[Metric]:
    r"""Reads a page.

    Args:
        text: The page.

    Returns:
        Its families.

    Raises:
        ValueError: If the page breaks a rule of OpenMetrics.

    Example:
        >>> page = "# TYPE jobs counter\njobs_total 3\n# EOF\n"
        >>> [(family.name, family.type) for family in text_string_to_metric_families(page)]
        [('jobs', 'counter')]
    """
    return text_fd_to_metric_families(StringIO(text))


def text_fd_to_metric_families(fd: Iterable[str]) -> Iterator[Metric]:
    """Reads a page line by line, from an open text file or any other source of lines.

    Args:
        fd: The lines.

    Yields:
        Each family as soon as the next one begins.

    Raises:
        ValueError: If the page breaks a rule of OpenMetrics.
    """
    seen: set[str] = set()
    family: _Family | None = None
    ended = False
    for raw in fd:
        line = raw.removesuffix("\n")
        if ended or not line:
            raise ValueError(f"line is {line!r}; no line may be blank or follow # EOF")
        if line == "# EOF":
            ended = True
            continue
        entry: _Metadata | Sample
        if line.startswith("#"):
            entry = _metadata(line)
        else:
            entry = read_sample(line, native=family is not None and family.kind == "histogram")
        if family is None or not family.takes(entry):
            if family is not None:
                yield family.finished(seen)
            family = _Family(entry)
        family.add(entry, line)
    if family is not None:
        yield family.finished(seen)
    if not ended:
        raise ValueError("the page does not end with # EOF")


class _Metadata(NamedTuple):
    """A line `# keyword name text`."""

    keyword: str
    name: str
    text: str


def _metadata(line: str) -> _Metadata:
    words = split(line, " ")
    if len(words) < 4 or words[1] not in ("HELP", "TYPE", "UNIT"):
        raise ValueError(
            f"line is {line!r}; it must be # HELP, # TYPE or # UNIT, a name and a text"
        )
    return _Metadata(words[1], read_name(words[2]), words[3])


class _Family:
    """A family while its lines are read."""

    def __init__(self, first: _Metadata | Sample) -> None:
        if isinstance(first, Sample) and not is_name(first.name):
            raise ValueError(f"sample name is {first.name!r}; # TYPE must announce it")
        self._name = first.name
        self._told: dict[str, str] = {"TYPE": "unknown"} if isinstance(first, Sample) else {}
        self._samples: list[Sample] = []
        self._group: _Key | None = None  # of the last sample
        self._timestamp: Timestamp | float | None = None  # of the last sample
        self._series: set[tuple[str, _Key]] = set()  # in the current group
        self._groups: set[_Key] = set()

    @property
    def kind(self) -> str:
        return self._told.get("TYPE", "unknown")

    def takes(self, entry: _Metadata | Sample) -> bool:
        if isinstance(entry, _Metadata) or entry.native_histogram is not None:
            return entry.name == self._name
        suffixes = _rules.SUFFIXES.get(self.kind, ("",))
        return any(entry.name == self._name + suffix for suffix in suffixes)

    def add(self, entry: _Metadata | Sample, line: str) -> None:
        if isinstance(entry, _Metadata):
            if self._samples or entry.keyword in self._told:
                raise ValueError(f"line is {line!r}; it comes twice, or after a sample")
            if entry.keyword == "TYPE" and entry.text == "untyped":
                raise ValueError(f"line is {line!r}; OpenMetrics says unknown")
            self._told[entry.keyword] = entry.text
        elif entry.native_histogram is not None:
            self._samples.append(entry)
        else:
            _rules.check_sample(entry, self._name, self.kind, line)
            self._add_sample(entry, line)

    def _add_sample(self, sample: Sample, line: str) -> None:
        """Takes a sample, unless it repeats a series at one time, as cut timestamps make it."""
        group = _key(_rules.group_labels(sample, self._name, self.kind))
        if group != self._group:
            if group in self._groups:
                raise ValueError(f"line is {line!r}; the group of its labels had ended")
            self._series = set()
        else:
            self._check_timestamp(sample.timestamp, line)
        series = sample.name, _key(sample.labels)
        if sample.timestamp != self._timestamp or series not in self._series:
            self._samples.append(sample)
        self._series.add(series)
        self._groups.add(group)
        self._group, self._timestamp = group, sample.timestamp

    def _check_timestamp(self, timestamp: Timestamp | float | None, line: str) -> None:
        if (timestamp is None) != (self._timestamp is None):
            raise ValueError(f"line is {line!r}; a group has timestamps at all samples or at none")
        if timestamp is None or self._timestamp is None or self.kind == "info":
            return
        if self._timestamp > timestamp:
            raise ValueError(f"line is {line!r}; its timestamp is older than the last one")

    def finished(self, seen: set[str]) -> Metric:
        unit = self._told.get("UNIT", "")
        _rules.check_names(self._name, self.kind, unit, seen)
        if self.kind in ("histogram", "gaugehistogram"):
            _rules.check_histogram(self._samples, self._name)
        metric = Metric(self._name, unescape(self._told.get("HELP", "")), self.kind, unit)
        metric.samples = self._samples
        return metric


def _key(labels: dict[str, str]) -> _Key:
    return tuple(sorted(labels.items()))
