"""What an answer in OpenAI's shape tells: its tokens, its end, its failure.

Takes dicts and objects with attributes alike. Knows nothing of how the answer travelled.
"""

from __future__ import annotations

from typing import Any

from ryot_metrics.instrument._call import Call, Reader
from ryot_metrics.usage import field, is_truncated, tokens_of_item, usage_of

ROUTES = ("/chat/completions", "/completions", "/embeddings", "/responses")
"""The ends of the paths whose calls are measured."""


def route_of(path: str) -> str | None:
    """The route that a path ends with, in the spelling of the label `endpoint`; None for others.

    Example:
        >>> route_of("/openai/deployments/gpt/chat/completions")
        '/v1/chat/completions'
        >>> route_of("/v1/models") is None
        True
    """
    path = path.rstrip("/")
    return next((f"/v1{route}" for route in ROUTES if path.endswith(route)), None)


def reader_of(route: str) -> Reader:
    """The function that reads one piece of a stream of this route."""
    return read_event if route.endswith("/responses") else read_chunk


def read_usage(call: Call, answer: Any) -> None:
    """Takes the tokens from an answer's `usage`, in the names of either API."""
    usage = usage_of(answer)
    call.usage(usage.prompt, usage.completion)


def read_answer(call: Call, answer: Any) -> None:
    """Reads a whole answer."""
    read_usage(call, answer)
    call.truncated = is_truncated(answer)
    if field(answer, "status") == "failed":
        call.end("error", "inference_error")


def read_chunk(call: Call, chunk: Any) -> None:
    """Reads a piece of a streamed completion; one that brought something counts as a token."""
    choices = field(chunk, "choices")
    if choices and tokens_of_item(chunk):
        call.token()
    if any(field(choice, "finish_reason") for choice in choices or ()):
        call.complete = True
        call.truncated |= is_truncated(chunk)
    if field(chunk, "usage") is not None:
        read_usage(call, chunk)
    elif not choices and field(chunk, "error"):
        call.end("error", "inference_error")


def read_event(call: Call, event: Any) -> None:
    """Reads an event of a streamed response; each `….delta` counts as a token."""
    kind = str(field(event, "type"))
    if kind.endswith(".delta"):
        call.token()
    elif kind in ("response.completed", "response.incomplete"):
        read_answer(call, field(event, "response"))
        call.complete = True
    elif kind in ("response.failed", "error"):
        call.end("error", "inference_error")
