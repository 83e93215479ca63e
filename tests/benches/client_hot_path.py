"""What metrics cost: at the call, at the scrape and in memory, against `prometheus_client`.

The floor is a native method that takes a float and does nothing. All take turns in one process;
each figure is the median over the rounds of (loop with the call - empty loop) / calls.

Run: python tests/benches/client_hot_path.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import prometheus_client
from rich.console import Console
from rich.table import Table

from ryot_metrics import InferenceContext, client
from ryot_metrics._ryot_metrics import Floor

CALLS = 20_000
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LABELS = ["model", "endpoint", "status"]

Call = tuple[str, dict[str, Any]]


def operations(module: Any) -> dict[str, Call]:
    """The statements to time, with the names that they use."""
    registry = module.CollectorRegistry()
    counter = module.Counter("c", "C.", registry=registry)
    gauge = module.Gauge("g", "G.", registry=registry)
    histogram = module.Histogram("h", "H.", buckets=BUCKETS, registry=registry)
    labelled = module.Counter("l", "L.", LABELS, registry=registry)
    child = labelled.labels("m", "/v1", "success")
    names = {"c": counter, "g": gauge, "h": histogram, "l": labelled, "k": child}
    return {
        "counter.inc()": ("c.inc()", names),
        "child.inc()": ("k.inc()", names),
        "gauge.set(x)": ("g.set(0.3)", names),
        "histogram.observe(x), 11 buckets": ("h.observe(0.3)", names),
        "labels(3 positional).inc()": ("l.labels('m', '/v1', 'success').inc()", names),
        "labels(3 keywords).inc()": (
            "l.labels(model='m', endpoint='/v1', status='success').inc()",
            names,
        ),
    }


def loop(statement: str, names: dict[str, Any]) -> Callable[[], float]:
    """A function that gives the seconds of `CALLS` such statements."""
    source = "\n".join(
        [
            f"def run({', '.join(['clock', *names])}):",
            "    started = clock()",
            f"    for _ in range({CALLS}):",
            f"        {statement}",
            "    return clock() - started",
        ]
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    return lambda: scope["run"](time.perf_counter, **names)


def seconds_of(work: Callable[[], object], rounds: int) -> float:
    """The median time of a piece of work."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def page_of(module: Any, children: int) -> Any:
    """A registry with one histogram of so many children."""
    registry = module.CollectorRegistry()
    histogram = module.Histogram(
        "h", "H.", ["model", "endpoint"], buckets=BUCKETS, registry=registry
    )
    for index in range(children):
        histogram.labels("model", str(index)).observe(0.3)
    return registry


def resident_bytes() -> int:
    """The memory that the process has, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def show_scrape(console: Console, rounds: int) -> None:
    """Prints the second table: pages, batches and memory."""
    table = Table("", "ours", "prometheus_client", "ratio")
    for children, few in ((1_000, rounds), (70_000, 1)):
        before = resident_bytes()
        mine = page_of(client, children)
        between = resident_bytes()
        other = page_of(prometheus_client, children)
        after = resident_bytes()
        for name, accept in (("0.0.4", ""), ("OpenMetrics", "application/openmetrics-text")):
            encoders = [
                module.exposition.choose_encoder(accept)[0]
                for module in (client, prometheus_client)
            ]
            ours = seconds_of(partial(encoders[0], mine), few + 2) * 1e3
            theirs = seconds_of(partial(encoders[1], other), few) * 1e3
            lines = encoders[0](mine).count(b"\n")
            table.add_row(
                f"{name}, {lines:,} lines",
                f"{ours:.2f} ms",
                f"{theirs:.0f} ms",
                f"{theirs / ours:.0f}",
            )
        if children > 10_000:
            ours, theirs = (between - before) / children, (after - between) / children
            table.add_row(
                "bytes per child, 11 buckets, 2 labels",
                f"{ours:.0f}",
                f"{theirs:.0f}",
                f"{theirs / ours:.1f}",
            )
    values = np.random.default_rng(0).exponential(0.3, 1_000_000)
    histogram = client.Histogram("m", "M.", buckets=BUCKETS, registry=None)
    ours = seconds_of(lambda: histogram.observe_many(values), rounds)
    table.add_row("observe_many, 1 M float64", f"{1 / ours:.0f} M/s", "", "")
    console.print(table)


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    context = InferenceContext(model="bench")
    context.__enter__()
    ours = {name: loop(*call) for name, call in operations(client).items()}
    theirs = {name: loop(*call) for name, call in operations(prometheus_client).items()}
    ours["token(): count, TTFT or gap"] = loop("t()", {"t": context.token})
    empty = loop("pass", {})
    floor = loop("f.call(0.3)", {"f": Floor()})
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        base = empty()
        seconds.setdefault(("floor", ""), []).append(floor() - base)
        for who, loops in (("ours", ours), ("theirs", theirs)):
            for name, run in loops.items():
                seconds.setdefault((who, name), []).append(run() - base)
    medians = {key: statistics.median(times) / CALLS * 1e9 for key, times in seconds.items()}

    floor_ns = medians["floor", ""]
    table = Table("operation", "ns", "prometheus_client ns", "times faster", "of the floor")
    table.add_row("empty native method", f"{floor_ns:.0f}", "", "", "1.00")
    for name in ours:
        mine, other = medians["ours", name], medians.get(("theirs", name))
        table.add_row(
            name,
            f"{mine:.0f}",
            f"{other:.0f}" if other else "",
            f"{other / mine:.1f}" if other else "",
            f"{mine / floor_ns:.2f}",
        )
    console = Console(width=100)
    console.print(table)
    show_scrape(console, rounds)


if __name__ == "__main__":
    main()
