"""Writes the page to a file, for the textfile collector of the node exporter."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ryot_metrics._ryot_metrics import CollectorRegistry
from ryot_metrics.client.encoding import generate_latest


def write_to_textfile(
    path: str | os.PathLike[str],
    registry: CollectorRegistry,
    escaping: str = "allow-utf-8",
    tmpdir: str | os.PathLike[str] | None = None,
) -> None:
    """Writes the page to a file, which readers see whole or not at all.

    Args:
        path: The file; the node exporter wants a name that ends in `.prom`.
        registry: What to write.
        escaping: Taken for calls written for `prometheus_client`. The names of metrics made here
            need no escaping.
        tmpdir: Where to write before the file is moved to its place: on the same file system; by
            default beside it.

    Raises:
        OSError: If it cannot be written; what was at the path is still there.

    Example:
        >>> import tempfile
        >>> from ryot_metrics.client import CollectorRegistry
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_to_textfile(f"{folder}/jobs.prom", CollectorRegistry())
        ...     os.listdir(folder)
        ['jobs.prom']
    """
    target = Path(path)
    page = generate_latest(registry)
    unique = f"{target.name}.{os.getpid()}.{threading.get_ident()}"
    draft = Path(tmpdir or target.parent, unique)
    try:
        draft.write_bytes(page)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
