"""What the decorators are told about a function, resolved for each of its calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ryot_metrics._ryot_metrics import MAX_COUNT, Request
from ryot_metrics.callbacks import safely
from ryot_metrics.tracking import text_of
from ryot_metrics.usage import answered, field, whole

MODES = ("standard", "streaming", "batch")

_Read = Callable[[tuple[Any, ...], dict[str, Any]], object]


@dataclass(frozen=True)
class Options:
    """Each is a constant, or a function of the call's arguments."""

    model: str | Callable[..., object] = "default"
    model_arg: str | None = None
    endpoint: str | Callable[..., object] = ""
    request_type: str | None = None
    prompt_tokens: int | Callable[..., object] | None = None
    batch_size: int | Callable[..., object] = 0
    token_count: Callable[[Any], object] | None = None

    def constant(self, mode: str) -> Callable[[], Request] | None:
        """Opens a request, if nothing depends on the call's arguments."""
        model, endpoint, size = self.model, self.endpoint, self.batch_size
        if callable(model) or callable(endpoint) or callable(size):
            return None
        if self.model_arg is not None or self.prompt_tokens is not None:
            return None
        return partial(Request, model, endpoint, self.mode(mode), whole(size) or 0)

    def resolved(self, function: Callable[..., Any], mode: str) -> Callable[..., Request]:
        """A function that opens the request of a call with these `args` and `kwargs`."""
        constant, model = self.constant(mode), self._model(function)
        if constant is not None:
            return lambda args, kwargs: constant()
        mode = self.mode(mode)

        def open_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
            endpoint = _text(self.endpoint, "", args, kwargs)
            size = _told(self.batch_size, "batch_size", args, kwargs) or 0
            request = Request(model(args, kwargs), endpoint, mode, size)
            tokens = _told(self.prompt_tokens, "prompt_tokens", args, kwargs)
            if tokens is not None:
                request.set_prompt_tokens(tokens)
            return request

        return open_request

    def check(self) -> None:
        """Refuses constants that no call could be recorded with.

        Raises:
            TypeError: For an option of a wrong type.
            ValueError: For another request type, a number out of its range, or two models.
        """
        for name, label in (("model", self.model), ("endpoint", self.endpoint)):
            if not (callable(label) or (isinstance(label, str) and label == text_of(label))):
                raise TypeError(f"{name} is {label!r}; it must be a text or a function")
        for name, count in (("prompt_tokens", self.prompt_tokens), ("batch_size", self.batch_size)):
            if not (count is None or callable(count) or whole(count) is not None):
                raise ValueError(f"{name} is {count!r}; it must be from 0 to {MAX_COUNT - 1}")
        if not (self.token_count is None or callable(self.token_count)):
            raise TypeError(f"token_count is {self.token_count!r}; it must be a function")
        if not isinstance(self.model_arg, str | None):
            raise TypeError(f"model_arg is {self.model_arg!r}; it must be an argument's name")
        if self.request_type not in (None, *MODES):
            known = ", ".join(MODES)
            raise ValueError(f"request_type is {self.request_type!r}; it must be one of {known}")
        if self.model_arg is not None and self.model != "default":
            raise ValueError(f"model is {self.model!r} and model_arg {self.model_arg!r}; give one")

    def mode(self, mode: str) -> str:
        """The request type; by default that of the function's kind."""
        return self.request_type or mode

    def _model(self, function: Callable[..., Any]) -> Callable[..., str]:
        if self.model_arg is None:
            return lambda args, kwargs: _text(self.model, "default", args, kwargs)
        read = _argument(function, self.model_arg)
        return lambda args, kwargs: text_of(read(args, kwargs)) or "default"


def _argument(function: Callable[..., Any], path: str) -> _Read:
    """Reads an argument by its name, or something of it: `request.model`."""
    name, *fields = path.split(".")
    parameters = list(inspect.signature(function).parameters.values())
    names = [parameter.name for parameter in parameters]
    if name not in names and not any(it.kind is it.VAR_KEYWORD for it in parameters):
        called = getattr(function, "__qualname__", function)
        raise TypeError(f"model_arg is {path!r}, but {called} has no argument {name!r}")
    index = names.index(name) if name in names else len(names)
    given = parameters[index].default if name in names else None
    default = None if given is inspect.Parameter.empty else given

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        value = kwargs.get(name, args[index] if index < len(args) else default)
        for part in fields:
            value = field(value, part)
        return value

    return read


def _text(
    option: str | Callable[..., object], default: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    return text_of(safely(option, *args, **kwargs)) or default if callable(option) else option


def _told(
    option: int | Callable[..., object] | None,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> int | None:
    return answered(name, safely(option, *args, **kwargs) if callable(option) else option)
