"""Numbers as a page writes them, under the path of `prometheus_client.utils`."""

from __future__ import annotations

import math

INF = math.inf
MINUS_INF = -math.inf
NaN = math.nan

_PLAIN_DIGITS_MAX = 6  # from there on Go writes an exponent


def floatToGoString(d: float | str) -> str:  # noqa: N802  # its name in prometheus_client
    """A number as Go writes it.

    Args:
        d: The number.

    Returns:
        Its text; an exponent stands where Go has one, in positive numbers alone.

    Example:
        >>> floatToGoString(1), floatToGoString(1234567.5), floatToGoString(INF)
        ('1.0', '1.2345675e+06', '+Inf')
    """
    number = float(d)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    text = repr(number)
    whole, dot, fraction = text.partition(".")
    if number <= 0 or not dot or len(whole) <= _PLAIN_DIGITS_MAX:
        return text
    digits = f"{whole[1:]}{fraction}".rstrip("0")
    return f"{whole[0]}{'.' if digits else ''}{digits}e+{len(whole) - 1:02d}"
