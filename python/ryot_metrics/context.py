"""`InferenceContext`: a request as a `with` block."""

from __future__ import annotations

import inspect
import logging
import sys
import time
from types import TracebackType

from ryot_metrics._ryot_metrics import Request, count_dropped
from ryot_metrics.cost import charge
from ryot_metrics.errors import classify
from ryot_metrics.tracking import Current, Scope, begin, current, current_request, end
from ryot_metrics.usage import whole

_log = logging.getLogger("ryot_metrics")
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_STATUSES = ("success", "error", "timeout", "partial", "cancelled")


class InferenceContext:
    """Measures the block as one request; use it with `with` or `async with`.

    Inside another tracked request it joins that one: what it is told counts there, and its end
    leaves no sample of its own. Its methods may be called from any task or thread while the block
    is open. Outside of it they do nothing and log a warning, as does a second entry or exit; in
    Python's development mode (`python -X dev`), so does a context that is never entered.

    Args:
        model: The label `model`; what is no text is made one.
        endpoint: The label `endpoint`; empty for none.
        mode: `standard`, `streaming` or `batch`.
        batch_size: Sequences in the request's batch; 0 if unknown.

    Numbers that make no sense are ignored, and counted in
    `ryot_metrics_dropped_total{reason="invalid_value"}`.

    Attributes:
        model: As given.
        start_time: When the block was entered, in seconds of `time.monotonic()`; 0.0 before.
        status: None in the block; then `success`, `error`, `timeout`, `partial` or `cancelled`.

    Raises:
        ValueError: On entry, for another mode.

    Example:
        >>> from ryot_metrics import InferenceContext
        >>> with InferenceContext(model="gpt4") as context:
        ...     for word in ("a", "b"):
        ...         context.token()
        >>> context.token_count, context.status
        (2, 'success')
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_batch_size",
        "_closed",
        "_count",
        "_endpoint",
        "_joined",
        "_mode",
        "_outer",
        "_request",
        "_scope",
        "_stated",
        "_streamed",
        "model",
        "start_time",
        "status",
    )

    _stated: str | None
    _outer: Current
    _scope: Current

    def __init__(
        self,
        model: str = "default",
        *,
        endpoint: str = "",
        mode: str = "standard",
        batch_size: int = 0,
    ) -> None:
        self.model = model
        self.start_time = 0.0
        self.status: str | None = None
        self._endpoint = endpoint
        self._mode = mode
        self._batch_size = batch_size
        self._request: Request | None = None
        self._closed: Request | None = None

    @property
    def token_count(self) -> int:
        """Tokens of the completion so far."""
        if self._request is not None:
            return self._request.token_count - self._base
        if self._closed is None:
            return 0
        return self._count if self._joined else self._closed.token_count

    def token(self) -> None:
        """A token was produced now: the first gives the TTFT, each other an inter-token latency."""
        request = self._request
        if request is None:
            return self._ignored("token")
        self._streamed = True
        request.token()
        return None

    def add_tokens(self, count: int) -> None:
        """Adds tokens without timing them."""
        request = self._opened("add_tokens")
        if request is not None and (tokens := _checked(count)) is not None:
            request.add_tokens(tokens)

    def set_token_count(self, count: int) -> None:
        """The completion has this many tokens in all; saying it twice counts it once."""
        request = self._opened("set_token_count")
        if request is not None and (tokens := _checked(count)) is not None:
            request.set_token_count(self._base + tokens)

    def set_prompt_tokens(self, count: int) -> None:
        """The prompt has this many tokens."""
        request = self._opened("set_prompt_tokens")
        if request is not None and (tokens := _checked(count)) is not None:
            request.set_prompt_tokens(tokens)

    def set_ttft(self, seconds: float) -> None:
        """Records a time to first token that the caller measured, in seconds."""
        if request := self._opened("set_ttft"):
            self._streamed = True
            request.set_ttft(seconds)

    def record_inter_token_latency(self, seconds: float) -> None:
        """Records an inter-token latency that the caller measured, in seconds."""
        if request := self._opened("record_inter_token_latency"):
            request.record_inter_token_latency(seconds)

    def queued(self) -> None:
        """The request waits in a queue from now on."""
        if request := self._opened("queued"):
            request.queued()

    def scheduled(self) -> None:
        """The request left the queue."""
        if request := self._opened("scheduled"):
            request.scheduled()

    def set_status(self, status: str) -> None:
        """Ends the block under this status, whatever it raises.

        Raises:
            ValueError: For a status that the catalogue does not have.
        """
        if status not in _STATUSES:
            raise ValueError(f"status is {status!r}; it must be one of {', '.join(_STATUSES)}")
        if self._opened("set_status"):
            self._stated = status

    def _opened(self, method: str) -> Request | None:
        if self._request is None:
            self._ignored(method)
        return self._request

    def _ignored(self, method: str) -> None:
        _log.warning("InferenceContext.%s() outside of its with block is ignored", method)

    def __enter__(self, depth: int = 1) -> InferenceContext:
        if self._request is not None:
            _log.warning("an InferenceContext that is open was entered again; this is ignored")
            return self
        before = current.get()
        outer = None if before is None else current_request()
        if outer is None:
            try:
                request = Request(self.model, self._endpoint, self._mode, self._batch_size)
            except (TypeError, OverflowError, UnicodeError):
                request = begin(self.model, self._endpoint, self._mode, self._batch_size)
            self._joined, self._base = False, 0
        else:
            request, self._joined, self._base = outer, True, outer.token_count
        self.start_time = time.monotonic()
        self.status = self._stated = None
        self._streamed = False
        # A block in a generator stays open across its `yield`s.
        frame = sys._getframe(depth)
        generator = frame.f_code.co_flags & _GENERATORS
        self._scope = Scope(request, frame, before) if generator else request
        self._outer = before
        current.set(self._scope)
        self._request = request
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        request = self._request
        if request is None:
            _log.warning("an InferenceContext that is not open was exited; this is ignored")
            return
        self._request, self._closed = None, request
        if self._joined:
            self._count = request.token_count - self._base
        # Not ContextVar.reset: a generator may be closed in another context than it began in.
        if current.get() is self._scope:
            current.set(self._outer)
        self._scope = self._outer = None
        if error is None and self._stated is None:
            self.status = "success"
            if not self._joined and (unpriced := request.finish()) is not None:
                charge(request, unpriced)
            return
        status, error_type, severity = classify(error)
        if status == "error" and self._streamed:
            status = "partial"
        self.status = self._stated or status
        if not self._joined:
            end(request, self.status, error_type, severity)

    async def __aenter__(self) -> InferenceContext:
        return self.__enter__(2)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    if sys.flags.dev_mode:  # it would make every context half as dear again

        def __del__(self) -> None:
            if not self.start_time:
                _log.warning("an InferenceContext(%r) was made and never entered", self.model)


def _checked(count: int) -> int | None:
    tokens = whole(count)
    if tokens is None:
        count_dropped("invalid_value")
    return tokens
