"""Fixtures of the Python tests."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ryot_metrics import Engine
from ryot_metrics.serve import create_app
from ryot_metrics.serve.run import bind, in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def engine() -> Iterator[Any]:
    """A working engine without a model."""
    with Engine("toy") as engine:
        yield engine


@pytest.fixture
def live() -> Iterator[Callable[[Any], str]]:
    """A function that serves an engine on a free port and gives the URL."""
    with ExitStack() as stack:

        def start(engine: Any) -> str:
            listening = stack.enter_context(bind("127.0.0.1", 0))
            return stack.enter_context(in_background(create_app(engine), listening))

        yield start


@pytest.fixture
def live_server(live: Callable[[Any], str], engine: Any) -> str:
    """The URL of a service on the toy model."""
    return live(engine)
