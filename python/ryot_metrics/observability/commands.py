"""The commands `rules`, `dashboard`, `scrape-config` and `queries`: print, or write to a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ryot_metrics._ryot_metrics import PROFILES
from ryot_metrics.observability import queries
from ryot_metrics.observability._yaml import dump
from ryot_metrics.observability.dashboard import DASHBOARDS, dashboard
from ryot_metrics.observability.rules import rules
from ryot_metrics.observability.scrape_config import KINDS, Target, hint, scrape_config
from ryot_metrics.observability.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Callable


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the four commands."""
    _add_rules(commands)
    command = commands.add_parser("dashboard", help="print a Grafana dashboard")
    command.add_argument("which", choices=DASHBOARDS, help="whose dashboard")
    _prints(command, lambda given: json.dumps(dashboard(given.which), indent=2) + "\n")
    _add_scrape_config(commands)
    command = commands.add_parser("queries", help="print PromQL to start from")
    _prints(command, lambda _: queries.text())


def _prints(command: argparse.ArgumentParser, text: Callable[[argparse.Namespace], str]) -> None:
    command.add_argument("-o", "--output", metavar="FILE", help="write to a file, not to stdout")
    command.set_defaults(run=_run, text=text)


def _run(given: argparse.Namespace) -> None:
    text: str = given.text(given)
    if given.output:
        Path(given.output).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


def _add_rules(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "rules",
        help="print recording and alert rules for Prometheus",
        epilog=f"thresholds and their defaults:\n{Thresholds.table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="change a threshold; may be given several times",
    )
    _prints(command, lambda given: dump(rules(Thresholds.parse(given.set))))


def _add_scrape_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("scrape-config", help="print what makes Prometheus scrape a page")
    command.add_argument("kind", choices=KINDS, help="for whom")
    default = Target()
    for option, text in (
        ("target", "the page's host:port; Kubernetes takes only the port"),
        ("path", "the page's path"),
        ("name", "the job's name; in Kubernetes, the pods' label `app`"),
    ):
        value = getattr(default, option)
        command.add_argument(f"--{option}", default=value, help=f"{text} (default: {value})")
    command.add_argument("--interval", help="the time between two scrapes (default: 15s)")
    command.add_argument("--profile", default="ryot", choices=PROFILES, help="names on the page")
    _prints(command, _scrape_config)


def _scrape_config(given: argparse.Namespace) -> str:
    target = Target(given.target, given.path, given.interval, given.profile, given.name)
    return hint(given.kind) + dump(scrape_config(given.kind, target))
