"""Whether the engine stays sound under pressure, for as long as wanted: a soak test.

More clients than its KV cells hold ask at once, each for its next answer as soon as the last one
ended: prompts and answers of all lengths, some with a common beginning, of both priorities and
several tenants, with and without promises. Some requests are cancelled, some are dropped without a
word, some have a deadline, some cannot be answered. At the end, what the clients saw must be what
the metrics say, and nothing may be left: no request, KV cell, thread, or memory that grows.

Run: python tests/benches/soak.py [--minutes 20] [--model FILE] [--ctx-size 2048] [--seed 1]
(Linux; the status is 1 if a check fails)
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.table import Table

from ryot_metrics import Engine, EngineConfig
from ryot_metrics.client import REGISTRY
from soak_client import CLIENTS, Client, Seen

NAME = "soak"
HOST_CACHE_BYTES = 16 << 20
"""So few, two or three sequences of a small model, that they are soon full."""

FULL_SHARE = 0.5
"""From this part on the host's cache counts as full: the next copy may be as large as the rest."""
FULL_STEPS = 500
"""Memory is judged when the host's cache has been full for so many steps of the engine, however
long they take: what still grows then is a leak."""

SAMPLE_SECONDS = 10.0
SETTLE_SECONDS = 60.0
"""How long what was cancelled may take to end."""

JUDGED_SECONDS = 60.0
SLOPE_MAX_KIB = 512.0
"""The most that memory may grow in a minute; where less than `JUDGED_SECONDS` can be judged, it is
only reported."""


REQUESTS = "ryot_inference_requests_total"
TOKENS = "ryot_tokens_generated_total"
FIGURES: dict[str, tuple[str, dict[str, str]]] = {
    "success": (REQUESTS, {"status": "success"}),
    "cancelled": (REQUESTS, {"status": "cancelled"}),
    "error": (REQUESTS, {"status": "error", "error_type": "invalid_prompt"}),
    "active": ("ryot_active_inference_requests", {"request_type": "streaming"}),
    "steps": ("ryot_batches_processed_total", {}),
    "preemptions": ("ryot_engine_preemptions_total", {}),
    "prefix cache hits": ("ryot_engine_prefix_cache_hits_total", {}),
}
"""What is read from the page, by short names."""


@dataclass(frozen=True)
class Sample:
    """A look at the process while it runs.

    Attributes:
        at: Seconds since the start.
        kib: The resident memory in KiB.
        host_bytes: What the host's cache holds.
        steps: The engine's steps so far.
    """

    at: float
    kib: float
    host_bytes: int
    steps: int

    @property
    def beyond(self) -> float:
        """The resident memory beside the host's cache, which has a limit of its own, in KiB."""
        return self.kib - self.host_bytes / 1024


@dataclass
class Report:
    """What is left of a run.

    Attributes:
        seen: What all clients saw.
        memory: The samples, in their order.
        pressure: The requests' need of cells, of all clients at once, over the context.
        stats: The engine's, after the last request.
        figures: The engine's own counts.
        checks: What must hold: its name, what was found, and whether it holds.
    """

    seen: Seen
    memory: list[Sample]
    pressure: float
    stats: dict[str, int]
    figures: dict[str, float]
    checks: list[tuple[str, str, bool]] = field(default_factory=list)

    @property
    def judged(self) -> list[Sample]:
        """Those since when the host's cache has been full for a while; none if it was not."""
        full = (one.steps for one in self.memory if one.host_bytes >= FULL_SHARE * HOST_CACHE_BYTES)
        since = next(full, math.inf) + FULL_STEPS
        return [one for one in self.memory if one.steps >= since]

    @property
    def seconds(self) -> float:
        """How long `judged` is."""
        judged = self.judged
        return judged[-1].at - judged[0].at if judged else 0.0

    @property
    def slope(self) -> float:
        """KiB per minute of `beyond`, as far as judged; NaN where there are not two samples."""
        if self.seconds == 0:
            return math.nan
        judged = self.judged
        at, beyond = [one.at for one in judged], [one.beyond for one in judged]
        return 60 * statistics.linear_regression(at, beyond).slope


def soak(
    model: str, seconds: float, *, ctx_size: int = 2048, threads: int | None = None, seed: int = 1
) -> Report:
    """Runs the clients for this long, and checks what is left."""
    metrics = _metrics()
    before = _threads()
    config = EngineConfig(
        ctx_size=ctx_size,
        parallel=CLIENTS,
        threads=threads,
        host_cache_bytes=HOST_CACHE_BYTES,
    )
    halt = Event()
    with Engine(model, config, name=NAME) as engine:
        clients = [Client(engine, seed * CLIENTS + index, halt) for index in range(CLIENTS)]
        running = [Thread(target=client.run) for client in clients]
        for thread in running:
            thread.start()
        memory = list(_samples(engine, seconds))
        halt.set()
        for thread in running:
            thread.join()
        _wait(lambda: engine.stats()["running"] + engine.stats()["waiting"] == 0)
        stats = engine.stats()
    seen = Seen()
    for client in clients:
        seen.add(client.seen)
    figures = {name: value - metrics.get(name, 0.0) for name, value in _metrics().items()}
    pressure = seen.needed / max(seen.requests() - seen.requests("refused"), 1)
    report = Report(seen, memory, pressure * CLIENTS / ctx_size, stats, figures)
    report.checks = list(checks(report, before))
    return report


