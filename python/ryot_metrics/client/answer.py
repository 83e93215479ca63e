"""The one answer to a request for the page, whoever has taken the request.

Knows HTTP's methods and headers, and no server: WSGI, ASGI and `http.server` hand over what the
request says and send what they get.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from ryot_metrics._ryot_metrics import CollectorRegistry, choose_coding, compress
from ryot_metrics.client.encoding import choose_encoder

ALLOWED = "GET, HEAD, OPTIONS"
CODINGS = ["zstd", "gzip"]
TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """A response, with its body still there for HEAD to leave out."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: bytes


def answer(
    registry: CollectorRegistry,
    method: str,
    accept: str | None,
    accept_encoding: str | None,
    query: str,
    *,
    compressed: bool = True,
) -> Answer:
    """Answers one request.

    Args:
        registry: What to show.
        method: The request's method.
        accept: Its header `Accept`, if it has one.
        accept_encoding: Its header `Accept-Encoding`, if it has one.
        query: What stands behind the `?` of its target; `name[]` restricts the page to samples of
            these names, and `profile` chooses the names of the families of language models.
        compressed: Whether the page may be compressed.

    Returns:
        The response; for an unknown profile a 400 that names those that there are. For HEAD its
        body is empty and its headers are those of GET.

    Example:
        >>> from ryot_metrics.client import REGISTRY
        >>> answer(REGISTRY, "POST", None, None, "").status.phrase
        'Method Not Allowed'
    """
    if method == "OPTIONS":
        return _answer(HTTPStatus.OK, [("Allow", ALLOWED)])
    if method not in ("GET", "HEAD"):
        refusal = f"# {method} is not allowed here; {ALLOWED} are\n"
        return _answer(HTTPStatus.METHOD_NOT_ALLOWED, [("Allow", ALLOWED)], refusal.encode())
    encoder, content_type = choose_encoder(accept)
    try:
        page = encoder(_selected(registry, query))
    except UnknownProfileError as error:
        return _answer(HTTPStatus.BAD_REQUEST, [("Content-Type", TEXT)], f"{error}\n".encode())
    headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
    coding = choose_coding(accept_encoding or "", CODINGS) if compressed else None
    if coding is not None:
        page = compress(page, coding)
        headers.append(("Content-Encoding", coding))
    found = _answer(HTTPStatus.OK, headers, page)
    return found._replace(body=b"") if method == "HEAD" else found


def _answer(status: HTTPStatus, headers: list[tuple[str, str]], body: bytes = b"") -> Answer:
    return Answer(status, [*headers, ("Content-Length", str(len(body)))], body)


def _selected(registry: CollectorRegistry, query: str) -> CollectorRegistry:
    """The part of a registry that a query asks for; all of one that cannot be restricted."""
    asked = parse_qs(query)
    if "profile" in asked:
        registry = with_profile(registry, asked["profile"][-1])
    names = asked.get("name[]")
    restrict: Any = getattr(registry, "restricted_registry", None)
    return restrict(names) if names and restrict else registry


class UnknownProfileError(ValueError):
    """A profile that a registry does not have."""


def with_profile(registry: CollectorRegistry, profile: str | None) -> CollectorRegistry:
    """A registry's view in a profile; the registry itself for None.

    Raises:
        UnknownProfileError: For a profile that it does not have.

    Example:
        >>> from ryot_metrics.client import REGISTRY
        >>> with_profile(REGISTRY, "vllm") is with_profile(REGISTRY, None)
        False
    """
    if profile is None:
        return registry
    known: list[str] = getattr(registry, "profiles", [])
    if profile not in known:
        limit = f"it must be one of {', '.join(known)}" if known else "this registry has none"
        raise UnknownProfileError(f"profile is {profile!r}; {limit}")
    return registry.with_profile(profile)


def gzip_accepted(accept_encoding: str | None) -> bool:
    """Whether a header `Accept-Encoding` allows gzip.

    Example:
        >>> gzip_accepted("br, gzip;q=0.5"), gzip_accepted("gzip;q=0")
        (True, False)
    """
    return choose_coding(accept_encoding or "", ["gzip"]) is not None
