"""Tokens per second of the engine against llama.cpp's own server engine, at 1, 4 and 8 streams.

Both run in processes of their own on the same file with the same threads, greedy, without an end
token; they take turns, and the order changes from round to round, because machines are noisy.
The peer is `xllamacpp`, which embeds llama-server's engine; both are asked in the process, without
HTTP between.

Run: python tests/benches/engine_throughput.py [--model FILE] [--rounds 5] [--tokens 64]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.models import resolve

PARALLEL = 8
CTX_SIZE = 8192


class Peer(Protocol):
    """Something that answers prompts at once."""

    def run(self, prompts: list[str], tokens: int) -> None:
        """Answers all prompts with exactly so many tokens each."""


class Ours:
    """The engine of this package."""

    def __init__(self, model: str, threads: int) -> None:
        self._engine = Engine(
            model, EngineConfig(ctx_size=CTX_SIZE, parallel=PARALLEL, threads=threads)
        )

    def run(self, prompts: list[str], tokens: int) -> None:
        """Answers all prompts."""
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
        for completion in self._engine.generate(prompts, params):
            assert completion.token_count == tokens


class Xllamacpp:
    """llama-server's engine."""

    def __init__(self, model: str, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_parallel = PARALLEL
        params.n_ctx = CTX_SIZE
        params.kv_unified = True
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.warmup = True
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

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
            result = self._server.handle_completions(body)
            counts.append(result["usage"]["completion_tokens"])

        counts: list[int] = []
        threads = [threading.Thread(target=answer, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [tokens] * len(prompts), counts


def serve(peer: type[Any], model: str, threads: int, tokens: int, pipe: Connection) -> None:
    """Answers rounds until it is told 0 streams: one number of streams in, tokens/s out."""
    engine: Peer = peer(model, threads)
    engine.run(["Warm up."], 4)
    pipe.send(0.0)
    number = 0
    while streams := pipe.recv():
        number += 1
        prompts = [
            f"Round {number}, story {index}: once upon a time in a small town by the sea, there "
            "lived a clockmaker who could not sleep, because"
            for index in range(streams)
        ]
        started = time.perf_counter()
        engine.run(prompts, tokens)
        pipe.send(streams * tokens / (time.perf_counter() - started))


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    arguments = parser.parse_args()
    model = str(resolve(arguments.model))
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for peer in (Ours, Xllamacpp):
        pipes[peer.__name__], theirs = context.Pipe()
        context.Process(
            target=serve,
            args=(peer, model, arguments.threads, arguments.tokens, theirs),
            daemon=True,
        ).start()
        pipes[peer.__name__].recv()

    rates: dict[tuple[str, int], list[float]] = {}
    rounds = [
        (number, streams) for number in range(arguments.rounds) for streams in arguments.streams
    ]
    console = Console(stderr=True)
    for number, streams in track(
        rounds, "measuring", console=console, disable=not sys.stderr.isatty()
    ):
        for name in sorted(pipes, reverse=number % 2 == 1):
            pipes[name].send(streams)
            rates.setdefault((name, streams), []).append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(0)

    table = Table("streams", "ryot-metrics tok/s", "xllamacpp tok/s", "ratio", "ratio min - max")
    for streams in arguments.streams:
        ours, theirs = rates["Ours", streams], rates["Xllamacpp", streams]
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        table.add_row(
            str(streams),
            f"{statistics.median(ours):.1f}",
            f"{statistics.median(theirs):.1f}",
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} - {max(ratios):.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
