"""Which type each setting has, so that a value of another one is refused with a sentence.

What is allowed within a type is the native module's to say. Must not import more than the standard
library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

__all__ = ["check_kind"]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not _is_bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not _is_bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, Iterable) and not _is_text(value) and all(map(_is_text, value))


def _is_buckets(value: object) -> bool:
    if _is_number(value) or _is_text(value):
        return True
    return isinstance(value, Iterable) and all(map(_is_number, value))


def _is_mapping(of: Callable[[object], bool]) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        if not isinstance(value, Mapping):
            return False
        return all(map(_is_text, value)) and all(map(of, value.values()))

    return check


_LIST = "a list of names"
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "profile": (_is_text, "the name of a profile"),
    "views": (_is_bool, "True or False"),
    "disabled": (_is_texts, _LIST),
    "sampling": (_is_mapping(_is_whole), "a mapping from histograms to whole numbers"),
    "buckets": (_is_mapping(_is_buckets), "a mapping from histograms to bounds or 'native'"),
    "windows": (_is_texts, "a list of windows such as '5m'"),
    "operation_name": (_is_text, "a text"),
    "labels": (_is_mapping(lambda value: True), "a mapping from labels to values"),
    "series_limit": (_is_whole, "a whole number"),
    "pipeline_recent": (_is_whole, "a whole number"),
    "pipeline_max_open": (_is_whole, "a whole number"),
    "pipeline_max_buffered": (_is_whole, "a whole number"),
    "gpu": (_is_bool, "True or False"),
    "gpu_interval": (_is_number, "a number of seconds"),
    "shared": (_is_text, "a name or a path"),
    "shared_wait": (_is_number, "a number of seconds"),
}


def check_kind(name: str, value: Any) -> None:
    """Refuses a value that is not of a setting's type.

    Raises:
        TypeError: With the setting, the value and the type.

    Example:
        >>> check_kind("sampling", 3)
        Traceback (most recent call last):
        TypeError: sampling is 3; it must be a mapping from histograms to whole numbers
    """
    is_one, expected = _KINDS[name]
    if not is_one(value):
        raise TypeError(f"{name} is {value!r}; it must be {expected}")
