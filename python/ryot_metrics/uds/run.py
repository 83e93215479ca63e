"""The command `ryot-metrics uds`: what a client sees, on standard output."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ryot_metrics.uds.client import Client, Eos

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ryot_metrics.uds.client import Answer

OPTIONS: tuple[tuple[str, type, str], ...] = (
    ("--max-tokens", int, "tokens in the answer, at most"),
    ("--temperature", float, "0, the default, always takes the likeliest token"),
    ("--top-p", float, "keep the likeliest tokens up to this sum of probabilities"),
    ("--top-k", int, "keep this many of the likeliest tokens"),
    ("--seed", int, "makes the draws repeatable"),
    ("--priority", str, "interactive or background"),
    ("--user", str, "on whose behalf"),
    ("--deadline-ms", float, "milliseconds after which the answer is of no use"),
    ("--adapter", str, "the LoRA adapter that answers"),
)
SLO_OPTIONS = (
    ("--target-ttft-ms", "promised milliseconds to the first token"),
    ("--target-tbt-ms", "promised milliseconds from one token to the next"),
)


def add_uds(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    uds = commands.add_parser("uds", help="ask the Unix socket of a served model")
    uds.add_argument("path", metavar="PATH", help="the socket's file")
    actions = uds.add_subparsers(required=True, metavar="ACTION")
    metrics = actions.add_parser("metrics", help="print the engine's scorecard as JSON")
    metrics.set_defaults(run=_metrics)
    generate = actions.add_parser("generate", help="continue a text; Ctrl-C cancels")
    generate.add_argument("--prompt", help="the text (default: standard input)")
    for name, kind, text in OPTIONS:
        generate.add_argument(name, type=kind, metavar=name[2].upper(), help=text)
    for name, text in SLO_OPTIONS:
        generate.add_argument(name, type=float, metavar="MS", help=text)
    generate.set_defaults(run=_generate)


def _metrics(arguments: argparse.Namespace) -> None:
    with Client(arguments.path) as client:
        print(json.dumps(client.metrics(), indent=2))


def _generate(arguments: argparse.Namespace) -> None:
    prompt = sys.stdin.read() if arguments.prompt is None else arguments.prompt
    fields = _given(arguments, [name for name, _, _ in OPTIONS])
    if slo := _given(arguments, [name for name, _ in SLO_OPTIONS]):
        fields["slo"] = slo
    with Client(arguments.path) as client:
        answer = client.generate(prompt, **fields)
        with _cancelled_by_ctrl_c(answer):
            for event in answer:
                print(event.text, end="", flush=True)
        print()
    if isinstance(event, Eos) and event.reason == "cancelled":
        raise KeyboardInterrupt


def _given(arguments: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    keys = [name.removeprefix("--").replace("-", "_") for name in names]
    return {key: value for key in keys if (value := getattr(arguments, key)) is not None}


@contextmanager
def _cancelled_by_ctrl_c(answer: Answer) -> Iterator[None]:
    """The first Ctrl-C cancels the answer, which then ends as it should; a second one raises."""

    def cancel(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        answer.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
