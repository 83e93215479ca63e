"""A bounded look into a request's body, which the app can still read as if nobody had.

A body that is no JSON, or that is announced as larger than the limit, is not touched.
"""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MAX_BODY_BYTES = 65_536
"""The largest body that is read for labels, by default: 64 KiB."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


def is_json(content_type: str) -> bool:
    """Whether a body of this type is JSON.

    Example:
        >>> is_json("application/json; charset=utf-8"), is_json("text/plain")
        (True, False)
    """
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in these bytes; an empty one where there is another thing, or none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


async def peek(receive: Receive, announced: str, limit: int) -> tuple[bytes | None, Receive]:
    """Reads the body of an ASGI request, if it is small enough.

    Args:
        receive: Where its messages come from.
        announced: Its length as the head announces it; empty if it does not.
        limit: The most bytes to read.

    Returns:
        The body, or None if it is too large or the client hung up, and a `receive` that gives
        the app every message again.
    """
    if announced.isdecimal() and int(announced) > limit:
        return None, receive
    messages: deque[Message] = deque()
    body = b""
    whole = False
    while not whole and len(body) <= limit:
        messages.append(message := await receive())
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        whole = not message.get("more_body", False)

    async def replay() -> Message:
        return messages.popleft() if messages else await receive()

    return body if whole and len(body) <= limit else None, replay


def peek_wsgi(environ: dict[str, Any], limit: int) -> bytes | None:
    """Reads the body of a WSGI request, if its length is announced and small enough.

    Args:
        environ: Its environment; `wsgi.input` is replaced by the body that was read.
        limit: The most bytes to read.

    Returns:
        The body; None if it was not read.
    """
    try:
        length = int(environ.get("CONTENT_LENGTH") or -1)
        if not 0 <= length <= limit:
            return None
        body: bytes = environ["wsgi.input"].read(length)
    except (ValueError, OSError):  # the app meets the same when it reads
        return None
    environ["wsgi.input"] = io.BytesIO(body)
    return body
