"""One call of an instrumented library: one request, or a part of the tracked one around it.

Knows nothing of the libraries; how an answer looks is told by the functions that it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

from ryot_metrics.errors import classify
from ryot_metrics.tracking import Current, Scope, begin, current, current_request, end

Reader: TypeAlias = "Callable[[Call, Any], object]"
"""Takes from an answer, or a piece of one, what it tells about the call."""

_log = logging.getLogger("ryot_metrics")


class _CallScope(Scope):
    """The scope of an instrumented call: what is instrumented inside of it is part of it."""

    __slots__ = ()


def inside() -> bool:
    """Whether the running code is part of an instrumented call already."""
    scope = current.get()
    return isinstance(scope, _CallScope) and not scope._request.finished


class Call:
    """One call.

    Use it with `with` around whatever produces: an exception that leaves the block ends the call.

    Args:
        model: The label `model`.
        endpoint: The label `endpoint`.
        mode: `standard`, `streaming` or `batch`.
        batch_size: Sequences in the batch; 0 if unknown.

    Attributes:
        endpoint: As given.
        complete: The answer has come to its end, though its stream may go on.
        tokens: Tokens of the completion that were seen to come.
        truncated: The answer ended at its limit of tokens.
    """

    def __init__(self, model: str, endpoint: str, mode: str, batch_size: int = 0) -> None:
        outer = current_request()
        if outer is None:
            self._request = begin(model, endpoint, mode, batch_size)
        else:
            self._request = outer.part()
        self._scope = _CallScope(self._request)
        self._outer: Current = None
        self._completion: int | None = None
        self._ended = False
        self.endpoint = endpoint
        self.complete = False
        self.tokens = 0
        self.truncated = False

    def __enter__(self) -> None:
        self._request.resumed()
        self._outer = current.get()
        current.set(self._scope)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not ContextVar.reset: a stream may be closed in another context than it began in.
        if current.get() is self._scope:
            current.set(self._outer)
        if error is not None:
            self.end(*classify(error))

    def token(self) -> None:
        """A token of the completion came."""
        self.tokens += 1
        self._request.token()

    def resumed(self) -> None:
        """Production goes on after a time that is not part of it."""
        self._request.resumed()

    def usage(self, prompt: int | None, completion: int | None) -> None:
        """The answer says how many tokens it has; the last word counts."""
        if prompt is not None:
            self._request.set_prompt_tokens(prompt)
        if completion is not None:
            self._completion = completion

    def read(self, reader: Reader, answer: Any) -> None:
        """Takes from an answer what it tells; an answer that cannot be read changes nothing."""
        try:
            reader(self, answer)
        except Exception:
            _log.debug("an answer could not be read", exc_info=True)

    def is_producing(self) -> bool:
        """Whether the running code is inside of the call's `with` block."""
        return current.get() is self._scope

    def end(
        self, status: str = "success", error_type: str | None = None, severity: str | None = None
    ) -> None:
        """The call ended; only the first end counts."""
        if self._ended:
            return
        self._ended = True
        if self._completion is not None:
            self._request.set_token_count(self._completion)
        if self.truncated:
            self._request.set_truncated(True)
        end(self._request, status, error_type, severity)

    def abandon(self) -> None:
        """The consumer takes no more: cancelled, unless the answer was complete."""
        self.end("success" if self.complete else "cancelled")
