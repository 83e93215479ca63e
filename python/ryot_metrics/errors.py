"""How a request ended, by the exception that it left with.

Classes are looked up along the exception's `__mro__`, so the nearest registered class decides.
Those of packages that must not be imported for it stand here by their dotted names.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import NamedTuple

from ryot_metrics._ryot_metrics import OutOfMemoryError
from ryot_metrics.callbacks import safely

ERROR_TYPES = (
    "oom",
    "timeout",
    "cuda_error",
    "invalid_prompt",
    "model_not_found",
    "inference_error",
    "tokenization_error",
)
SEVERITIES = ("critical", "warning", "info")


class Outcome(NamedTuple):
    """The end of a request.

    Attributes:
        status: The label `status`.
        error_type: The label `error_type`; None for what is no error.
        severity: The label `severity`; None: as the error type has it.
    """

    status: str
    error_type: str | None = None
    severity: str | None = None


_CANCELLED = Outcome("cancelled")
_TIMEOUT = Outcome("timeout", "timeout")
_OOM = Outcome("error", "oom")
_CUDA = Outcome("error", "cuda_error")
_INVALID = Outcome("error", "invalid_prompt")
_NOT_FOUND = Outcome("error", "model_not_found")
_OTHER = Outcome("error", "inference_error")

_Predicate = Callable[[BaseException], object]
_predicates: list[tuple[_Predicate, Outcome]] = []
_classes: dict[type[BaseException] | str, Outcome] = {
    asyncio.CancelledError: _CANCELLED,
    concurrent.futures.CancelledError: _CANCELLED,
    GeneratorExit: _CANCELLED,
    KeyboardInterrupt: _CANCELLED,
    SystemExit: _CANCELLED,
    "trio.Cancelled": _CANCELLED,
    "starlette.requests.ClientDisconnect": _CANCELLED,
    TimeoutError: _TIMEOUT,
    asyncio.TimeoutError: _TIMEOUT,  # before Python 3.11, these were three classes
    concurrent.futures.TimeoutError: _TIMEOUT,
    "httpx.TimeoutException": _TIMEOUT,
    "httpx2.TimeoutException": _TIMEOUT,
    "requests.exceptions.Timeout": _TIMEOUT,
    "urllib3.exceptions.TimeoutError": _TIMEOUT,
    "openai.APITimeoutError": _TIMEOUT,
    "anthropic.APITimeoutError": _TIMEOUT,
    "trio.TooSlowError": _TIMEOUT,
    MemoryError: _OOM,
    OutOfMemoryError: _OOM,
    "torch.OutOfMemoryError": _OOM,
    "torch.cuda.OutOfMemoryError": _OOM,
    "torch.AcceleratorError": _CUDA,
    UnicodeError: Outcome("error", "tokenization_error"),
    ValueError: _INVALID,
    "json.decoder.JSONDecodeError": _OTHER,  # what a server or a model wrote, not what it was asked
    "pydantic_core._pydantic_core.ValidationError": _INVALID,
    "openai.BadRequestError": _INVALID,
    "openai.UnprocessableEntityError": _INVALID,
    "anthropic.BadRequestError": _INVALID,
    FileNotFoundError: _NOT_FOUND,
    "openai.NotFoundError": _NOT_FOUND,
    "anthropic.NotFoundError": _NOT_FOUND,
    "huggingface_hub.errors.RepositoryNotFoundError": _NOT_FOUND,
    "huggingface_hub.errors.EntryNotFoundError": _NOT_FOUND,
}


def register_error_type(
    exception: type[BaseException] | str | _Predicate,
    error_type: str,
    *,
    severity: str | None = None,
) -> None:
    """Says how requests count that leave with an exception.

    Known without it are, with their subclasses: time limits of Python, httpx, requests and the
    OpenAI client (`timeout`), memory of the host and of CUDA (`oom`), other CUDA failures
    (`cuda_error`), `ValueError` and refused requests (`invalid_prompt`), `UnicodeError`
    (`tokenization_error`), `FileNotFoundError` (`model_not_found`), and cancellation by asyncio,
    trio and the interpreter. All else is an `inference_error`.

    Args:
        exception: Its class; or the class's dotted name, where the package should not be imported
            for it; or a function that is given the exception and says whether it is meant.
            Functions are asked first, the newest before the others; then the nearest class decides.
        error_type: One of the catalogue's error types: `timeout` makes the status timeout too; or
            `cancelled` for what is no error, such as a client that went away.
        severity: `critical`, `warning` or `info`; by default as the error type has it: `critical`
            for `oom`, `cuda_error` and `inference_error`, `warning` for the others.

    Raises:
        ValueError: For another error type or severity.
        TypeError: For something that is no class of exceptions, no name and no function.

    Example:
        >>> class Overloaded(Exception):
        ...     pass
        >>> register_error_type(Overloaded, "timeout", severity="info")
        >>> classify(Overloaded())
        Outcome(status='timeout', error_type='timeout', severity='info')
    """
    outcome = _outcome(error_type, severity)
    if isinstance(exception, str):
        _classes[exception] = outcome
    elif isinstance(exception, type):
        if not issubclass(exception, BaseException):
            raise TypeError(f"exception is {exception!r}, which is no class of exceptions")
        _classes[exception] = outcome
    elif callable(exception):
        _predicates.insert(0, (exception, outcome))
    else:
        raise TypeError(f"exception is {exception!r}; it must be a class, a name or a function")


def _outcome(error_type: str, severity: str | None) -> Outcome:
    known = (*ERROR_TYPES, "cancelled")
    if error_type not in known:
        raise ValueError(f"error_type is {error_type!r}; it must be one of {', '.join(known)}")
    if severity is not None and severity not in SEVERITIES:
        raise ValueError(f"severity is {severity!r}; it must be one of {', '.join(SEVERITIES)}")
    if error_type == "cancelled":
        return _CANCELLED
    return Outcome("timeout" if error_type == "timeout" else "error", error_type, severity)


def classify(error: BaseException | None) -> Outcome:
    """How a request ended that left with this exception.

    Example:
        >>> classify(MemoryError())
        Outcome(status='error', error_type='oom', severity=None)
        >>> classify(None).status, classify(KeyboardInterrupt()).status
        ('success', 'cancelled')
    """
    if error is None:
        return Outcome("success")
    for predicate, outcome in _predicates:
        if safely(predicate, error):
            return outcome
    for kind in type(error).__mro__:
        known = _classes.get(kind) or _classes.get(f"{kind.__module__}.{kind.__qualname__}")
        if known is not None:
            return known
    members = getattr(error, "exceptions", None)
    if isinstance(members, tuple) and members:  # an exception group: the first that is an error
        outcomes = [classify(member) for member in members if isinstance(member, BaseException)]
        return next((one for one in outcomes if one.error_type), _CANCELLED)
    return _by_text(error)


def _by_text(error: BaseException) -> Outcome:
    # Frameworks raise a plain RuntimeError for what a device says.
    text = str(safely(str, error) or "").lower()
    if "outofmemory" in type(error).__name__.lower():
        return _OOM
    if "cuda" in text or "hip error" in text:
        return _OOM if "out of memory" in text else _CUDA
    return _OTHER
