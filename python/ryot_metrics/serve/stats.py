"""Tables of the requests that have finished, printed every few seconds.

The fields are those of the pipeline statistics document, for a pipeline of one stage without
transfers. The batch of a request is what its call brought: `batch_size` prompts and choices, which
the engine works on beside those of other calls; `batch_id` numbers the calls.

Must not know HTTP or how answers are made.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics.tables import Figure, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

SHOWN_MAX = 32
"""The most requests that have tables of their own each time; the overall figures count all."""


class Finished(NamedTuple):
    """A call whose answer is complete.

    Attributes:
        id: Its name.
        started: When it came, on a clock in seconds.
        submitted: When its prompts were with the engine, on the same clock.
        finished: When its last token was there, on the same clock.
        tokens_in: Tokens of its prompts.
        tokens_out: Tokens of its answers.
        batch_size: How many answers it has.
    """

    id: str
    started: float
    submitted: float
    finished: float
    tokens_in: int
    tokens_out: int
    batch_size: int

    @property
    def tokens(self) -> int:
        """What went into the one stage and came out of it."""
        return self.tokens_in + self.tokens_out


def overall(calls: Sequence[Finished]) -> str:
    """The table of all calls; a zero divisor gives 0.

    Example:
        >>> print(overall([Finished("a", 1.0, 1.25, 3.0, 10, 90, 1)]))
        [Overall Summary]
        +-----------------------------+-------------+
        | Field                       |       Value |
        +-----------------------------+-------------+
        | e2e_requests                |           1 |
        | e2e_wall_time_ms            |   2,000.000 |
        | e2e_total_tokens            |         100 |
        | e2e_avg_time_per_request_ms |   2,000.000 |
        | e2e_avg_tokens_per_s        |      50.000 |
        | stage_wall_time_ms          | [2,000.000] |
        +-----------------------------+-------------+
    """
    first = min((call.started for call in calls), default=0.0)
    wall = (max((call.finished for call in calls), default=0.0) - first) * 1000
    tokens = sum(call.tokens for call in calls)
    figures: dict[str, Figure] = {
        "e2e_requests": len(calls),
        "e2e_wall_time_ms": wall,
        "e2e_total_tokens": tokens,
        "e2e_avg_time_per_request_ms": wall / len(calls) if calls else 0.0,
        "e2e_avg_tokens_per_s": tokens * 1000 / wall if wall else 0.0,
        "stage_wall_time_ms": [wall],
    }
    return table("Overall Summary", {"Value": figures})


def of_request(call: Finished) -> str:
    """The table of one call from its beginning to its end."""
    figures = {
        "e2e_total_ms": (call.finished - call.started) * 1000,
        "e2e_total_tokens": call.tokens,
        "transfers_total_time_ms": 0.0,
        "transfers_total_bytes": 0,
    }
    return table(f"RequestE2EStats [request_id={call.id}]", {"Value": figures})


def of_stage(call: Finished, batch_id: int) -> str:
    """The table of one call in the one stage."""
    figures = {
        "batch_id": batch_id,
        "batch_size": call.batch_size,
        "num_tokens_in": call.tokens_in,
        "num_tokens_out": call.tokens_out,
        "preprocess_time_ms": (call.submitted - call.started) * 1000,
        "stage_gen_time_ms": (call.finished - call.started) * 1000,
    }
    return table(f"StageRequestStats [request_id={call.id}]", {"0": figures})


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
        self._calls: deque[Finished] = deque()
        self._printed = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ryot-log-stats", daemon=True)

    def __call__(self, call: Finished) -> None:
        """Take a call; it is printed next time."""
        self._calls.append(call)

    def print(self) -> None:
        """Print what finished since the last time."""
        calls = [self._calls.popleft() for _ in range(len(self._calls))]
        if not calls:
            return
        texts = [overall(calls)]
        for number, call in enumerate(calls[:SHOWN_MAX], self._printed):
            texts += [of_request(call), of_stage(call, number)]
        if len(calls) > SHOWN_MAX:
            texts.append(f"and {len(calls) - SHOWN_MAX:,} more requests")
        self._printed += len(calls)
        self._write("\n".join(texts))

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
