"""Who may ask: API keys, as OpenAI's clients send them (`Authorization: Bearer KEY`).

Keys are kept and compared as digests, all of them each time, so that neither a key's length nor
how much of it was right shows in the time of an answer. Must not know what the routes do.
"""

from __future__ import annotations

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from ryot_metrics.serve.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "RYOT_METRICS_API_KEY"
"""The environment variable of a key."""

ALWAYS_OPEN = ("/health",)
PAGES = ("/metrics", "/dashboard")
"""Open too, unless they are protected: a scraper seldom has a key of the API."""


def read_keys(keys: Iterable[str] = (), file: str | None = None) -> list[str]:
    """The keys that were given, those of a file, and that of the environment.

    Args:
        keys: Keys.
        file: The path of a file with a key on each line; empty lines and those that begin with
            `#` are skipped.

    Raises:
        OSError: The file cannot be read.
        ValueError: A key is empty or not ASCII, or the file has none. No key is named.

    Example:
        >>> read_keys(["secret"])
        ['secret']
    """
    found = list(keys)
    if file is not None:
        lines = [line.strip() for line in Path(file).read_text().splitlines()]
        listed = [line for line in lines if line and not line.startswith("#")]
        if not listed:
            raise ValueError(f"the file of API keys {file!r} has 0 keys; at least 1 is needed")
        found += listed
    if own := os.environ.get(VARIABLE):
        found.append(own)
    if not all(key.strip() == key != "" and key.isascii() for key in found):
        raise ValueError("an API key must be ASCII, not empty, and without spaces around it")
    return found


class ApiKeys:
    """Answers 401 to requests without one of the keys.

    Args:
        app: The app behind it.
        keys: The keys.
        protect_metrics: Whether `/metrics` and `/dashboard` need a key too.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], *, protect_metrics: bool) -> None:
        self._app = app
        self._digests = [_digest(key) for key in keys]
        self._open = ALWAYS_OPEN if protect_metrics else ALWAYS_OPEN + PAGES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["path"] in self._open or self._known(scope):
            await self._app(scope, receive, send)
            return
        message = "no API key, or a wrong one; send it as 'Authorization: Bearer KEY'"
        response = ApiError(401, message, code="invalid_api_key").response()
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        # A list, not a generator: every key is compared, whichever was right.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(found) and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()
