"""Native parts of a fleet, and what they have to say.

A thread waits for their notices, without the GIL, and writes them into the logger
`ryot_metrics.fleet`.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ryot_metrics._running import Running

if TYPE_CHECKING:
    from ryot_metrics._ryot_metrics import NativeFleet, NativeWorker

logger = logging.getLogger("ryot_metrics.fleet")

_PATIENCE_SECONDS = 3600.0
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


class Logged(Running):
    """A part of a fleet, whose notices are logged while it runs."""

    def __init__(self, native: NativeFleet | NativeWorker) -> None:
        self._log = threading.Thread(
            target=_log, args=(native,), name="ryot-fleet-log", daemon=True
        )
        self._log.start()
        super().__init__(native)

    def shutdown(self) -> None:
        """Ends it, after a second at most. Without effect the second time.

        Raises:
            RyotError: In a forked child.
        """
        super().shutdown()
        if self._log is not threading.current_thread():
            self._log.join(timeout=1.0)


def _log(native: NativeFleet | NativeWorker) -> None:
    more = True
    while more:
        notices, more = native.notices(_PATIENCE_SECONDS)
        for at, level, text in notices:
            if logger.isEnabledFor(_LEVELS[level]):
                record = logger.makeRecord(logger.name, _LEVELS[level], "", 0, text, (), None)
                record.created = at
                logger.handle(record)
