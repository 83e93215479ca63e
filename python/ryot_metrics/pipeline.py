"""Statistics of services whose requests pass several stages, in one process or in several.

`PipelineStats` has the tables; a process that only runs a stage has `PipelineEvents`, whose lines
go to the tables along with the stage's output. Both have the same calls, and context managers over
them. A call never raises: what cannot be taken is dropped, counted and logged.

Example:
    >>> from ryot_metrics.pipeline import PipelineEvents, PipelineStats
    >>> stats = PipelineStats(["draft", "rewrite"])
    >>> with stats.request("r1") as request:
    ...     with request.stage("draft") as draft:
    ...         draft.num_tokens_in, draft.num_tokens_out = 10, 40
    ...     with request.sending("draft", "rewrite") as sent:
    ...         sent.size_bytes = 160
    ...     worker = PipelineEvents()  # in the process of the second stage
    ...     with worker.stage("r1", "rewrite") as rewrite:
    ...         rewrite.num_tokens_in, rewrite.num_tokens_out = 40, 30
    ...     stats.feed(worker.to_wire())
    2
    >>> tables = stats.tables()
    >>> tables.overall.e2e_requests, tables.overall.e2e_total_tokens
    (1, 80)
    >>> tables.transfers["r1"]["draft->rewrite"].size_bytes
    160
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

from ryot_metrics._pipeline_tables import (
    OverallSummary,
    PipelineTables,
    RequestE2EStats,
    StageRequestStats,
    TransferEdgeStats,
    tables,
)
from ryot_metrics._ryot_metrics import PipelineCalls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = [
    "OverallSummary",
    "PipelineEvents",
    "PipelineStats",
    "PipelineTables",
    "RequestE2EStats",
    "StageRequestStats",
    "TransferEdgeStats",
]

_GIVEN_UP = (
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)


class _Scope(AbstractContextManager[Any], AbstractAsyncContextManager[Any]):
    """A block that ends with a call; `async with` does the same."""

    def _end(self, error: BaseException | None) -> None:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)


class StageScope(_Scope):
    """A request in a stage; its attributes may be set until the block ends.

    A block that raises has no end: the stage is not in the tables.

    Attributes:
        num_tokens_in: Tokens that went in; 0 at first.
        num_tokens_out: Tokens that came out; 0 at first.
        batch_id: The number of the batch that it was part of; 0 at first.
        batch_size: Requests in that batch; 1 at first.
        preprocess_ns: The part of its time that was preparation; 0 at first.
    """

    def __init__(self, calls: PipelineCalls, request_id: str, stage: str, visit: int) -> None:
        self.num_tokens_in = self.num_tokens_out = self.batch_id = self.preprocess_ns = 0
        self.batch_size = 1
        self._calls, self._request_id = calls, request_id
        self._stage, self._visit = stage, visit
        self._failed: list[BaseException] = []

    def preprocessed(self) -> None:
        """The time since the block began was preparation."""
        self.preprocess_ns = time.monotonic_ns() - self._began

    def __enter__(self) -> StageScope:
        self._began = time.monotonic_ns()
        self._calls.stage_started(self._request_id, self._stage, visit=self._visit)
        return self

    async def __aenter__(self) -> StageScope:
        return self.__enter__()

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self._failed.append(error)
            return
        self._calls.stage_finished(
            self._request_id,
            self._stage,
            num_tokens_in=self.num_tokens_in,
            num_tokens_out=self.num_tokens_out,
            batch_id=self.batch_id,
            batch_size=self.batch_size,
            preprocess_ns=self.preprocess_ns,
            visit=self._visit,
        )


class TransferScope(_Scope):
    """Sending or decoding, timed from the block's begin to its end; one that raises is none.

    Attributes:
        size_bytes: Its size; 0 at first.
    """

    def __init__(
        self, calls: PipelineCalls, request_id: str, from_stage: str, to_stage: str, sends: bool
    ) -> None:
        self.size_bytes = 0
        self._calls, self._sends = calls, sends
        self._edge = (request_id, from_stage, to_stage)

    def __enter__(self) -> TransferScope:
        self._began = time.monotonic_ns()
        return self

    async def __aenter__(self) -> TransferScope:
        return self.__enter__()

    def _end(self, error: BaseException | None) -> None:
        took, size = time.monotonic_ns() - self._began, self.size_bytes
        if error is not None:
            return
        if self._sends:
            self._calls.transfer_sent(*self._edge, size_bytes=size, tx_ns=took)
        else:
            self._calls.transfer_received(*self._edge, size_bytes=size, rx_decode_ns=took)


class RequestScope(_Scope):
    """A request; how its block ends says how the request ended.

    Cancellation is `client_abort`, a connection's error `client_disconnect`, what a stage's block
    raised `stage_error`, and any other exception `unknown`.
    """

    def __init__(self, calls: _Blocks, request_id: str) -> None:
        self._calls, self._request_id = calls, request_id
        self._failed: list[BaseException] = []

    def stage(self, stage: str, *, visit: int = 0) -> StageScope:
        """A block in which a stage works on the request."""
        scope = self._calls.stage(self._request_id, stage, visit=visit)
        scope._failed = self._failed
        return scope

    def sending(self, from_stage: str, to_stage: str) -> TransferScope:
        """A block that sends something of the request from one stage to another."""
        return self._calls.sending(self._request_id, from_stage, to_stage)

    def receiving(self, from_stage: str, to_stage: str) -> TransferScope:
        """A block that decodes something of the request."""
        return self._calls.receiving(self._request_id, from_stage, to_stage)

    def __enter__(self) -> RequestScope:
        self._calls.request_started(self._request_id)
        return self

    async def __aenter__(self) -> RequestScope:
        return self.__enter__()

    def _end(self, error: BaseException | None) -> None:
        self._calls.request_finished(self._request_id, self._reason(error))

    def _reason(self, error: BaseException | None) -> str:
        if error is None:
            return "completed"
        if isinstance(error, _GIVEN_UP):
            return "client_abort"
        if isinstance(error, ConnectionError):
            return "client_disconnect"
        return "stage_error" if any(it is error for it in self._failed) else "unknown"


class _Blocks(PipelineCalls):
    """Blocks over the calls."""

    def request(self, request_id: str) -> RequestScope:
        """A block that is the request from its start to its end."""
        return RequestScope(self, request_id)

    def stage(self, request_id: str, stage: str, *, visit: int = 0) -> StageScope:
        """A block in which a stage works on a request, for the first time or a further one."""
        return StageScope(self, request_id, stage, visit)

    def sending(self, request_id: str, from_stage: str, to_stage: str) -> TransferScope:
        """A block that sends something of a request from one stage to another."""
        return TransferScope(self, request_id, from_stage, to_stage, sends=True)

    def receiving(self, request_id: str, from_stage: str, to_stage: str) -> TransferScope:
        """A block that decodes something of a request."""
        return TransferScope(self, request_id, from_stage, to_stage, sends=False)


class PipelineStats(_Blocks):
    """The tables of a pipeline, and its families `ryot_pipeline_*`.

    A request's start must come before its other events, and its end after them; between, their
    order does not matter. It may be used from any thread.

    Args:
        stages: The names of the stages, the one that requests enter first; 1 to 64. Events may
            name others, which stand behind these.
        model: The label `model`.
        recent: The requests that completed last and have tables of their own, 1 to 100,000; by
            default the setting `pipeline_recent`, 256.
        max_open: The most open requests, 1 to 1,000,000; the oldest is dropped for one more. By
            default the setting `pipeline_max_open`, 10,000.
        record: Whether the families are written.

    Raises:
        ValueError: With the value and its limit.

    Example:
        >>> PipelineStats(["thinker", "talker"], recent=0)
        Traceback (most recent call last):
        ValueError: recent is 0; it must be 1 to 100000
    """

    def __new__(
        cls,
        stages: Sequence[str],
        *,
        model: str = "default",
        recent: int | None = None,
        max_open: int | None = None,
        record: bool = True,
    ) -> PipelineStats:
        """Makes it as the class says."""
        return super().__new__(
            cls, list(stages), model=model, recent=recent, max_open=max_open, record=record
        )

    def tables(self, *, reset: bool = False) -> PipelineTables:
        """The tables as they stand.

        Args:
            reset: Whether the tables begin anew after this; open requests stay open.
        """
        return tables(self._figures(reset))

    def feed(self, wire: str | bytes | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> int:
        """Takes events of another process: lines of JSON, or what they hold.

        An event that comes twice is taken once.

        Returns:
            How many were taken.

        Example:
            >>> stats = PipelineStats(["0"])
            >>> stats.request_started("a")
            >>> stats.feed({"request": "a", "event": "stage_started", "stage": "0", "at": 5})
            1
        """
        return self._feed(_lines(wire))


class PipelineEvents(_Blocks):
    r"""The events of a process that has no tables.

    Args:
        max_buffered: The most events that wait, 1 to 10,000,000; the oldest is dropped for one
            more. By default the setting `pipeline_max_buffered`, 100,000.

    Raises:
        ValueError: With the value and its limit.

    Example:
        >>> worker = PipelineEvents()
        >>> worker.stage_started("a", "talker", at=5)
        >>> worker.to_wire("a").split(",")[0]
        '{"request":"a"'
        >>> worker.to_wire()
        ''
    """

    def __new__(cls, *, max_buffered: int | None = None) -> PipelineEvents:
        """Makes it as the class says."""
        return super().__new__(cls, None, max_buffered=max_buffered)

    def to_wire(self, request_id: str | None = None) -> str:
        """Takes the events of a request, or all that wait, to send them.

        Returns:
            A JSON object on each line, for `PipelineStats.feed`.
        """
        return self._lines(request_id)


def _lines(wire: object) -> str:
    if isinstance(wire, str):
        return wire.encode(errors="replace").decode()
    if isinstance(wire, (bytes, bytearray, memoryview)):
        return bytes(wire).decode(errors="replace")
    events = wire if isinstance(wire, Iterable) and not isinstance(wire, Mapping) else [wire]
    return "\n".join(map(_line, events))


def _line(event: object) -> str:
    """What cannot be written as JSON becomes a line that is none, and is counted as such."""
    try:
        return json.dumps(event)
    except (TypeError, ValueError, RecursionError):
        return f"no event but {type(event).__name__}"
