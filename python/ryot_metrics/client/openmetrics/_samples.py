"""Reads one sample line of OpenMetrics: value, timestamp, exemplar, native histogram.

Knows nothing of families, and checks only what a line says by itself.
"""

from __future__ import annotations

import math
import re

from ryot_metrics.client._lines import (
    find,
    find_brace,
    is_name,
    name_among,
    read_labels,
    read_number,
)
from ryot_metrics.client.samples import (
    BucketSpan,
    Exemplar,
    NativeHistogram,
    Sample,
    Timestamp,
)

EXEMPLAR_RUNES_MAX = 128

_DECIMAL = re.compile(r"([+-]?\d+)\.(\d*)")
_FIELD = re.compile(r"(\w+):(\[[^\]]*\]|[^,\[\]]+)(?:,|$)")


def read_sample(line: str, *, native: bool) -> Sample:
    """Reads a line.

    Args:
        line: The line, without its end.
        native: Whether its value may be a native histogram.

    Returns:
        The sample; with a native histogram its value is None, as in `prometheus_client`.

    Raises:
        ValueError: If the line is malformed.
    """
    end = find(line, " {")
    if end == -1:
        raise ValueError(f"line is {line!r}; it has no value")
    name = line[:end]
    labels: dict[str, str] = {}
    if line[end] == "{":
        close = find_brace(line, end)
        labels = read_labels(line[end + 1 : close], strict=True)
        name = name_among(labels, name)
        end = close + 1
    elif not is_name(name):
        raise ValueError(f"line is {line!r}; its name needs quotes, between braces")
    if line[end : end + 1] != " ":
        raise ValueError(f"line is {line!r}; a space must stand before the value")
    rest = line[end + 1 :]
    if native and rest.startswith("{"):
        return Sample(name, labels, None, None, None, _histogram(rest))  # type: ignore[arg-type]
    plain, mark, exemplar = rest.partition(" # ")
    value, timestamp = _value_and_timestamp(plain)
    return Sample(name, labels, value, timestamp, _exemplar(exemplar) if mark else None)


def _value_and_timestamp(text: str) -> tuple[float, Timestamp | float | None]:
    value, *timestamp = text.split(" ")
    if len(timestamp) > 1:
        raise ValueError(f"sample ends with {text!r}; a value and a timestamp may stand there")
    return read_number(value), _timestamp(timestamp[0]) if timestamp else None


def _timestamp(text: str) -> Timestamp | float:
    decimal = _DECIMAL.fullmatch(text)
    if decimal:
        return Timestamp(int(decimal[1]), int(decimal[2][:9].ljust(9, "0")))
    seconds = read_number(text)
    if isinstance(seconds, int):
        return Timestamp(seconds, 0)
    if not math.isfinite(seconds):
        raise ValueError(f"timestamp is {text!r}; it must be finite")
    return seconds


def _exemplar(text: str) -> Exemplar:
    close = find_brace(text, 0)
    if not text.startswith("{") or text[close + 1 : close + 2] != " ":
        raise ValueError(f"exemplar is {text!r}; it must be labels between braces, and a value")
    labels = read_labels(text[1:close], strict=True)
    runes = sum(len(name) + len(value) for name, value in labels.items())
    if runes > EXEMPLAR_RUNES_MAX:
        raise ValueError(f"exemplar labels have {runes} characters; limit is {EXEMPLAR_RUNES_MAX}")
    return Exemplar(labels, *_value_and_timestamp(text[close + 2 :]))


def _histogram(text: str) -> NativeHistogram:
    if not text.endswith("}"):
        raise ValueError(f"native histogram is {text!r}; it must end with a brace")
    fields = dict(_FIELD.findall(text[1:-1]))
    try:
        return NativeHistogram(
            count_value=int(fields["count"]),
            sum_value=float(fields["sum"]),
            schema=int(fields["schema"]),
            zero_threshold=float(fields["zero_threshold"]),
            zero_count=int(fields["zero_count"]),
            pos_spans=_spans(fields.get("positive_spans")),
            neg_spans=_spans(fields.get("negative_spans")),
            pos_deltas=_integers(fields.get("positive_deltas")),
            neg_deltas=_integers(fields.get("negative_deltas")),
        )
    except KeyError as missing:
        raise ValueError(f"native histogram is {text!r}; {missing} is missing") from None


def _integers(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(int(item) for item in text.strip("[]").split(","))


def _spans(text: str | None) -> tuple[BucketSpan, ...] | None:
    if text is None:
        return None
    pairs = (span.split(":") for span in text.strip("[]").split(","))
    return tuple(BucketSpan(int(offset), int(length)) for offset, length in pairs)
