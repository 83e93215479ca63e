"""Eight clients of the engine against eight clients of llama-cpp-python's `Llama`.

Each client asks again once it has its answer, as a service's worker does. A `Llama` answers one
request at a time, whoever asks, so its clients wait for a lock, as in its own server. All are in
processes of their own on the same file with the same threads, greedy; ours is there as it is by
default, and without `kv_unified`, since no client needs more than an eighth of the context. They
take turns, and the order changes from round to round. Tokens are those that an answer reports; the
latency is a client's, from asking to the last token.

Needs llama-cpp-python, which is no dependency of this package: `pip install llama-cpp-python`.

Run: python tests/benches/llama_cpp_python.py [--model FILE] [--rounds 5] [--tokens 48]
    [--asks 6]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from rich.console import Console
from rich.progress import track
from rich.table import Table

from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.models import resolve

CLIENTS = 8
CTX_SIZE = 4096
PLACES = ("a small town", "a lighthouse", "an old mill", "a harbour", "a mountain village")

Answer = Callable[[str, int], int]
"""Answers a prompt with at most so many tokens, and says how many there were."""


def ours(model: str, threads: int, *, unified: bool = True) -> Answer:
    """The engine of this package."""
    config = EngineConfig(ctx_size=CTX_SIZE, parallel=CLIENTS, threads=threads, kv_unified=unified)
    engine = Engine(model, config)

    def answer(prompt: str, tokens: int) -> int:
        params = SamplingParams(max_tokens=tokens, temperature=0)
        return engine.generate([prompt], params)[0].token_count

    return answer


def theirs(model: str, threads: int) -> Answer:
    """A `Llama`, which several threads may not use at once."""
    from llama_cpp import Llama

    llama = Llama(model, n_ctx=CTX_SIZE, n_threads=threads, n_threads_batch=threads, verbose=False)
    lock = threading.Lock()

    def answer(prompt: str, tokens: int) -> int:
        with lock:
            result = llama.create_completion(prompt, max_tokens=tokens, temperature=0)
        return int(result["usage"]["completion_tokens"])

    return answer


def parts(model: str, threads: int) -> Answer:
    """The same with cells of its own for each sequence."""
    return ours(model, threads, unified=False)


PEER = "llama-cpp-python"
PEERS = {"ryot-metrics": ours, "ryot-metrics, parts": parts, PEER: theirs}


def load(answer: Answer, number: int, asks: int, tokens: int) -> tuple[float, list[float]]:
    """A round's tokens per second, and the seconds of each request."""
    counts: list[int] = []
    seconds: list[float] = []

    def client(index: int) -> None:
        for turn in range(asks):
            place = PLACES[(index + turn) % len(PLACES)]
            prompt = f"Story {number}.{index}.{turn}: once upon a time in {place}, a clockmaker"
            began = time.perf_counter()
            counts.append(answer(prompt, tokens))
            seconds.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began), seconds


def serve(name: str, model: str, threads: int, asks: int, tokens: int, pipe: Connection) -> None:
    """Loads a peer for each number that it is given, until it is given None."""
    answer = PEERS[name](model, threads)
    answer("Warm up.", 4)
    pipe.send(None)
    while (number := pipe.recv()) is not None:
        pipe.send(load(answer, number, asks, tokens))


def p99(seconds: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[98]


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--asks", type=int, default=6, help="requests of each client in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = str(resolve(options.model))
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in PEERS:
        pipes[name], end = context.Pipe()
        context.Process(
            target=serve,
            args=(name, model, options.threads, options.asks, options.tokens, end),
            daemon=True,
        ).start()
        pipes[name].recv()

    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in PEERS}
    console = Console(stderr=True)
    quiet = not sys.stderr.isatty()
    for number in track(range(options.rounds), "measuring", console=console, disable=quiet):
        for name in sorted(PEERS, reverse=number % 2 == 1):
            pipes[name].send(number)
            rate, seconds = pipes[name].recv()
            taken[name].append((rate, statistics.median(seconds), p99(seconds)))
    for pipe in pipes.values():
        pipe.send(None)

    table = Table(f"{CLIENTS} clients", "ours", "of ours", f"of {PEER}", "ratio", "ratio min - max")
    for index, what in enumerate(("tokens/s", "latency p50, s", "latency p99, s")):
        columns = {name: [one[index] for one in taken[name]] for name in PEERS}
        for name in (name for name in PEERS if name != PEER):
            ratios = [one / other for one, other in zip(columns[name], columns[PEER], strict=True)]
            table.add_row(
                what,
                name,
                f"{statistics.median(columns[name]):.2f}",
                f"{statistics.median(columns[PEER]):.2f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} - {max(ratios):.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
