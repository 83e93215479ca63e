"""Native parts of a fleet that run until they are shut down, and what they have to say.

A thread waits for their notices, without the GIL, and writes them into the logger
`ryot_metrics.fleet`.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

    from ryot_metrics._ryot_metrics import NativeFleet, NativeWorker

logger = logging.getLogger("ryot_metrics.fleet")

_PATIENCE_SECONDS = 3600.0
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
_running: set[Running] = set()


class Running:
    """A part of a fleet on a native thread.

    It runs until `shutdown`, the end of its `with` block or the end of the process, whether or
    not anybody keeps it. In a forked child it belongs to the parent: every use raises `RyotError`.
    """

    def __init__(self, native: NativeFleet | NativeWorker) -> None:
        self._native = native
        self._log = threading.Thread(
            target=_log, args=(native,), name="ryot-fleet-log", daemon=True
        )
        self._log.start()
        _running.add(self)

    def shutdown(self) -> None:
        """Ends it, after a second at most. Without effect the second time.

        Raises:
            RyotError: In a forked child.
        """
        self._native.shutdown()
        _running.discard(self)
        if self._log is not threading.current_thread():
            self._log.join(timeout=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def _log(native: NativeFleet | NativeWorker) -> None:
    more = True
    while more:
        notices, more = native.notices(_PATIENCE_SECONDS)
        for at, level, text in notices:
            if logger.isEnabledFor(_LEVELS[level]):
                record = logger.makeRecord(logger.name, _LEVELS[level], "", 0, text, (), None)
                record.created = at
                logger.handle(record)


@atexit.register
def _shutdown_all() -> None:
    for part in list(_running):
        part.shutdown()


# A child has none of them: at its end, there is nothing to shut down.
os.register_at_fork(after_in_child=_running.clear)
