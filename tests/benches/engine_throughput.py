"""Tokens per second of greedy streams, against llama.cpp's own server engine.

Each runs in a process of its own on the same file with the same threads and as many sequences as
there are streams, without an end token; they take turns, and the order changes from round to round,
because machines are noisy. Ours is there as it is by default, and without `kv_unified`. The peer is
`xllamacpp`, which embeds llama-server's engine, as it is by default and at its best of some batch
sizes, with one KV buffer or parts; all are asked in the process, without HTTP between.

Run: python tests/benches/engine_throughput.py [--streams 1 4 8 16] [--rounds 5] [--tokens 64]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Table

from latency import peers
from latency.peers import DEFAULT, Setting, Size, add_tuned
from ryot_metrics import SamplingParams
from ryot_metrics.models import resolve

CTX_SIZE = 8192


class Peer(Protocol):
    """Something that answers prompts at once."""

    def run(self, prompts: list[str], tokens: int) -> None:
        """Answers all prompts with exactly so many tokens each."""


class Ours(peers.Ours):
    """The engine of this package."""

    def run(self, prompts: list[str], tokens: int) -> None:
        """Answers all prompts."""
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        for completion in self.engine.generate(prompts, params):
            assert completion.token_count == tokens


class Xllamacpp(peers.Xllamacpp):
    """llama-server's engine."""

    def run(self, prompts: list[str], tokens: int) -> None:
        """Answers all prompts, one thread each."""

        def answer(prompt: str) -> None:
            body = {
                "prompt": prompt,
                "max_tokens": tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
            result = self.server.handle_completions(body)
            counts.append(result["usage"]["completion_tokens"])

        counts: list[int] = []
        threads = [threading.Thread(target=answer, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [tokens] * len(prompts), counts


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

    def measure(self, number: int, tokens: int) -> float:
        """A round: answers a second of so many tokens each, in tokens."""
        self._pipe.send((number, tokens))
        rate: float = self._pipe.recv()
        return rate

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
    engine.run(["Warm up."], 4)
    pipe.send(0.0)
    while True:
        number, tokens = pipe.recv()
        prompts = [
            f"Round {number}, story {index}: once upon a time in a small town by the sea, there "
            "lived a clockmaker who could not sleep, because"
            for index in range(streams)
        ]
        started = time.perf_counter()
        engine.run(prompts, tokens)
        pipe.send(streams * tokens / (time.perf_counter() - started))


def best(
    start: Callable[[Setting], Worker], settings: Sequence[Setting], tokens: int
) -> Setting | None:
    """The setting with which the peer is fastest in one round; None of none."""
    rates: dict[Setting, float] = {}
    for setting in settings:
        worker = start(setting)
        rates[setting] = worker.measure(0, tokens)
        worker.close()
    return max(rates, key=rates.__getitem__, default=None)


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    add_tuned(parser)
    arguments = parser.parse_args()
    model, tokens = str(resolve(arguments.model)), arguments.tokens
    errors = Console(stderr=True)
    table = Table("streams", "ours", "peer", "tok/s", "peer tok/s", "ratio", "ratio min - max")
    for streams in arguments.streams:

        def start(setting: Setting | str, streams: int = streams) -> Worker:
            return Worker(model, arguments.threads, streams, setting)

        workers = {name: start(name) for name in OURS}
        workers[f"default, {DEFAULT}"] = start(DEFAULT)
        tuned = best(start, arguments.tuned, tokens)
        if tuned:
            workers[f"tuned, {tuned}"] = start(tuned)
        rates: dict[str, list[float]] = {name: [] for name in workers}
        for number in track(
            range(1, arguments.rounds + 1),
            f"{streams} streams",
            console=errors,
            disable=not sys.stderr.isatty(),
        ):
            for name in sorted(workers, reverse=number % 2 == 1):
                rates[name].append(workers[name].measure(number, tokens))
        for worker in workers.values():
            worker.close()
        ours = {name: rates.pop(name) for name in OURS}
        for (own, mine), (name, theirs) in itertools.product(ours.items(), rates.items()):
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            table.add_row(
                str(streams),
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
