"""All scenarios, by name."""

from __future__ import annotations

from .interference import BEHIND, CANCEL, HEARTBEAT, STALL
from .overload import GOODPUT, OVERCOMMIT
from .reuse import CONVERSE, PREFIX
from .scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        STALL,
        BEHIND,
        GOODPUT,
        PREFIX,
        CONVERSE,
        OVERCOMMIT,
        CANCEL,
        HEARTBEAT,
    )
}
