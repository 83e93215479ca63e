"""Tokens per second of greedy streams, against llama.cpp's own server engine.

Each runs in a process of its own on the same file with the same threads and as many sequences as
there are streams, without an end token; they take turns, and the order changes from round to round,
because machines are noisy. Ours is there as it is by default, and without `kv_unified`. The peer is
`xllamacpp`, which embeds llama-server's engine, as it is by default and at its best of some batch
sizes, with one KV buffer or parts; all are asked in the process, without HTTP between.

All prompts come at once. `decode` is the answers' tokens a second while all of them are under way,
`all` those from the beginning to the end, prompts and stragglers included.

Run: python tests/benches/engine_throughput.py [--streams 1 4 8 16] [--rounds 5] [--tokens 128]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from rich.console import Console
from rich.progress import track
from rich.table import Table

from latency.client import Answer, Peer, makespan, play
from latency.peers import DEFAULT, Ours, Setting, Size, Xllamacpp, add_tuned
from latency.trace import Ask
from ryot_metrics.models import resolve

CTX_SIZE = 8192

Rates = dict[str, float]
"""Tokens a second, by what is counted."""

OURS = {"ryot-metrics": True, "ryot-metrics, parts": False}
"""Ours by name: whether its KV cells are unified."""


class Worker:
    """An engine in a process of its own; `setting` is the peer's tuning, for ours one of `OURS`."""

    def __init__(self, model: str, threads: int, streams: int, setting: Setting | str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, model, threads, streams, setting)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def measure(self, number: int, tokens: int) -> Rates:
        """A round of answers of so many tokens each."""
        self._pipe.send((number, tokens))
        rates: Rates = self._pipe.recv()
        return rates

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


def _serve(
    pipe: Connection, model: str, threads: int, streams: int, setting: Setting | str
) -> None:
    """Answers rounds until it is killed."""
    size = Size(cells=CTX_SIZE, parallel=streams)
    engine: Peer
    if isinstance(setting, str):
        engine = Ours(model, threads, size, unified=OURS[setting])
    else:
        engine = Xllamacpp(model, threads, size, setting)
    play(engine, [Ask(0.0, "Warm up.", 4)])
    pipe.send(None)
    while True:
        number, tokens = pipe.recv()
        text = "once upon a time in a small town by the sea, there lived a clockmaker who could not"
        prompts = [f"Round {number}, story {index}: {text}" for index in range(streams)]
        pipe.send(rates(play(engine, [Ask(0.0, prompt, tokens) for prompt in prompts])))


def rates(answers: Sequence[Answer]) -> Rates:
    """Tokens a second, while all of these are under way and from the first to the last."""
    assert all(answer.completed for answer in answers), answers
    since = max(answer.stamps[0] for answer in answers)
    until = min(answer.stamps[-1] for answer in answers)
    meanwhile = sum(since < stamp <= until for answer in answers for stamp in answer.stamps)
    tokens = sum(answer.ask.tokens for answer in answers)
    return {"decode": meanwhile / (until - since), "all": tokens / makespan(answers)}


def best(
    start: Callable[[Setting], Worker], settings: Sequence[Setting], tokens: int
) -> Setting | None:
    """The setting with which the peer is fastest in one round; None of none."""
    found: dict[Setting, float] = {}
    for setting in settings:
        worker = start(setting)
        found[setting] = worker.measure(0, tokens)["decode"]
        worker.close()
    return max(found, key=found.__getitem__, default=None)


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    add_tuned(parser)
    arguments = parser.parse_args()
    model, tokens = str(resolve(arguments.model)), arguments.tokens
    errors = Console(stderr=True)
    columns = ("streams", "tok/s", "ours", "peer", "of ours", "of the peer", "ratio", "min - max")
    table = Table(*columns)
    for streams in arguments.streams:

        def start(setting: Setting | str, streams: int = streams) -> Worker:
            return Worker(model, arguments.threads, streams, setting)

        workers = {name: start(name) for name in OURS}
        workers[f"default, {DEFAULT}"] = start(DEFAULT)
        tuned = best(start, arguments.tuned, tokens)
        if tuned:
            workers[f"tuned, {tuned}"] = start(tuned)
        measured: dict[str, list[Rates]] = {name: [] for name in workers}
        for number in track(
            range(1, arguments.rounds + 1),
            f"{streams} streams",
            console=errors,
            disable=not sys.stderr.isatty(),
        ):
            for name in sorted(workers, reverse=number % 2 == 1):
                measured[name].append(workers[name].measure(number, tokens))
        for worker in workers.values():
            worker.close()
        theirs_of = {name: measured[name] for name in measured if name not in OURS}
        for what, own, name in itertools.product(("decode", "all"), OURS, theirs_of):
            mine, theirs = ([one[what] for one in measured[who]] for who in (own, name))
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            table.add_row(
                str(streams),
                what,
                own,
                name,
                f"{statistics.median(mine):.1f}",
                f"{statistics.median(theirs):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} - {max(ratios):.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
