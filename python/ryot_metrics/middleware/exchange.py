"""One HTTP request and its response, as a request of the metrics.

Told by `asgi` and `wsgi` what goes by. What every request runs through is native; here is what
only Python can tell. Nothing in this module may fail the user's request.
"""

from __future__ import annotations

import logging

from ryot_metrics._ryot_metrics import Exchange as Native
from ryot_metrics._ryot_metrics import Request
from ryot_metrics.cost import charge
from ryot_metrics.errors import classify

_log = logging.getLogger("ryot_metrics")


class Exchange(Native):
    """A request from its arrival to the last byte of its response; the scope of what answers it.

    Args:
        model: The label `model`.
        endpoint: The label `endpoint`.
        known_route: Whether a route of the app takes it, as far as the app's routes are known.
        mode: `standard`, `streaming` or `batch`: what was asked for, or what all requests are.
        may_stream: Whether it is `streaming` if the response turns out to be a stream.
        max_body_bytes: The largest JSON response that is looked into for its `usage`; 0 for none.
        count_events: Whether events of a stream count as tokens where nothing else counts.

    Raises:
        TypeError: For a label that is no text.
        UnicodeError: For a label that is no valid text.
    """

    __slots__ = ()

    def _cause(self, error: BaseException) -> tuple[str, str | None, int | None]:
        """How a request ends that this exception left: status, error type, HTTP status."""
        code = getattr(error, "status_code", None)
        status, kind = classify(error)[:2]
        return status, kind, code if isinstance(code, int) and 100 <= code < 600 else None

    def _charge(self, request: Request, tokens: tuple[int, int]) -> None:
        charge(request, tokens)

    def _unmeasured(self, error: BaseException) -> None:
        _log.warning("a part of a response was not measured", exc_info=error)
