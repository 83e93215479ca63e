"""Tokens in a response body: the events of a stream, and OpenAI's `usage`.

Knows bytes, nothing of HTTP or of requests.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

MAX_EVENT_BYTES = 65_536
"""The most that is kept of an event whose end has not come yet."""

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(rb"(?:^|[\r\n])data: ?([^\r\n]*)")
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
DONE = b"data: [DONE]"
"""How a stream of OpenAI's shape says that nothing else comes."""


class Usage(NamedTuple):
    """The tokens that a response reports; None where it does not."""

    prompt_tokens: int | None
    completion_tokens: int | None


def usage_of(body: bytes) -> Usage | None:
    """OpenAI's `usage` in a JSON document, if it is there.

    Example:
        >>> usage_of(b'{"usage": {"prompt_tokens": 3, "completion_tokens": 5}}')
        Usage(prompt_tokens=3, completion_tokens=5)
    """
    if b'"usage"' not in body or not _USAGE.search(body):
        return None
    usage = json_object(body).get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes; an empty one where there is another thing, or none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


class Events:
    r"""Counts the events of a stream that stand for tokens, however it is cut into chunks.

    Events without data (comments, pings), `[DONE]`, empty deltas and the event that carries the
    usage are none.

    Attributes:
        usage: What the stream reported, if it did.

    Example:
        >>> events = Events()
        >>> events.feed(b"data: a\n\ndata: b\n")
        1
        >>> events.feed(b"\n: ping\n\ndata: [DONE]\n\n")
        1
    """

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._rest = b""

    def feed(self, chunk: bytes) -> int:
        """How many events of tokens end in this chunk."""
        # One whole event, as most servers send them; the rest of this method is for all others.
        if not self._rest and chunk.find(b"\n\n") == len(chunk) - 2 >= 0 and b"\r" not in chunk:
            return int(self._is_token(chunk))
        *events, self._rest = _END_OF_EVENT.split(self._rest + chunk)
        if len(self._rest) > MAX_EVENT_BYTES:
            self._rest = b""
        return sum(map(self._is_token, events))

    def _is_token(self, event: bytes) -> bool:
        data = _DATA.search(event)
        if data is None or data[1] == b"[DONE]" or b'"delta":{}' in data[1]:
            return False
        usage = usage_of(data[1])
        self.usage = usage or self.usage
        return usage is None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
