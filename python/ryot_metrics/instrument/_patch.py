"""Replacing a method, and putting the original back. Knows nothing of what is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any

_ABSENT = object()
_MARK = "__ryot_replaced__"


def check(target: Any, what: str, *names: str) -> None:
    """Refuses a target that has none of these methods, of which nothing would be measured.

    Raises:
        TypeError: With what it must be.
    """
    if not (
        hasattr(target, "__dict__") and any(callable(getattr(target, it, None)) for it in names)
    ):
        raise TypeError(f"{target!r:.100} cannot be measured; it must be {what}")


def replace(target: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Puts `make(original)` in the place of `target.name`, once.

    The new one keeps the original's name, documentation and signature, and is of its kind if
    `make` sees to that. A target without the method is left alone.
    """
    original = getattr(target, name, None)
    own = vars(target).get(name, _ABSENT)
    if original is None or hasattr(own, _MARK):
        return
    function: Any = getattr(original, "__func__", None)
    if hasattr(function, _MARK):  # its class has been replaced too; once is enough
        original = MethodType(function.__wrapped__, target)
    wrapper = functools.wraps(original)(make(original))
    setattr(wrapper, _MARK, own)
    setattr(target, name, wrapper)


def uninstrument(target: Any) -> None:
    """Takes the measuring away again; calls that are under way are still measured to their end.

    Args:
        target: What was instrumented: a client, a model, or what `instrument.openai()` gave.

    Example:
        >>> import httpx
        >>> from ryot_metrics import instrument
        >>> with instrument.httpx(httpx.Client()) as client:
        ...     instrument.uninstrument(client)
    """
    if isinstance(target, ModuleType):
        for owner in (target.OpenAI, target.AsyncOpenAI):
            uninstrument(owner)
        return
    for name, value in list(vars(target).items()):
        replaced = getattr(value, _MARK, None)
        if replaced is _ABSENT:
            delattr(target, name)
        elif replaced is not None:
            setattr(target, name, replaced)
