"""Settings as text: how the variables `RYOT_METRICS_*` are read, and values written as they are.

Must not know what a value may be, nor more than the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["PARSERS", "nearest", "unknown", "variable", "written"]

_PREFIX = "RYOT_METRICS_"
_OTHERS = ("RYOT_METRICS_CACHE",)
"""Variables that are no settings of the metrics: where models are kept."""


def variable(name: str) -> str:
    """The environment variable of a setting.

    Example:
        >>> variable("series_limit")
        'RYOT_METRICS_SERIES_LIMIT'
    """
    return f"{_PREFIX}{name.upper()}"


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
    "pipeline_recent": int,
    "pipeline_max_open": int,
    "pipeline_max_buffered": int,
    "gpu": _bool,
    "gpu_interval": float,
    "shared": str,
    "shared_wait": float,
}
"""Each setting, in the order in which they are shown, by what reads its variable."""


def _known() -> list[str]:
    return [*map(variable, PARSERS), *_OTHERS]


def unknown(names: Iterable[str]) -> list[str]:
    """Those of these variables that look like settings and are none.

    Example:
        >>> unknown(["HOME", "RYOT_METRICS_GPU", "RYOT_METRICS_GPUS"])
        ['RYOT_METRICS_GPUS']
    """
    known = _known()
    return sorted(name for name in names if name.startswith(_PREFIX) and name not in known)


def nearest(name: str) -> str:
    """The variable that there is whose name is most like this one.

    Example:
        >>> nearest("RYOT_METRICS_SERIES_LIMITS")
        'RYOT_METRICS_SERIES_LIMIT'
    """
    from difflib import get_close_matches

    return get_close_matches(name, _known(), n=1, cutoff=0)[0]


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
