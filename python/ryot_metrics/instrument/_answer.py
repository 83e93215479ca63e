"""What an answer in OpenAI's shape tells: its tokens, its end, its failure.

Takes dicts and objects with attributes alike. Knows nothing of how the answer travelled.
"""

from __future__ import annotations

from typing import Any

from ryot_metrics.instrument._call import Call, Reader

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


def field(value: Any, name: str) -> Any:
    """An entry of a dict, or an attribute; None if it is not there."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def read_usage(call: Call, usage: Any) -> None:
    """Takes the tokens from a `usage`, in the names of either API."""
    prompt = field(usage, "prompt_tokens")
    completion = field(usage, "completion_tokens")
    call.usage(
        _count(field(usage, "input_tokens") if prompt is None else prompt),
        _count(field(usage, "output_tokens") if completion is None else completion),
    )


def read_answer(call: Call, answer: Any) -> None:
    """Reads a whole answer."""
    read_usage(call, field(answer, "usage"))
    if field(answer, "status") == "failed":
        call.end("error", "inference_error")


def read_chunk(call: Call, chunk: Any) -> None:
    """Reads a piece of a streamed completion; one that brought something counts as a token."""
    choices = field(chunk, "choices")
    for choice in choices or ():
        if _brings_something(choice):
            call.token()
        if field(choice, "finish_reason"):
            call.complete = True
    usage = field(chunk, "usage")
    if usage is not None:
        read_usage(call, usage)
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


def _brings_something(choice: Any) -> bool:
    # What an object lacks is dear to ask for, so the usual names come first.
    delta = field(choice, "delta")
    if delta is None:
        return bool(field(choice, "text"))
    if field(delta, "content"):
        return True
    pairs = delta.items() if isinstance(delta, dict) else delta
    return any(value for name, value in pairs if name != "role")


def _count(value: Any) -> int | None:
    return max(value, 0) if isinstance(value, int) else None
