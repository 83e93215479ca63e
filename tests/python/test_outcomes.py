"""What one request leaves behind: how it ends, by what is measured, with the exact samples.

The clock stands still but for 10 ms before each token, and 1 s in which the consumer of a stream
is busy with an item; that second is in no inter-token latency.
"""

from __future__ import annotations

import gc
import threading
import warnings
from contextlib import suppress
from functools import partial

import anyio
import pytest

from ryot_metrics import InferenceContext
from ryot_metrics import track_inference_request as track
from ryot_metrics.testing import isolated

# What happens, after how many tokens: what is left by a call, a stream and a block.
# "-": cannot happen there.
OUTCOMES = """
returns             3 | success           | success, 3            | success, 3
raises              0 | error inference   | error inference       | error inference
raises              2 | -                 | partial inference, 2  | partial inference, 2
times out           0 | timeout timeout   | timeout timeout       | timeout timeout
times out           2 | -                 | timeout timeout, 2    | timeout timeout, 2
runs out of memory  2 | -                 | partial oom, 2        | partial oom, 2
is cancelled        0 | cancelled         | cancelled             | cancelled
is cancelled        2 | -                 | cancelled, 2          | cancelled, 2
consumer breaks     2 | -                 | cancelled, 2          | -
consumer closes     2 | -                 | cancelled, 2          | -
consumer drops it   2 | -                 | cancelled, 2          | -
consumer raises     2 | -                 | cancelled, 2          | -
""".strip()

ERRORS = {
    "raises": RuntimeError("boom"),
    "times out": TimeoutError(),
    "runs out of memory": MemoryError(),
}


def table():
    """Each row of the table as what happens, after how many tokens, where, and what is left."""
    for line in OUTCOMES.splitlines():
        event, *columns = [cell.strip() for cell in line.split("|")]
        what, after = event.rsplit(None, 1)
        for where, expected in zip(("call", "stream", "block"), columns, strict=True):
            if expected != "-":
                yield pytest.param(
                    what.strip(), int(after), where, expected, id=f"{what}-{after}-{where}"
                )


def left(metrics):
    """What the requests left, in the words of the table; checks all that it does not say."""
    samples = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            known = ("status", "error_type", "le")
            labels = tuple(sample.labels.get(name, "") for name in known)
            samples[sample.name, labels] = samples.get((sample.name, labels), 0) + sample.value

    def total(name):
        return sum(value for (known, _), value in samples.items() if known == name)

    requests, ends, errors = 0, [], 0
    for (name, (status, error_type, _)), value in sorted(samples.items()):
        if name == "ryot_inference_requests_total" and value:
            end = f"{status} {error_type.removesuffix('_error')}".strip()
            ends.append(end if value == 1 else f"{value:.0f} x {end}")
            requests += value
            errors += value * bool(error_type)
    tokens = total("ryot_tokens_generated_total")
    gaps = total("ryot_inference_inter_token_latency_seconds_count")
    assert total("ryot_inference_latency_seconds_count") == requests
    assert total("ryot_inference_errors_total") == errors
    assert total("ryot_active_inference_requests") == 0
    assert total("ryot_ttft_latency_seconds_count") == (tokens > 0)
    assert total("ryot_ttft_latency_seconds_sum") == pytest.approx(0.01 * (tokens > 0))
    assert gaps == max(tokens - 1, 0)
    assert total("ryot_inference_inter_token_latency_seconds_sum") == pytest.approx(0.01 * gaps)
    successes = [tokens] if ends == ["success"] and tokens else []
    assert total("ryot_tokens_per_request_sum") == sum(successes)
    text = " + ".join(ends)
    return f"{text}, {tokens:.0f}" if tokens else text


def in_a_cycle(stream):
    """Only the garbage collector frees it now."""
    cycle = [stream]
    cycle.append(cycle)


