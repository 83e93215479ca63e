"""Gives each engine a process of its own and lets them take turns."""

from __future__ import annotations

import math
import multiprocessing
import traceback
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

from .client import Answer, Peer, follow
from .figures import Samples
from .peers import DEFAULT, Ours, Setting, Xllamacpp
from .scenario import Scenario
from .scenarios import SCENARIOS
from .trace import Ask

START_SECONDS = 60.0


@dataclass(frozen=True)
class Machine:
    """What all engines get."""

    model: str
    threads: int


class Worker:
    """An engine in a process of its own.

    Args:
        machine: What it runs on.
        scenario: What it will be measured by.
        setting: The peer's tuning; None for the engine of this package.
    """

    def __init__(self, machine: Machine, scenario: Scenario, setting: Setting | None) -> None:
        self.name = "ryot-metrics" if setting is None else f"xllamacpp {setting}"
        self._seconds = scenario.seconds
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, machine, scenario.name, setting), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive(START_SECONDS)

    def measure(self, seed: int, *, search: bool = False) -> Samples:
        """One round; raises RuntimeError if it fails, or is not over in the scenario's time."""
        self._pipe.send((seed, search))
        return self._receive(self._seconds)

    def _receive(self, seconds: float) -> Samples:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"{self.name} was not done after {seconds:.0f} s")
        try:
            received: Samples | str = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended") from None
        if isinstance(received, str):
            raise RuntimeError(f"{self.name}:\n{received}")
        return received

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()


def _work(pipe: Connection, machine: Machine, name: str, setting: Setting | None) -> None:
    """Measures whenever it is told a seed."""
    scenario = SCENARIOS[name]
    try:
        peer: Any
        if setting is None:
            peer = Ours(machine.model, machine.threads, scenario.size)
        else:
            peer = Xllamacpp(machine.model, machine.threads, scenario.size, setting)
        _warm_up(peer)
        pipe.send({})
        while True:
            seed, search = pipe.recv()
            measure = scenario.searched[0] if search else scenario.measure
            pipe.send(measure(peer, seed))
    except EOFError:
        return
    except BaseException:
        pipe.send(traceback.format_exc())


def _warm_up(peer: Peer) -> None:
    follow(peer, Answer(Ask(0.0, "Once upon a time " * 40, 16), 0.0))


@dataclass
class Measured:
    """The rounds of all engines of a scenario.

    Attributes:
        scenario: What was measured.
        rounds: The rounds of `ours`, of the peer as `default`, and of the peer as `tuned` best.
        best: How it is tuned best; None if nothing was searched.
        searched: What the search gave for each setting; NaN for one that failed.
    """

    scenario: Scenario
    rounds: dict[str, list[Samples]] = field(default_factory=dict)
    best: Setting | None = None
    searched: dict[str, float] = field(default_factory=dict)


class Track(Protocol):
    """Shows progress while something is gone through."""

    def __call__(self, steps: Sequence[Any], what: str) -> Iterable[Any]:
        """The steps, one by one."""


def run(
    machine: Machine,
    scenario: Scenario,
    settings: Sequence[Setting],
    rounds: int,
    seed: int,
    track: Track,
) -> Measured:
    """Searches the peer's best setting, then measures all engines in turn.

    Args:
        machine: What the engines run on.
        scenario: What is measured.
        settings: What the peer's best is searched among; without any, only its default is taken.
        rounds: How often each engine is measured; the order changes from round to round.
        seed: The first round's; the next rounds' follow.
        track: Shows progress.

    Raises:
        RuntimeError: If an engine fails, or takes longer than the scenario allows.
    """
    measured = Measured(scenario)
    engines: dict[str, Setting | None] = {"ours": None}
    if scenario.compared:
        _search(machine, measured, settings, seed, track)
        engines["default"] = DEFAULT
        if measured.best:
            engines["tuned"] = measured.best
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(machine, scenario, setting))
            for name, setting in engines.items()
        }
        turns = [
            (seed + number, name)
            for number in range(rounds)
            for name in sorted(workers, reverse=number % 2 == 1)
        ]
        for number, name in track(turns, scenario.name):
            measured.rounds.setdefault(name, []).append(workers[name].measure(number))
    return measured


def _search(
    machine: Machine, measured: Measured, settings: Sequence[Setting], seed: int, track: Track
) -> None:
    """Measures the peer once with each setting; which trace it is differs from all rounds'."""
    _, figure = measured.scenario.searched
    for setting in track(settings if len(settings) > 1 else (), "searching the peer's best"):
        try:
            with Worker(machine, measured.scenario, setting) as worker:
                value = figure.of([worker.measure(seed - 1, search=True)])
        except RuntimeError:
            value = math.nan
        measured.searched[str(setting)] = value
    worst = -math.inf if figure.higher else math.inf

    def rank(setting: Setting) -> float:
        value = measured.searched.get(str(setting), worst)
        return worst if math.isnan(value) else value

    measured.best = (max if figure.higher else min)(settings, key=rank, default=None)
