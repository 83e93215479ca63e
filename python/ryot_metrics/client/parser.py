"""Reads the Prometheus text format, 0.0.4 and 1.0.0, as leniently as `prometheus_client` does.

Must not import the native module. It accepts more than a Prometheus server: what must hold for
all readers is for the strict parser of `openmetrics.parser` to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from io import StringIO

from ryot_metrics.client._lines import (
    find,
    find_brace,
    is_name,
    name_among,
    read_labels,
    read_name,
    read_number,
    split,
)
from ryot_metrics.client.families import Metric
from ryot_metrics.client.samples import Sample

_SUFFIXES = {"summary": ("_count", "_sum", ""), "histogram": ("_count", "_sum", "_bucket")}
_HELP_ESCAPE = re.compile(r"\\([\\n])")


def text_string_to_metric_families(text: str) -> Iterator[Metric]:
    r"""Reads a page.

    Args:
        text: The page.

    Returns:
        Its families; a counter's name has no `_total`, its samples have.

    Raises:
        ValueError: If a line cannot be read.

    Example:
        >>> page = "# TYPE jobs_total counter\njobs_total 3\n"
        >>> [(family.name, family.samples[0].value) for family in
        ...  text_string_to_metric_families(page)]
        [('jobs', 3)]
    """
    return text_fd_to_metric_families(StringIO(text))


def text_fd_to_metric_families(fd: Iterable[str]) -> Iterator[Metric]:
    """Reads a page line by line, from an open text file or any other source of lines.

    Args:
        fd: The lines.

    Yields:
        Each family as soon as the next one begins.

    Raises:
        ValueError: If a line cannot be read.
    """
    family = _Family("")
    for raw in fd:
        line = raw.strip()
        if line.startswith("#"):
            name, apply = _comment(line)
            if apply is None:
                continue
            if name != family.name:
                yield from family.finished()
                family = _Family(name)
            apply(family)
        elif line:
            sample = _sample(line)
            if sample.name in family.allowed:
                family.samples.append(sample)
            else:  # nothing announced it: a family of its own
                yield from family.finished()
                family = _Family("")
                yield from _Family(sample.name, [sample]).finished()
    yield from family.finished()


class _Family:
    """A family while its lines are read."""

    def __init__(self, name: str, samples: list[Sample] | None = None) -> None:
        self.name = name
        self.allowed: tuple[str, ...] = (name,) if name else ()
        self.samples = samples or []
        self._help = ""
        self._type = "untyped"

    def set_help(self, text: str) -> None:
        self._help = _HELP_ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)

    def set_type(self, kind: str) -> None:
        self._type = kind
        self.allowed = tuple(self.name + suffix for suffix in _SUFFIXES.get(kind, ("",)))

    def finished(self) -> Iterator[Metric]:
        if not self.name:
            return
        name, samples = self.name, self.samples
        if self._type == "counter":
            name = name.removesuffix("_total")
            if name == self.name:
                samples = [sample._replace(name=sample.name + "_total") for sample in samples]
        metric = Metric(name, self._help, self._type)
        metric.samples = samples
        yield metric


def _comment(line: str) -> tuple[str, Callable[[_Family], None] | None]:
    """The family that a comment speaks of, and what it says; None if it says nothing."""
    _, keyword, name, text = [*split(line), "", "", ""][:4]
    if keyword not in ("HELP", "TYPE"):
        return "", None
    if keyword == "HELP":
        return name and read_name(name), lambda family: family.set_help(text)
    if not text:
        raise ValueError(f"line is {line!r}; a type is missing")
    return read_name(name), lambda family: family.set_type(text)


def _sample(line: str) -> Sample:
    brace = find(line, "{")
    if brace == -1 or " # " in line[:brace]:  # a brace behind ` # ` is an exemplar's
        end = find(line, " \t")
        name, labels, rest = line[:end].strip(), {}, line[end:]
        if end == -1 or not is_name(name):
            raise ValueError(f"line is {line!r}; it has no metric name and value")
    else:
        end = find_brace(line, brace)
        name, rest = line[:brace].strip(), line[end + 1 :]
        labels = read_labels(line[brace + 1 : end], strict=False)
        name = name_among(labels, name)
    return Sample(name, labels, *_value_and_timestamp(rest))


def _value_and_timestamp(text: str) -> tuple[float, float | None]:
    """A value and a timestamp in milliseconds; what lies between is some other dialect's."""
    text = text.lstrip()
    fields = [field for part in text.split(" " if " " in text else "\t") if (field := part.strip())]
    if not fields:
        raise ValueError("a value is missing")
    return read_number(fields[0]), read_number(fields[-1]) / 1000 if fields[1:] else None