class Sync:
    """Functions, generators and blocks without `await`."""

    def __init__(self, metrics, what, after):
        self.metrics, self.what, self.after = metrics, what, after

    def happen(self):
        if self.what == "is cancelled":
            raise KeyboardInterrupt
        if self.what in ERRORS:
            raise ERRORS[self.what]

    def tokens(self):
        for token in range(3 if self.what == "returns" else self.after):
            self.metrics.clock.advance(ms=10)
            yield token
        if self.what.startswith("consumer"):
            yield "one more, which nobody asks for"
        self.happen()

    def call(self):
        track(model="m")(self.happen)()

    def block(self):
        with InferenceContext(model="m") as context:
            for _ in self.tokens():
                context.token()

    def stream(self):
        stream = track(model="m")(self.tokens)()
        for token in stream:
            self.metrics.clock.advance(seconds=1)
            if self.what.startswith("consumer") and token == self.after - 1:
                break
        if self.what == "consumer drops it":
            in_a_cycle(stream)
        if self.what == "consumer closes":
            stream.close()
        if self.what == "consumer raises":
            raise LookupError

    def run(self, where):
        with suppress(Exception, KeyboardInterrupt):
            getattr(self, where)()
        gc.collect()


class Async(Sync):
    """The same with `await`; the task is cancelled while it waits."""

    async def ahappen(self):
        if self.what == "is cancelled":
            self.scope.cancel()
            await anyio.sleep_forever()
        self.happen()

    async def atokens(self):
        for token in range(3 if self.what == "returns" else self.after):
            await anyio.lowlevel.checkpoint()
            self.metrics.clock.advance(ms=10)
            yield token
        if self.what.startswith("consumer"):
            yield "one more, which nobody asks for"
        await self.ahappen()

    async def call(self):
        await track(model="m")(self.ahappen)()

    async def block(self):
        async with InferenceContext(model="m") as context:
            async for _ in self.atokens():
                context.token()

    async def stream(self):
        stream = track(model="m")(self.atokens)()
        async for token in stream:
            self.metrics.clock.advance(seconds=1)
            if self.what.startswith("consumer") and token == self.after - 1:
                break
        if self.what == "consumer drops it":
            in_a_cycle(stream)
        if self.what == "consumer closes":
            await stream.aclose()
        if self.what == "consumer raises":
            raise LookupError

    async def main(self, where):
        with anyio.CancelScope() as self.scope, suppress(Exception):
            await getattr(self, where)()
        gc.collect()
        await anyio.lowlevel.checkpoint()  # the loop closes what was collected

    def run(self, where, backend="asyncio"):
        anyio.run(self.main, where, backend=backend)
        gc.collect()


def in_thread(run, where):
    thread = threading.Thread(target=run, args=(where,))
    thread.start()
    thread.join()


RUNNERS = {
    "sync": lambda *case: Sync(*case).run,
    "thread": lambda *case: partial(in_thread, Sync(*case).run),
    "asyncio": lambda *case: Async(*case).run,
    "trio": lambda *case: partial(Async(*case).run, backend="trio"),
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("what", "after", "where", "expected"), list(table()))
def test_an_outcome_leaves_exactly_these_samples(what, after, where, expected, runner):
    """One request with its status, error, latency, tokens, TTFT and gaps, and nothing else."""
    with isolated() as metrics, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # trio's, for a dropped async generator
        RUNNERS[runner](metrics, what, after)(where)
        assert left(metrics) == expected


def nested():
    with InferenceContext(model="m"):
        return track(model="inner")(track(model="innermost")(lambda: 1))()


@track(model="m")
def recursive(depth=5):
    return recursive(depth - 1) if depth else 0


def retried():
    answers = iter([TimeoutError(), RuntimeError(), None])

    @track(model="m")
    def attempt():
        if (error := next(answers)) is not None:
            raise error

    for _ in range(3):
        with suppress(Exception):
            attempt()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (nested, "success"),
        (recursive, "success"),
        (retried, "error inference + success + timeout timeout"),
    ],
)
def test_calls_around_calls(run, expected):
    """Nested and recursive calls are one request; each attempt of a retry is one."""
    with isolated() as metrics:
        run()
        assert left(metrics) == expected
