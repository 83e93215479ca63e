"""The demo: a service in this process, a small mixed load over HTTP, and its metrics read back.

What the load sees (over HTTP, with the client's clock) stands next to what the service's own
`/metrics` page says. This module uses the service only as any client could: by its URL.
"""

from __future__ import annotations

import asyncio
import json
import math
import statistics
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from ryot_metrics import Engine
from ryot_metrics._extra import serve_extra
from ryot_metrics._report import INTER_TOKEN, LATENCY, TTFT, Report

with serve_extra("the demo"):
    import httpx
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from ryot_metrics.serve import create_app
    from ryot_metrics.serve.run import bind, in_background

if TYPE_CHECKING:
    from collections.abc import Sequence

CONCURRENT = 8
REQUEST_TIMEOUT_SECONDS = 120
SETTLE_SECONDS = 2
SHORT = (
    "Name three rivers in Europe.",
    "Explain in two sentences what a cache is.",
    "Write a haiku about the sea.",
    "What is the capital of Portugal?",
    "Give me a recipe for pancakes.",
)
LONG = "Summarise these notes. " + " ".join(
    f"Note {number}: the {place} reported {number * 7} visitors, and the weather was {weather}."
    for number, (place, weather) in enumerate(
        [("harbour", "calm"), ("museum", "wet"), ("market", "cold"), ("library", "mild")] * 8, 1
    )
)
"""Several hundred tokens, so that its prefill competes with the others' decoding."""


@dataclass
class Chat:
    """One conversation of the load, and what its client saw."""

    label: str
    prompt: str
    max_tokens: int | None = 48
    cancel_after: int | None = None
    """Close the connection once this many tokens have come."""
    state: str = "waiting"
    sent: float = 0.0
    token_times: list[float] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first token; NaN before it came."""
        return self.token_times[0] - self.sent if self.token_times else math.nan

    @property
    def gaps(self) -> list[float]:
        """Seconds from each token to the next."""
        times = self.token_times
        return [later - earlier for earlier, later in pairwise(times)]

    @property
    def latency(self) -> float:
        """Seconds from sending to the last token, of which there must be one."""
        return self.token_times[-1] - self.sent

    @property
    def rate(self) -> float:
        """Tokens per second after the first one."""
        gaps = self.gaps
        return len(gaps) / sum(gaps) if sum(gaps) else math.nan

    def body(self) -> dict[str, object]:
        """The request; a chat that is to be cancelled must not end by itself."""
        return {
            "messages": [{"role": "user", "content": self.prompt}],
            "max_tokens": self.max_tokens,
            "ignore_eos": self.cancel_after is not None,
            "stream": True,
        }

    def row(self) -> tuple[str, ...]:
        """Label, state, tokens, TTFT and rate as text."""
        tokens = str(len(self.token_times))
        return self.label, self.state, tokens, _ms(self.ttft), _number(self.rate)


def run(model: str, *, host: str, port: int, requests: int, keep: bool) -> None:
    """Show the demo on the terminal.

    Args:
        model: What `Engine` takes.
        host: Where the service listens.
        port: Its port; 0 takes a free one.
        requests: How many chats the load has; every eighth is cancelled by its client.
        keep: Go on serving until Ctrl-C.
    """
    if requests < 1:
        raise ValueError(f"--requests is {requests}; at least 1")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    chats = plan(requests)
    with (
        bind(host, port) as listening,
        Engine(model) as engine,
        in_background(create_app(engine), listening) as url,
        httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False) as client,
    ):
        client.get("/health").raise_for_status()
        console.print(f"{engine.name} is served at {url}")
        seconds = asyncio.run(_drive(url, chats, console))
        _show_results(console, _read_back(client, requests), chats, seconds)
        console.print(f"metrics: {url}/metrics")
        if keep:
            console.print("serving until Ctrl-C")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()


def plan(requests: int) -> list[Chat]:
    """A mix: mostly short prompts; in every eight chats one long, and one that hangs up."""
    chats = []
    for index in range(requests):
        label, short = f"chat {index + 1}", SHORT[index % len(SHORT)]
        match index % 8:
            case 3:
                chats.append(Chat(f"{label} (long prompt)", LONG))
            case 7:
                chats.append(Chat(f"{label} (hangs up)", short, max_tokens=None, cancel_after=8))
            case _:
                chats.append(Chat(label, short))
    return chats


def _read_back(client: httpx.Client, requests: int) -> Report:
    """The service's own numbers, once it has noticed that the last client hung up."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        report = Report.read(client.get("/metrics", headers={"Accept": "text/plain"}).text)
        if sum(report.requests.values()) >= requests or time.monotonic() > deadline:
            return report
        time.sleep(0.05)


