"""What results and items of streams say about their tokens, by attributes or by keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ryot_metrics._ryot_metrics import MAX_COUNT
from ryot_metrics.callbacks import report, safely

PLAIN = frozenset({str, bytes, int, float, bool, list, tuple, type(None)})
"""Types whose values say nothing about tokens."""


_TOLD = ("content", "reasoning_content", "tool_calls", "refusal", "text")


class Usage(NamedTuple):
    """Numbers of tokens; None for what is not said."""

    completion: int | None = None
    prompt: int | None = None
    ttft: float | None = None


def field(value: object, name: str) -> Any:
    """The value's key or attribute of this name; None if it has none, or does not tell it."""
    if isinstance(value, dict):
        return value.get(name)
    try:
        return getattr(value, name, None)
    except Exception:  # a property of the user's; recording must not fail the request
        return None


def usage_of(value: object) -> Usage:
    """Reads `token_count`, `ttft_seconds` and an OpenAI-style `usage`.

    Example:
        >>> usage_of({"usage": {"prompt_tokens": 3, "completion_tokens": 5}})
        Usage(completion=5, prompt=3, ttft=None)
    """
    usage = field(value, "usage")
    completion = _number(value, "token_count")
    if usage is not None and completion is None:
        completion = _number(usage, "completion_tokens", "output_tokens")
    prompt = _number(usage, "prompt_tokens", "input_tokens") if usage is not None else None
    ttft = field(value, "ttft_seconds")
    return Usage(completion, prompt, ttft if isinstance(ttft, int | float) else None)


def tokens_of_item(item: object) -> int:
    """Tokens in an item of a stream: 1, but 0 for an OpenAI-style chunk that has no text.

    Example:
        >>> tokens_of_item({"choices": [{"delta": {"role": "assistant"}}]})
        0
        >>> tokens_of_item({"choices": [{"delta": {"content": "Hi"}}]})
        1
    """
    choices = field(item, "choices")
    if not isinstance(choices, list):
        return 1
    for choice in choices:
        delta = field(choice, "delta") or choice
        for name in _TOLD:
            if field(delta, name):
                return 1
    return 0


def is_truncated(value: object) -> bool:
    """Whether an answer, or an item of a stream, says that it ended at its limit of tokens.

    In the words of OpenAI's completions and responses, and of Anthropic's messages.

    Example:
        >>> is_truncated({"choices": [{"text": "Hi", "finish_reason": "length"}]})
        True
        >>> is_truncated({"stop_reason": "end_turn"})
        False
    """
    choices = field(value, "choices")
    if isinstance(choices, list):
        return any(field(choice, "finish_reason") == "length" for choice in choices)
    if field(value, "stop_reason") == "max_tokens":
        return True
    details = field(value, "incomplete_details")
    return bool(field(details, "reason") == "max_output_tokens")


def called(count: Callable[[Any], object], value: object) -> int | None:
    """The tokens that a function of the user's counts; None if it counts none that make sense."""
    return answered("token_count", safely(count, value))


def answered(name: str, answer: object) -> int | None:
    """The number that a function of the user's gave as an option; None if it gave none."""
    number = whole(answer)
    if number is None and answer is not None:
        report(name, f"{answer!r:.100} is no number from 0 to {MAX_COUNT - 1}")
    return number


def _number(value: object, *names: str) -> int | None:
    found = (whole(field(value, name)) for name in names)
    return next((number for number in found if number is not None), None)


def whole(value: Any) -> int | None:
    """The value as a number of tokens or sequences; None if it is none.

    Example:
        >>> from decimal import Decimal
        >>> whole(Decimal(7)), whole(-1), whole("7"), whole(None)
        (7, None, None, None)
    """
    try:
        number = int(value)  # of any library: numpy's, a tensor's
        return number if number == value and 0 <= number < MAX_COUNT else None
    except Exception:
        return None
