"""A small mixed load on an OpenAI-compatible service, and what its clients saw.

Mostly short chats, now and then a long prompt and a client that hangs up. This module knows a URL
and the client's clock, nothing of the service's inside.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

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


async def converse(client: httpx.AsyncClient, chat: Chat) -> str:
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


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of measured values, interpolated between neighbours; NaN without any."""
    if len(values) < 2:
        return values[0] if values else math.nan
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
