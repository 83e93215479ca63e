"""What both text formats share within a line: quotes, escapes, labels, numbers.

Knows nothing of families. A character counts as quoted between two `"` that no backslash escapes.
"""

from __future__ import annotations

import functools
import re

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_ESCAPE = re.compile(r'\\([\\n"])')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BLANKS = " \t\n\r\x0b\x0c"


@functools.cache
def _marks(characters: str) -> re.Pattern[str]:
    return re.compile(r'\\["\\]|["' + re.escape(characters) + "]")


def find(text: str, characters: str, start: int = 0) -> int:
    """The position of the first of some characters outside quotes; -1 if there is none."""
    quoted = False
    for mark in _marks(characters).finditer(text, start):
        if mark[0] == '"':
            quoted = not quoted
        elif not quoted and mark[0] in characters:  # and no escape
            return mark.start()
    return -1


def find_brace(text: str, start: int) -> int:
    """The position of the brace that closes the labels which begin at `start`.

    Raises:
        ValueError: If there is none.
    """
    close = find(text, "}", start)
    if close == -1:
        raise ValueError(f"text is {text!r}; a closing brace is missing")
    return close


def split(text: str, separators: str = _BLANKS) -> list[str]:
    """The first three words of a line and what follows them, if anything does."""
    words: list[str] = []
    rest = text
    while len(words) < 3:
        rest = rest.lstrip(separators)
        end = find(rest, separators)
        if end == -1:
            return [*words, rest] if rest else words
        words.append(rest[:end])
        rest = rest[end:]
    return [*words, rest.lstrip(separators)]


def is_name(text: str) -> bool:
    """Whether a metric's name may stand without quotes."""
    return _NAME.fullmatch(text) is not None


def unescape(text: str) -> str:
    r"""The text with `\\`, `\n` and `\"` resolved; any other backslash stands for itself."""
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def read_name(text: str) -> str:
    """A name, with or without quotes.

    Raises:
        ValueError: If it needs quotes and has none, or only one.
    """
    if not text.startswith('"'):
        if not is_name(text):
            raise ValueError(f"name is {text!r}; it needs quotes")
        return text
    if len(text) == 1 or not text.endswith('"'):
        raise ValueError(f"name is {text!r}; it has no closing quote")
    return unescape(text[1:-1])


def read_number(text: str) -> float:
    """A number: an int where it is written as one.

    Raises:
        ValueError: If it is none.
    """
    if "_" in text or text != text.strip():
        raise ValueError(f"value is {text!r}; it must be a number")
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_labels(text: str, *, strict: bool) -> dict[str, str]:
    """Labels, as they stand between braces; a quoted name alone is the label `__name__`.

    Args:
        text: What stands between the braces.
        strict: Whether superfluous commas and labels without a value are errors.

    Returns:
        The labels in their order.

    Raises:
        ValueError: If they are malformed, or a name occurs twice.
    """
    labels: dict[str, str] = {}
    terms = _terms(text.strip())
    if not strict and "" in terms[1:-1]:
        raise ValueError(f"labels are {text!r}; two commas in a row")
    for term in terms:
        equals = find(term, "=")
        name, value = ("__name__", term) if equals == -1 else (term[:equals], term[equals + 1 :])
        value = value.strip()
        if not value:
            if strict:
                raise ValueError(f"labels are {text!r}; one has no value")
            continue
        name = name if equals == -1 else _label_name(name.strip())
        if name in labels:
            raise ValueError(f"labels are {text!r}; {name!r} occurs twice")
        labels[name] = _label_value(value)
    return labels


def name_among(labels: dict[str, str], name: str) -> str:
    """The name of a sample, which stands before its labels or, quoted, among them.

    Raises:
        ValueError: If it stands in both places or in none.
    """
    quoted = labels.pop("__name__", None)
    if bool(name) == (quoted is not None) or quoted == "":
        raise ValueError(f"metric name is {name!r} and {quoted!r}; it must stand in one place")
    return name if quoted is None else quoted


def _terms(text: str) -> list[str]:
    terms: list[str] = []
    start = 0
    while text:
        comma = find(text, ",", start)
        if comma == -1:
            return [*terms, text[start:]]
        terms.append(text[start:comma])
        start = comma + 1
    return terms


def _label_name(text: str) -> str:
    name = read_name(text)
    name.encode()  # a lone surrogate is UnicodeEncodeError, a ValueError
    if name.startswith("__") and name != "__name__":
        raise ValueError(f"label name is {name!r}; two underscores in front are reserved")
    return name


def _label_value(text: str) -> str:
    if not _QUOTED.fullmatch(text):
        raise ValueError(f"label value is {text!r}; it must be one quoted string")
    return unescape(text[1:-1])
