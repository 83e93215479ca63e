"""The pytest plugin: gives the fixture `ryot_metrics`, and nothing to a run that does not use it.

A package of its own, because pytest imports every installed plugin at its start: this must import
neither `ryot_metrics` nor its native module before a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ryot_metrics.testing import Metrics


@pytest.fixture
def ryot_metrics() -> Iterator[Metrics]:
    """What the test's requests record: in a catalogue of its own, by a clock that stands still.

    `ryot_metrics.testing` says what it can do.
    """
    from ryot_metrics.testing import isolated

    with isolated() as metrics:
        yield metrics
