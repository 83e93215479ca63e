"""How a call ended that failed: the libraries' exceptions and HTTP statuses, by name.

Must not import the libraries. What is not theirs is `tracking`'s to judge.
"""

from __future__ import annotations

from ryot_metrics.tracking import status_of

_LIBRARIES = frozenset({"openai", "httpx", "httpx2"})
_TYPES = {
    "APITimeoutError": "timeout",
    "TimeoutException": "timeout",
    "BadRequestError": "invalid_prompt",
    "UnprocessableEntityError": "invalid_prompt",
    "NotFoundError": "model_not_found",
}
_STATUSES = {
    400: "invalid_prompt",
    404: "model_not_found",
    408: "timeout",
    413: "invalid_prompt",
    422: "invalid_prompt",
    504: "timeout",
}


def outcome(error: BaseException) -> tuple[str, str | None]:
    """The status and the error type of a call that left with this exception.

    Example:
        >>> import httpx
        >>> outcome(httpx.ReadTimeout("too slow"))
        ('timeout', 'timeout')
        >>> outcome(MemoryError())
        ('error', 'oom')
    """
    for base in type(error).__mro__:
        if base.__module__.partition(".")[0] in _LIBRARIES and base.__name__ in _TYPES:
            return _ended_by(_TYPES[base.__name__])
    return status_of(error)


def outcome_of_status(code: int) -> tuple[str, str | None]:
    """The status and the error type of a call that an HTTP status answered.

    Example:
        >>> outcome_of_status(200), outcome_of_status(404)
        (('success', None), ('error', 'model_not_found'))
    """
    if code < 400:
        return "success", None
    return _ended_by(_STATUSES.get(code, "inference_error"))


def _ended_by(error_type: str) -> tuple[str, str]:
    return ("timeout" if error_type == "timeout" else "error"), error_type