async def _drive(url: str, chats: Sequence[Chat], console: Console) -> float:
    """Run the load with its progress on the console; gives the seconds that it took."""
    slots = asyncio.Semaphore(CONCURRENT)
    started = time.perf_counter()
    async with httpx.AsyncClient(
        base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False
    ) as client:
        load = asyncio.gather(*(_chat(client, chat, slots, console) for chat in chats))
        if console.is_terminal:
            with Live(get_renderable=lambda: _progress(chats), console=console):
                await load
        else:
            await load
    return time.perf_counter() - started


async def _chat(
    client: httpx.AsyncClient, chat: Chat, slots: asyncio.Semaphore, console: Console
) -> None:
    async with slots:
        chat.state, chat.sent = "running", time.perf_counter()
        try:
            chat.state = await _converse(client, chat)
        except httpx.HTTPError as error:
            chat.state = f"failed: {error or type(error).__name__}"
    if not console.is_terminal:
        label, state, tokens, ttft, rate = chat.row()
        console.print(f"{label}: {state}, {tokens} tokens, TTFT {ttft} ms, {rate} tokens/s")


async def _converse(client: httpx.AsyncClient, chat: Chat) -> str:
    """Read one stream of events, noting when each token came; gives the final state."""
    async with client.stream("POST", "/v1/chat/completions", json=chat.body()) as response:
        if response.is_error:
            return f"failed: HTTP {response.status_code}"
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                return f"failed: {event['error']['message']}"
            if event["choices"][0]["finish_reason"] is None:
                chat.token_times.append(time.perf_counter())
            if len(chat.token_times) == chat.cancel_after:
                return "hung up"
    return "done"


def _progress(chats: Sequence[Chat]) -> Table:
    table = _table("chat", "state", "tokens", "TTFT ms", "tokens/s")
    for chat in chats:
        table.add_row(*chat.row())
    return table


def _show_results(console: Console, report: Report, chats: Sequence[Chat], seconds: float) -> None:
    statuses = ", ".join(f"{count:.0f} {name}" for name, count in sorted(report.requests.items()))
    console.print(f"requests, by the service's count: {statuses or 'none'}")
    tokens = sum(len(chat.token_times) for chat in chats)
    console.print(
        f"tokens: {report.completion_tokens:.0f} generated, {tokens} received "
        f"in {seconds:.1f} s = {tokens / seconds:.1f} tokens/s"
    )
    begun = [chat for chat in chats if chat.token_times]
    rows = (
        ("time to first token", TTFT, [chat.ttft for chat in begun]),
        ("between tokens", INTER_TOKEN, [gap for chat in begun for gap in chat.gaps]),
        ("whole request", LATENCY, [chat.latency for chat in begun]),
    )
    table = _table("milliseconds", "seen by", "p50", "p95", "p99")
    for title, histogram, seen in rows:
        by_service = [report.quantile(histogram, q) for q in (0.5, 0.95, 0.99)]
        by_client = [percentile(seen, percent) for percent in (50, 95, 99)]
        table.add_row(title, "/metrics", *map(_ms, by_service))
        table.add_row("", "client", *map(_ms, by_client))
    console.print(table)


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of measured values, interpolated between neighbours; NaN without any."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        text = column in {"chat", "state", "milliseconds", "seen by"}
        table.add_column(column, justify="left" if text else "right")
    return table


def _ms(seconds: float) -> str:
    return _number(seconds * 1000)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"
