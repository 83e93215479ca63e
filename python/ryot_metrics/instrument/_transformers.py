"""Measures `generate` of a model of `transformers`. Must not import `transformers` or `torch`."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from ryot_metrics.instrument._call import Call, inside
from ryot_metrics.instrument._patch import check, replace

_M = TypeVar("_M")


def transformers(model: _M, *, name: str | None = None) -> _M:
    """Measures the calls of a model's `generate`, also those of a pipeline around it.

    With a `streamer`, TTFT and inter-token latency come from its `put`; what the streamer itself
    takes is not counted. Tokens come from the shapes of prompt and result, so the padding of a
    batch is in them. The label `endpoint` is `generate`.

    Args:
        model: The model. Instrumenting it twice is harmless.
        name: The label `model`; by default its `name_or_path`, else the name of its class.

    Returns:
        The model.

    Raises:
        TypeError: For something else.

    Example:
        >>> import numpy
        >>> from ryot_metrics import instrument
        >>> class Model:  # stands for one of transformers'
        ...     def generate(self, inputs, streamer=None):
        ...         return numpy.append(inputs, [[7, 8]], axis=1)
        >>> instrument.transformers(Model()).generate(numpy.array([[5, 6]])).tolist()
        [[5, 6, 7, 8]]
    """
    check(model, "a model of transformers", "generate")
    label = name or getattr(model, "name_or_path", None) or type(model).__name__
    replace(model, "generate", functools.partial(_Generate, model, label))
    return model


class _Generate:
    """A `generate` that is measured; a copy of its model, deep or pickled, has its own one back."""

    def __init__(self, model: Any, label: str, generate: Callable[..., Any]) -> None:
        self._model = model
        self._label = label
        self._generate = generate
        self._signature = inspect.signature(generate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if inside():  # an assistant's or an outer `generate`
            return self._generate(*args, **kwargs)
        given = self._signature.bind_partial(*args, **kwargs)
        prompt = _prompt({**given.arguments, **kwargs})
        rows = int(prompt.shape[0]) if prompt is not None else 0
        streamer = given.arguments.get("streamer")
        mode = "streaming" if streamer is not None else "batch" if rows > 1 else "standard"
        call = Call(self._label, "generate", mode, rows)
        if prompt is not None:
            call.usage(math.prod(prompt.shape[:2]), None)
        if streamer is not None:
            given.arguments["streamer"] = _Streamer(streamer, call)
        with call:
            result = self._generate(*given.args, **given.kwargs)
        call.read(functools.partial(_read, self._model, prompt), result)
        call.end()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._generate, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._model, "generate")


def _prompt(given: dict[str, Any]) -> Any:
    names = ("inputs", "input_ids", "inputs_embeds", "input_features")
    return next((given[name] for name in names if hasattr(given.get(name), "shape")), None)


def _read(model: Any, prompt: Any, call: Call, result: Any) -> None:
    """Takes the completion's tokens from the shape of the result."""
    rows, length = getattr(result, "sequences", result).shape
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        length -= 1  # the token that starts the decoder
    elif prompt is not None and len(prompt.shape) == 2:
        length -= prompt.shape[1]  # the prompt's embeddings are not given back, its tokens are
    call.usage(None, int(rows * max(length, 0)))


class _Streamer:
    """A streamer that measures another one."""

    def __init__(self, inner: Any, call: Call) -> None:
        self._inner = inner
        self._call = call
        self._is_prompt = True

    def put(self, value: Any) -> None:
        """Takes the prompt first, then each token."""
        if not self._is_prompt:
            for _ in range(math.prod(value.shape)):
                self._call.token()
        self._is_prompt = False
        self._inner.put(value)
        self._call.resumed()

    def end(self) -> None:
        """There are no more tokens."""
        self._inner.end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
