"""Tables of the requests that have finished, printed every few seconds.

The fields are those of the pipeline statistics document, for a pipeline of one stage without
transfers. The batch of a request is what its call brought: `batch_size` prompts and choices, which
the engine works on beside those of other calls; `batch_id` numbers the calls.

Must not know HTTP or how answers are made.
"""

from __future__ import annotations

import itertools
import math
import threading
from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics.pipeline import PipelineStats

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

STAGE = "0"
"""The one stage."""
SHOWN_MAX = 32
"""The most requests that have tables of their own each time, the last ones; the overall figures
count all."""


class Finished(NamedTuple):
    """A call whose answer is complete.

    Attributes:
        id: Its name.
        started: When it came, in nanoseconds of `time.monotonic_ns`.
        submitted: When its prompts were with the engine, on that clock.
        finished: When its last token was there, on that clock.
        tokens_in: Tokens of its prompts.
        tokens_out: Tokens of its answers.
        batch_size: How many answers it has.
    """

    id: str
    started: int
    submitted: int
    finished: int
    tokens_in: int
    tokens_out: int
    batch_size: int


class StatsLog:
    """Collects calls, and prints their tables from a thread of its own while the block runs.

    Args:
        seconds: The time from one print to the next; nothing is printed where no call finished.
        write: Takes the text of a print.

    Raises:
        ValueError: If `seconds` is not above 0, or endless.
    """

    def __init__(self, seconds: float, write: Callable[[str], None] | None = None) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"log_stats is {seconds}; it must be above 0 seconds")
        self._seconds = seconds
        self._write = write or (lambda text: print(text, flush=True))
        # The catalogue's own families measure the engine's requests already.
        self._stats = PipelineStats([STAGE], recent=SHOWN_MAX, record=False)
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ryot-log-stats", daemon=True)

    def __call__(self, call: Finished) -> None:
        """Take a call; it is printed next time."""
        name, stats = call.id, self._stats
        stats.request_started(name, call.started)
        stats.stage_started(name, STAGE, at=call.started)
        stats.stage_finished(
            name,
            STAGE,
            num_tokens_in=call.tokens_in,
            num_tokens_out=call.tokens_out,
            batch_id=next(self._numbers),
            batch_size=call.batch_size,
            preprocess_ns=call.submitted - call.started,
            at=call.finished,
        )
        stats.request_finished(name, at=call.finished)

    def print(self) -> None:
        """Print what finished since the last time."""
        tables = self._stats.tables(reset=True)
        more = tables.overall.e2e_requests - len(tables.requests)
        if tables.requests:
            self._write(tables.text() + (f"\nand {more:,} more requests" if more else ""))

    def __enter__(self) -> StatsLog:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self.print()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self.print()
