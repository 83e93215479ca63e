"""The command `ryot-metrics`: serve a model, show the demo, fetch a model, print what goes around.

Names and short forms of options are llama-server's. This module carries values to what knows their
limits, and prints what is refused as one line.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from ryot_metrics import RyotError, _exporter, _serve, catalogue, models
from ryot_metrics.config import settings
from ryot_metrics.fleet.run import add_fleet
from ryot_metrics.observability.commands import add_commands
from ryot_metrics.uds.run import add_uds

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MODEL = "smollm2-135m"
MODEL_HELP = (
    "a GGUF file, a Hugging Face org/name:file.gguf, or a short name (default: %(default)s)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after a one-line error, or a shell's own for Ctrl-C (130) and for
        output that nobody reads to its end, as `head` does (141).
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, ImportError, RyotError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141
        print(f"ryot-metrics: error: {error}", file=sys.stderr)
        return 2
    return 0


def _nobody_reads() -> bool:
    """Whether the reader of the output has gone; then the interpreter need not try it again."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in watch.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ryot-metrics", description="Serve language models, with their metrics."
    )
    parser.add_argument("--version", action="version", version=version("ryot-metrics"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_demo(commands)
    pull = commands.add_parser("pull", help="fetch a model into the cache and print its path")
    pull.add_argument("model", metavar="MODEL", help=f"one of: {', '.join(sorted(models.KNOWN))}")
    pull.set_defaults(run=_pull)
    _add_top(commands)
    add_uds(commands)
    _exporter.add_exporter(commands)
    add_fleet(commands)
    table = commands.add_parser("catalogue", help="print the table of metric families")
    table.set_defaults(run=lambda _: print(catalogue.markdown(), end=""))
    config = commands.add_parser("config", help="print the settings and where they come from")
    config.set_defaults(run=lambda _: _config())
    add_commands(commands)
    return parser


def _config() -> None:
    rows = [("setting", "value", "default", "variable", "from"), *settings().table()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser("serve", help="serve a model over the OpenAI API")
    serve.add_argument(
        "-m",
        "--model",
        action="append",
        help=f"{MODEL_HELP % {'default': DEFAULT_MODEL}}; may be repeated: all but the first are "
        "loaded when they are asked for",
    )
    serve.add_argument(
        "-a",
        "--alias",
        action="append",
        default=[],
        help="the model's name in the API, in the order of the models (default: the model's)",
    )
    serve.set_defaults(default_model=DEFAULT_MODEL)
    _add_address(serve)
    _serve.add_options(serve)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser("demo", help="start a service, load it, and read its metrics back")
    demo.add_argument(
        "--backend",
        choices=("llama", "toy"),
        default="llama",
        help="toy needs no model and no download (default: %(default)s)",
    )
    demo.add_argument("-m", "--model", default=DEFAULT_MODEL, help=MODEL_HELP)
    _add_address(demo)
    demo.add_argument(
        "--requests", type=int, default=8, metavar="N", help="chats in all (default: %(default)s)"
    )
    demo.add_argument("--keep", action="store_true", help="go on serving until Ctrl-C")
    demo.set_defaults(run=_demo)


def _add_top(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    top = commands.add_parser("top", help="watch a service's live figures in the terminal")
    top.add_argument("url", metavar="URL", help="where it is; without a path, /metrics is read")
    top.add_argument(
        "--interval", type=float, default=2.0, metavar="S", help="seconds (default: %(default)s)"
    )
    top.add_argument("--once", action="store_true", help="one interval's figures, then exit")
    top.add_argument("--json", action="store_true", help="a JSON object per interval")
    top.set_defaults(run=_top)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )


def _demo(arguments: argparse.Namespace) -> None:
    from ryot_metrics import demo

    demo.run(
        "toy" if arguments.backend == "toy" else arguments.model,
        host=arguments.host,
        port=arguments.port,
        requests=arguments.requests,
        keep=arguments.keep,
    )


def _top(arguments: argparse.Namespace) -> None:
    from ryot_metrics.top.run import run

    run(arguments.url, interval=arguments.interval, once=arguments.once, as_json=arguments.json)


def _pull(arguments: argparse.Namespace) -> None:
    print(models.resolve(arguments.model))
