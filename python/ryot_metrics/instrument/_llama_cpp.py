"""Measures the calls of a `llama_cpp.Llama`. Must not import `llama_cpp`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, TypeVar

from ryot_metrics.instrument._answer import read_answer, read_chunk
from ryot_metrics.instrument._call import Call
from ryot_metrics.instrument._follow import follow, measured
from ryot_metrics.instrument._patch import check, replace

_L = TypeVar("_L")

_METHODS = ("create_completion", "create_chat_completion", "create_embedding")


def llama_cpp(llama: _L, *, model: str | None = None) -> _L:
    """Measures the calls of a `llama_cpp.Llama`.

    `create_completion`, `create_chat_completion`, `create_embedding` and what goes through them
    (`llama(...)`, `create_chat_completion_openai_v1`) are requests; the label `endpoint` is the
    method's name. An answer's tokens are those of its `usage`; a stream has none, so each chunk
    with text counts as a token.

    Args:
        llama: The model. Instrumenting it twice is harmless.
        model: The label `model`; by default the stem of its `model_path`.

    Returns:
        The model.

    Raises:
        TypeError: For something else.

    Example:
        >>> from ryot_metrics import instrument
        >>> class Llama:  # stands for llama_cpp's
        ...     model_path = "/models/tiny.gguf"
        ...     def create_completion(self, prompt, stream=False):
        ...         return {"choices": [{"text": "b"}], "usage": {"completion_tokens": 1}}
        >>> instrument.llama_cpp(Llama()).create_completion("a")["choices"][0]["text"]
        'b'
    """
    check(llama, "a llama_cpp.Llama", *_METHODS)
    label = model or PurePath(str(getattr(llama, "model_path", "default"))).stem
    for name in _METHODS:
        replace(llama, name, functools.partial(_measure, label, name))
    return llama


def _measure(label: str, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        streams = signature.bind_partial(*args, **kwargs).arguments.get("stream")
        return Call(label, name, "streaming" if streams else "standard")

    return measured(begin, _finish)(method)


def _finish(call: Call, result: Any) -> Any:
    if not isinstance(result, dict):
        return follow(call, iter(result), read_chunk)
    call.read(read_answer, result)
    call.end()
    return result
