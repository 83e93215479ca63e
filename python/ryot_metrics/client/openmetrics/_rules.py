"""The rules of OpenMetrics on what may stand in a sample and in a family.

Works on samples alone; must not read text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby, pairwise

from ryot_metrics.client.samples import Sample

SUFFIXES = {
    "counter": ("_total", "_created"),
    "summary": ("", "_count", "_sum", "_created"),
    "histogram": ("_count", "_sum", "_bucket", "_created"),
    "gaugehistogram": ("_gcount", "_gsum", "_bucket"),
    "info": ("_info",),
}

_COUNTS = ("_count", "_gcount", "_bucket")
_NOT_NEGATIVE = ("_total", "_sum", *_COUNTS)


def group_labels(sample: Sample, name: str, kind: str) -> dict[str, str]:
    """The labels that the samples of one series share; an info's cannot be told apart."""
    if kind == "info":
        return {}
    own = {"summary": "quantile", "stateset": name}.get(kind) if sample.name == name else None
    if sample.name == name + "_bucket" and kind in ("histogram", "gaugehistogram"):
        own = "le"
    return {label: value for label, value in sample.labels.items() if label != own}


def check_names(name: str, kind: str, unit: str, seen: set[str]) -> None:
    """Checks a family's names against all before it, and adds them to `seen`.

    Raises:
        ValueError: If a name is taken, or the unit is not the name's end or not allowed.
    """
    names = {name, *(name + suffix for suffix in SUFFIXES.get(kind, ()))}
    if names & seen:
        raise ValueError(f"family is {name!r}; {sorted(names & seen)} are taken")
    seen |= names
    if unit and (not name.endswith("_" + unit) or kind in ("info", "stateset")):
        raise ValueError(f"unit of {name!r} is {unit!r}; the name of a {kind} must end with it")


def check_sample(sample: Sample, name: str, kind: str, line: str) -> None:
    """Checks a sample by itself.

    Raises:
        ValueError: If its labels, its value or its exemplar break a rule.
    """
    suffix = sample.name[len(name) :]
    problem = (
        _label_problem(sample, suffix, name, kind)
        or _value_problem(sample.value, suffix, kind)
        or _exemplar_problem(sample, suffix, kind)
    )
    if problem:
        raise ValueError(f"line is {line!r}; {problem}")


def _label_problem(sample: Sample, suffix: str, name: str, kind: str) -> str | None:
    if kind == "stateset" and name not in sample.labels:
        return "a state set has a label of its own name"
    if suffix == "_bucket" and not _is_canonical(sample.labels.get("le", "NaN")):
        return "a bucket has a bound le, infinity as +Inf"
    if kind == "summary" and not suffix:
        quantile = sample.labels.get("quantile", "-1")
        if not 0 <= float(quantile) <= 1:
            return "a quantile lies between 0 and 1"
    return None


def _is_canonical(number: str) -> bool:
    return number != "NaN" and (float(number) != math.inf or number == "+Inf")


def _value_problem(value: float, suffix: str, kind: str) -> str | None:
    if suffix in _COUNTS and not float(value).is_integer():
        return "a count is an integer"
    if kind == "stateset" and value not in (0, 1):
        return "a state is 0 or 1"
    if kind == "info" and value != 1:
        return "an info is 1"
    if (suffix in _NOT_NEGATIVE or (kind == "summary" and not suffix)) and value < 0:
        return "this value cannot be negative"
    if suffix in (*_NOT_NEGATIVE, "_gsum") and math.isnan(value):
        return "this value cannot be NaN"
    return None


def _exemplar_problem(sample: Sample, suffix: str, kind: str) -> str | None:
    if sample.exemplar and (kind, suffix) not in (
        ("histogram", "_bucket"),
        ("gaugehistogram", "_bucket"),
        ("counter", "_total"),
    ):
        return "exemplars stand at buckets and counters"
    return None


def check_histogram(samples: Iterable[Sample], name: str) -> None:
    """Checks the buckets, counts and sums of a histogram's series against each other.

    Raises:
        ValueError: If they contradict each other, or one is missing.
    """
    classic = (sample for sample in samples if sample.native_histogram is None)

    def series(sample: Sample) -> tuple[object, object]:
        return group_labels(sample, name, "histogram"), sample.timestamp

    for _, group in groupby(classic, series):
        problem = _series_problem(list(group), name)
        if problem:
            raise ValueError(f"histogram is {name!r}; {problem}")


def _series_problem(samples: list[Sample], name: str) -> str | None:
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name == name + "_bucket"]
    bounds = [bound for bound, _ in buckets]
    values = {sample.name[len(name) :]: sample.value for sample in samples}
    count = values.get("_count", values.get("_gcount"))
    if not bounds or bounds[-1] != math.inf:
        return "+Inf must be the last bucket"
    if any(after <= before for before, after in pairwise(bounds)):
        return "its bounds must grow"
    counts = [value for _, value in buckets]
    if any(after < before for before, after in pairwise(counts)):
        return "its buckets must be cumulative"
    if count is not None and count != counts[-1]:
        return "its count must be that of +Inf"
    if (count is None) != ("_sum" not in values and "_gsum" not in values):
        return "count and sum come together"
    if bounds[0] < 0 and "_sum" in values:
        return "with negative bounds it has no sum"
    if bounds[0] >= 0 and values.get("_gsum", 0) < 0:
        return "its sum is negative, its bounds are not"
    return None
