"""What an HTTP status says about the outcome of a request: the one table.

| HTTP status | status | error_type |
|---|---|---|
| below 400 | success | |
| 404 | error | model_not_found; `invalid_prompt` where nothing tells the app's routes |
| 408, 504 | timeout | timeout |
| 429 | error | inference_error, as a full queue is the service's state |
| 499 | cancelled | |
| other 4xx | error | invalid_prompt |
| other 5xx | error | inference_error |

What no status tells: a client that hung up is `cancelled`; an exception that leaves the app has
the outcome that it has everywhere, and is `partial` after the first byte of a good response; so
has one that Flask, Django or Litestar answers with a 5xx; a response that the app leaves
unfinished is an `inference_error`.
"""

from __future__ import annotations

Outcome = tuple[str, str | None]

CANCELLED: Outcome = ("cancelled", None)
SUCCESS: Outcome = ("success", None)
_BY_STATUS: dict[int, Outcome] = {
    408: ("timeout", "timeout"),
    429: ("error", "inference_error"),
    499: CANCELLED,
    504: ("timeout", "timeout"),
}


def outcome_of(http_status: int, *, known_route: bool) -> Outcome:
    """The status and the error type of a request that was answered with this HTTP status.

    Args:
        http_status: The status of the response.
        known_route: Whether a route of the app took the request.

    Returns:
        The label values `status` and `error_type`; None for no error type.

    Example:
        >>> outcome_of(404, known_route=True)
        ('error', 'model_not_found')
        >>> outcome_of(404, known_route=False)
        ('error', 'invalid_prompt')
    """
    if http_status < 400:
        return SUCCESS
    if http_status == 404 and known_route:
        return "error", "model_not_found"
    kind = "invalid_prompt" if http_status < 500 else "inference_error"
    return _BY_STATUS.get(http_status, ("error", kind))
