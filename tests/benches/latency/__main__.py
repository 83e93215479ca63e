"""The command line and the report."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ryot_metrics.models import resolve

from . import __doc__ as about
from .figures import Figure, as_json, ratio
from .peers import add_tuned
from .runner import Machine, Measured, run
from .scenarios import SCENARIOS


def main() -> None:
    """Measures scenarios and prints a table for each."""
    arguments = parse()
    machine = Machine(str(resolve(arguments.model)), arguments.threads)
    errors = Console(stderr=True)
    shown = functools.partial(track, console=errors, disable=not sys.stderr.isatty())
    report: dict[str, Any] = {}
    for name in arguments.scenario or SCENARIOS:
        measured = run(
            machine,
            SCENARIOS[name],
            arguments.tuned,
            arguments.rounds,
            arguments.seed,
            shown,
        )
        report[name] = facts(measured)
        Console().print(table(measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report), indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("tests.benches.latency", description=about.splitlines()[0])
    parser.add_argument("--scenario", nargs="+", choices=list(SCENARIOS), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="of each engine; default 5")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    add_tuned(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes samples and figures")
    return parser.parse_args()


def facts(measured: Measured) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "best": str(measured.best) if measured.best else None,
        "searched": measured.searched,
        "figures": {
            figure.title: {name: figure.of(rounds) for name, rounds in measured.rounds.items()}
            for figure in measured.scenario.figures
        },
        "rounds": measured.rounds,
    }


def table(measured: Measured) -> Table:
    """A line for each figure: ours, and the peers' with the ratio and its spread."""
    scenario = measured.scenario
    made = Table("figure", "ryot-metrics", title=f"{scenario.name}: {scenario.title}")
    peers = [name for name in measured.rounds if name != "ours"]
    for name in peers:
        made.add_column(f"xllamacpp, tuned: {measured.best}" if name == "tuned" else "xllamacpp")
        made.add_column("ratio (min - max)")
    for figure in scenario.figures:
        made.add_row(*line(figure, measured, peers))
    return made


def line(figure: Figure, measured: Measured, peers: list[str]) -> list[str]:
    """One line of the table."""
    ours = measured.rounds["ours"]
    value = figure.of(ours)
    title = f"{figure.title}{f', {figure.unit}' if figure.unit else ''}"
    cells = [title, f"{value:.4g}{verdict(figure, value, figure.limit)}"]
    for name in peers:
        theirs = measured.rounds[name]
        compared = ratio(figure, ours, theirs)
        target = figure.tuned if name == "tuned" else figure.default
        cells += [
            f"{figure.of(theirs):.4g}",
            f"{compared.pooled:.3g} ({compared.least:.3g} - {compared.greatest:.3g})"
            + verdict(figure, compared.pooled, target),
        ]
    return cells


def verdict(figure: Figure, value: float, target: float | None) -> str:
    """The target, and whether it is met; nothing without one."""
    met = figure.meets(value, target)
    if met is None:
        return ""
    color = "green" if met else "red"
    return f" [{color}]{'≥' if figure.higher else '≤'} {target:.3g}[/{color}]"


if __name__ == "__main__":
    main()
