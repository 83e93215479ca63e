"""One sentence for a missing optional dependency.

The base package requires nothing; the server, the chat templates and the demo need the `serve`
extra, rules and scrape configurations the `ops` extra. This module must not import any of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turn a failed import in the block into a sentence that names the pip command.

    Args:
        name: The extra that has the module.
        what: What needs the import, as the sentence's subject ("the server").

    Raises:
        ModuleNotFoundError: A module of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in {"", "ryot_metrics"}:
            raise
        message = f'{what} needs {missing.name}: pip install "ryot-metrics[{name}]"'
        raise ModuleNotFoundError(message, name=missing.name) from missing


serve_extra = partial(extra, "serve")
