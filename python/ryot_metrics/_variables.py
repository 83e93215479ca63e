"""Settings as text: how the variables `RYOT_METRICS_*` are read, and values written as they are.

Must not know what a value may be, nor more than the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["PARSERS", "variable", "written"]


def variable(name: str) -> str:
    """The environment variable of a setting.

    Example:
        >>> variable("series_limit")
        'RYOT_METRICS_SERIES_LIMIT'
    """
    return f"RYOT_METRICS_{name.upper()}"


def _bool(text: str) -> bool:
    words = {"1": True, "true": True, "on": True, "yes": True}
    words |= {"0": False, "false": False, "off": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"it must be one of {', '.join(words)}")
    return words[text.lower()]


def _list(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _pairs(text: str, separator: str = ",") -> dict[str, str]:
    pairs = {}
    for part in _list(text, separator):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} has no '='")
        pairs[name.strip()] = value.strip()
    return pairs


def _bounds(text: str) -> list[float] | str:
    return text if text == "native" else [float(bound) for bound in text.split()]


PARSERS: dict[str, Callable[[str], Any]] = {
    "profile": str,
    "views": _bool,
    "disabled": _list,
    "sampling": lambda text: {name: int(every) for name, every in _pairs(text).items()},
    "buckets": lambda text: {name: _bounds(value) for name, value in _pairs(text, ";").items()},
    "windows": _list,
    "operation_name": str,
    "labels": _pairs,
    "series_limit": int,
    "gpu": _bool,
    "gpu_interval": float,
}
"""Each setting, in the order in which they are shown, by what reads its variable."""


def written(value: Any) -> str:
    """A value as its environment variable writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        bounds = any(not isinstance(it, (str, int)) for it in value.values())
        pairs = (f"{name}={written(it)}" for name, it in value.items())
        return (";" if bounds else ",").join(pairs)
    if isinstance(value, (list, tuple)):
        numbers = all(isinstance(it, (int, float)) for it in value)
        return " ".join(f"{it:g}" for it in value) if numbers else ",".join(value)
    return str(value)
