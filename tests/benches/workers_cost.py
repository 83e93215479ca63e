"""What worker processes cost: a call and a page, beside `prometheus_client`'s multiprocess mode.

    python tests/benches/workers_cost.py [DEAD]

The dead workers, 1,000 unless told, were forked and killed after their work. Each figure is the
least of several turns. The ratios are of figures of the same run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

CALLS = 50_000
TURNS = 5
ROUNDS = 15
"""In each, a process of each variant makes its turns."""

HOT = """
import sys, timeit
if sys.argv[1] == "theirs":
    from prometheus_client import Counter, Gauge, Histogram
else:
    from ryot_metrics.client import Counter, Gauge, Histogram
counter = Counter("jobs", "Jobs.", ["queue"]).labels("mail")
gauge = Gauge("depth", "Depth.", ["queue"], multiprocess_mode="livesum").labels("mail")
histogram = Histogram("size", "Sizes.", ["queue"]).labels("mail")
calls, turns = int(sys.argv[2]), int(sys.argv[3])
for call in (counter.inc, lambda: gauge.set(3.0), lambda: histogram.observe(0.3)):
    least = min(timeit.repeat(call, number=calls, repeat=turns))
    print(least / calls * 1e9)
"""

METRICS = """
import os, signal, sys
if sys.argv[1] == "theirs":
    from prometheus_client import Counter, Gauge, Histogram
else:
    from ryot_metrics.client import Counter, Gauge, Histogram
jobs = Counter("jobs", "Jobs.", ["queue"])
depth = Gauge("depth", "Depth.", ["queue"], multiprocess_mode="livesum")
size = Histogram("size", "Sizes.", ["queue"])
def work():
    for number in range(10):
        jobs.labels(str(number)).inc()
        depth.labels(str(number)).set(1)
        size.labels(str(number)).observe(0.3)
"""

WORKER = (
    METRICS
    + """
work()
print("ready", flush=True)
sys.stdin.read()
"""
)

DEAD = (
    METRICS
    + """
for _ in range(int(sys.argv[2])):
    if (pid := os.fork()) == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
"""
)

PAGE = """
import sys, timeit
if sys.argv[1] == "theirs":
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
else:
    from ryot_metrics.client import REGISTRY as registry, generate_latest
generate_latest(registry)
turns = timeit.repeat(lambda: generate_latest(registry), number=1, repeat=int(sys.argv[2]))
print(min(turns) * 1e3)
"""


def python(code: str, *arguments: object, env: dict[str, str]) -> list[float]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **env}, check=True, stdout=subprocess.PIPE)
    return [float(line) for line in done.stdout.split()]


def where(which: str, directory: str) -> dict[str, str]:
    if which == "theirs":
        return {"PROMETHEUS_MULTIPROC_DIR": directory}
    return {"RYOT_METRICS_SHARED": f"{directory}/mapping", "RYOT_METRICS_GPU": "off"}


def hot_path() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        variants = (
            ("ours", {}),
            ("ours", where("ours", directory)),
            ("theirs", where("theirs", directory)),
        )
        rounds = [
            [python(HOT, which, CALLS, TURNS, env=env) for which, env in variants]
            for _ in range(ROUNDS)
        ]
    rows = [[min(turns) for turns in zip(*of, strict=True)] for of in zip(*rounds, strict=True)]
    print("ns per call            alone  shared  ratio  prometheus_client  ratio")
    for name, alone, shared, theirs in zip(("inc", "set", "observe"), *rows, strict=True):
        print(
            f"{name:20} {alone:7.0f} {shared:7.0f} {shared / alone:6.2f} {theirs:18.0f} "
            f"{theirs / shared:6.1f}"
        )


def start(which: str, env: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, which]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process: subprocess.Popen[str] = subprocess.Popen(command, env={**os.environ, **env}, **pipes)
    process.stdout.readline()
    return process


def page(which: str, live: int, dead: int) -> float:
    """Milliseconds for a page of so many workers."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        env = where(which, directory)
        python(DEAD, which, dead, env=env)
        workers = [start(which, env) for _ in range(live)]
        (millis,) = python(PAGE, which, TURNS, env=env)
        for worker in workers:
            worker.communicate("")
    return millis


def pages(dead: int) -> None:
    print("ms per page           shared  prometheus_client  ratio")
    for live, gone in ((1, 0), (8, 0), (64, 0), (1, dead)):
        ours, theirs = (page(which, live, gone) for which in ("ours", "theirs"))
        name = f"{live} workers, {gone} dead"
        print(f"{name:20} {ours:7.2f} {theirs:18.2f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    begun = time.monotonic()
    hot_path()
    pages(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
    print(f"{time.monotonic() - begun:.0f} s in all")
