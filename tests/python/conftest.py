"""Fixtures of the Python tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fakes import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def engine() -> Iterator[Any]:
    """A working engine without a model."""
    with ScriptedEngine(name="toy") as engine:
        yield engine