def checks(report: Report, threads: int) -> Iterator[tuple[str, str, bool]]:
    """What must hold after a run."""
    seen, figures = report.seen, report.figures
    yield "nothing unexpected", str(dict(seen.faults) or "nothing"), not seen.faults
    for name in ("running", "waiting", "used_cells"):
        yield f"{name} at the end", str(report.stats[name]), not report.stats[name]
    yield "active requests at the end", f"{figures['active']:.0f}", not figures["active"]
    left = _wait(lambda: _threads() <= threads)
    yield "threads left", str(_threads() - threads), left
    dropped = seen.requests("dropped")
    for status, ending, slack in (
        ("success", "length", dropped),
        ("cancelled", "cancelled", dropped),
        ("error", "refused", 0),
    ):
        yield _compare(f"requests: {status}", figures[status], seen.requests(ending), slack)
    ended = sum(figures[status] for status in ("success", "cancelled", "error"))
    yield _compare("requests: all", ended, seen.requests(), 0)
    for name, tokens in (
        ("tokens of answers", "streaming"),
        ("tokens of dropped answers", "standard"),
        ("tokens of prompts", "prompt"),
    ):
        yield _compare(name, figures[tokens], seen.tokens[tokens], seen.unseen[tokens])
    steady = report.seconds < JUDGED_SECONDS or report.slope <= SLOPE_MAX_KIB
    found = f"{report.slope:+.0f} KiB/min in the last {report.seconds:.0f} s"
    yield "memory beside a full cache", found, steady


def _compare(name: str, counted: float, seen: int, slack: int) -> tuple[str, str, bool]:
    """A count of the metrics beside the clients', who cannot know of `slack` more."""
    more = f" to {seen + slack:,}" if slack else ""
    return name, f"{counted:,.0f} counted, {seen:,}{more} seen", seen <= counted <= seen + slack


def _metrics() -> dict[str, float]:
    """The engine's part of the page, under short names."""
    sums = {short: _value(name, **labels) for short, (name, labels) in FIGURES.items()}
    sums["prompt"] = 0.0
    for mode in ("streaming", "standard"):
        sums[mode] = _value(TOKENS, generation_mode=mode, token_type="completion")
        sums["prompt"] += _value(TOKENS, generation_mode=mode, token_type="prompt")
    return sums


def _value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": NAME, **labels}) or 0.0


def _samples(engine: Engine, seconds: float) -> Iterator[Sample]:
    """Looks at the process until the time is over."""
    start = time.monotonic()
    pause = min(SAMPLE_SECONDS, seconds / 12)
    page = os.sysconf("SC_PAGESIZE") / 1024
    while (at := time.monotonic() - start) < seconds:
        kib = int(Path("/proc/self/statm").read_text().split()[1]) * page
        stats = engine.stats()
        yield Sample(at, kib, stats["host_bytes"], stats["steps"])
        time.sleep(min(pause, seconds - at))


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _wait(holds: Callable[[], bool]) -> bool:
    """Whether it comes to hold in time."""
    until = time.monotonic() + SETTLE_SECONDS
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


def tables(report: Report) -> Iterator[Table]:
    """How requests ended, the memory, and the checks."""
    ended = Table("kind", "ending", "requests", title="what clients saw")
    for (kind, ending), count in sorted(report.seen.ended.items()):
        ended.add_row(kind, ending, f"{count:,}")
    yield ended
    memory = Table("second", "resident KiB", "host cache KiB", "steps", title="memory")
    for one in report.memory:
        cached = f"{one.host_bytes / 1024:,.0f}"
        memory.add_row(f"{one.at:.0f}", f"{one.kib:,.0f}", cached, f"{one.steps:,}")
    yield memory
    checks = Table("check", "found", "", title="checks")
    checks.add_row("need of cells / context", f"{report.pressure:.2f}", "")
    for name in ("steps", "preemptions", "prefix cache hits"):
        checks.add_row(name, f"{report.figures[name]:,.0f}", "")
    for name, found, holds in report.checks:
        checks.add_row(name, found, "[green]holds[/green]" if holds else "[red]BROKEN[/red]")
    yield checks


def main() -> None:
    """Soaks, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ctx-size", type=int, default=2048)
    parser.add_argument("--threads", type=int, help="of the engine; default: all cores")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    report = soak(
        arguments.model,
        60 * arguments.minutes,
        ctx_size=arguments.ctx_size,
        threads=arguments.threads,
        seed=arguments.seed,
    )
    for table in tables(report):
        Console().print(table)
    sys.exit(0 if all(holds for *_, holds in report.checks) else 1)


if __name__ == "__main__":
    main()
