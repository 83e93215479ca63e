"""How a call ended that an HTTP status answered. Exceptions are for `ryot_metrics.errors`."""

from __future__ import annotations

_STATUSES = {
    400: "invalid_prompt",
    404: "model_not_found",
    408: "timeout",
    413: "invalid_prompt",
    422: "invalid_prompt",
    504: "timeout",
}


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
