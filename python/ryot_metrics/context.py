"""`InferenceContext`: a request as a `with` block."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from ryot_metrics._ryot_metrics import Block, Request
from ryot_metrics.cost import charge
from ryot_metrics.errors import classify
from ryot_metrics.tracking import current_request, text_of

_log = logging.getLogger("ryot_metrics")


class InferenceContext(Block):
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
        ValueError: For another mode.

    Example:
        >>> from ryot_metrics import InferenceContext
        >>> with InferenceContext(model="gpt4") as context:
        ...     for word in ("a", "b"):
        ...         context.token()
        >>> context.token_count, context.status
        (2, 'success')
    """

    __slots__ = ("__weakref__",)

    def _outer_request(self) -> Request | None:
        return current_request()

    def _texts(self) -> tuple[str, str]:
        return text_of(self.model) or "default", text_of(self._endpoint)

    def _fail(self, error: BaseException) -> None:
        bill = self._close(*classify(error))
        if bill is not None:
            charge(*bill)

    def _charge(self, request: Request, tokens: tuple[int, int]) -> None:
        charge(request, tokens)

    def _entered_again(self) -> None:
        _log.warning("an InferenceContext that is open was entered again; this is ignored")

    def _ignored(self, method: str) -> None:
        _log.warning("InferenceContext.%s() outside of its with block is ignored", method)

    async def __aenter__(self) -> InferenceContext:
        self._enter(1)
        return self

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
