"""The demo: a service in this process, a small mixed load over HTTP, and its metrics read back.

What the load sees (over HTTP, with the client's clock) stands next to what the service's own
metrics say, those of its `/metrics` page.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ryot_metrics import Engine, RyotError
from ryot_metrics._extra import serve_extra
from ryot_metrics._load import Chat, converse, percentile, plan
from ryot_metrics.client import collect
from ryot_metrics.live import RYOT, Snapshot

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


def run(model: str, *, host: str, port: int, requests: int, keep: bool) -> None:
    """Show the demo on the terminal.

    Args:
        model: What `Engine` takes.
        host: Where the service listens.
        port: Its port; 0 takes a free one.
        requests: How many chats the load has; every eighth is cancelled by its client.
        keep: Go on serving until Ctrl-C.

    Raises:
        ValueError: `requests` is below 1.
        RyotError: A chat failed.
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
        console.print(f"{engine.name} is served at {url}, live charts at {url}/dashboard")
        seconds = asyncio.run(_drive(url, chats, console))
        _show_results(console, _read_back(requests), chats, seconds)
        console.print(f"metrics: {url}/metrics")
        if keep:
            console.print("serving until Ctrl-C")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
    if failed := sum(chat.state.startswith("failed") for chat in chats):
        raise RyotError(f"{failed} of {requests} chats failed")


def _read_back(requests: int) -> Snapshot:
    """The service's own numbers, once it has noticed that the last client hung up."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = time.monotonic()
        page = Snapshot.read(collect(), now)
        if (page.total(RYOT.requests) or 0) >= requests or now > deadline:
            return page
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
            chat.state = await converse(client, chat)
        except httpx.HTTPError as error:
            chat.state = f"failed: {error or type(error).__name__}"
    if not console.is_terminal:
        label, state, tokens, ttft, rate = _row(chat)
        console.print(f"{label}: {state}, {tokens} tokens, TTFT {ttft} ms, {rate} tokens/s")


def _progress(chats: Sequence[Chat]) -> Table:
    table = _table("chat", "state", "tokens", "TTFT ms", "tokens/s")
    for chat in chats:
        table.add_row(*_row(chat))
    return table


def _show_results(console: Console, page: Snapshot, chats: Sequence[Chat], seconds: float) -> None:
    requests = sorted(page.by(RYOT.requests, RYOT.status).items())
    statuses = ", ".join(f"{count:.0f} {status}" for status, count in requests if count)
    console.print(f"requests, by the service's count: {statuses or 'none'}")
    generated = page.total(RYOT.tokens, **RYOT.token_labels) or 0
    tokens = sum(len(chat.token_times) for chat in chats)
    console.print(
        f"tokens: {generated:.0f} generated, {tokens} received "
        f"in {seconds:.1f} s = {tokens / seconds:.1f} tokens/s"
    )
    begun = [chat for chat in chats if chat.token_times]
    rows = (
        ("time to first token", RYOT.ttft, [chat.ttft for chat in begun]),
        ("between tokens", RYOT.inter_token, [gap for chat in begun for gap in chat.gaps]),
        ("whole request", RYOT.latency, [chat.latency for chat in begun]),
    )
    table = _table("milliseconds", "seen by", "p50", "p95", "p99")
    for title, histogram, seen in rows:
        by_service = [page.quantile(histogram, q) for q in (0.5, 0.95, 0.99)]
        by_client = [percentile(seen, percent) for percent in (50, 95, 99)]
        table.add_row(title, "/metrics", *map(_ms, by_service))
        table.add_row("", "client", *map(_ms, by_client))
    console.print(table)


def _row(chat: Chat) -> tuple[str, ...]:
    tokens = str(len(chat.token_times))
    return chat.label, chat.state, tokens, _ms(chat.ttft), _number(chat.rate)


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
