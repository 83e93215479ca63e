"""`InferenceContext`: a request as a `with` block."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.tracking import Scope, current, current_request, status_of

_log = logging.getLogger("ryot_metrics")


class InferenceContext:
    """Measures the block as one request; use it with `with` or `async with`.

    Inside another tracked request it joins that one: what it is told counts there, and its end
    leaves no sample of its own.

    Args:
        model: The label `model`.
        endpoint: The label `endpoint`; empty for none.
        mode: `standard`, `streaming` or `batch`.
        batch_size: Sequences in the request's batch; 0 if unknown.

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
        self._outer: Scope | None = None
        self._scope: Scope | None = None
        self._joined = False
        self._base = 0
        self._streamed = False

    @property
    def token_count(self) -> int:
        """Tokens of the completion so far."""
        return self._request.token_count - self._base if self._request is not None else 0

    def token(self) -> None:
        """A token was produced now: the first gives the TTFT, each other an inter-token latency."""
        if request := self._opened("token"):
            self._streamed = True
            request.token()

    def add_tokens(self, count: int) -> None:
        """Adds tokens without timing them."""
        if request := self._opened("add_tokens"):
            request.add_tokens(max(count, 0))

    def set_token_count(self, count: int) -> None:
        """The completion has this many tokens in all; saying it twice counts it once."""
        if request := self._opened("set_token_count"):
            request.set_token_count(self._base + max(count, 0))

    def set_prompt_tokens(self, count: int) -> None:
        """The prompt has this many tokens."""
        if request := self._opened("set_prompt_tokens"):
            request.set_prompt_tokens(max(count, 0))

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
        known = ("success", "error", "timeout", "partial", "cancelled")
        if status not in known:
            raise ValueError(f"status is {status!r}; it must be one of {', '.join(known)}")
        self.status = status

    def _opened(self, method: str) -> Request | None:
        if self._request is None:
            _log.warning("InferenceContext.%s() outside of its with block is ignored", method)
        return self._request

    def _enter(self) -> InferenceContext:
        if self._scope is not None:
            _log.warning("an InferenceContext that is open was entered again; this is ignored")
            return self
        outer = current_request()
        self._joined = outer is not None
        self._request = outer or Request(self.model, self._endpoint, self._mode, self._batch_size)
        self._base = self._request.token_count
        self.start_time = time.monotonic()
        self.status = None
        self._scope = Scope(self._request, sys._getframe(2))
        self._outer = current.get()
        current.set(self._scope)
        return self

    def _exit(self, error: BaseException | None) -> None:
        if self._scope is None or self._request is None:
            _log.warning("an InferenceContext that is not open was exited; this is ignored")
            return
        # Not ContextVar.reset: a generator may be closed in another context than it began in.
        if current.get() is self._scope:
            current.set(self._outer)
        self._scope = self._outer = None
        status, error_type = status_of(error)
        if status == "error" and self._streamed:
            status = "partial"
        self.status = self.status or status
        if not self._joined:
            self._request.finish(self.status, error_type)

    def __enter__(self) -> InferenceContext:
        return self._enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit(error)

    async def __aenter__(self) -> InferenceContext:
        return self._enter()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit(error)
