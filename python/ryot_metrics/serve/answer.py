"""From streams of tokens to one call's answer as a whole.

This module knows no routes, no requests, and not how an answer is sent.

Invariant: whatever way an answer ends, `close` is called: its streams are cancelled then (a no-op
for those that have finished) and its model is given back, so a client that hangs up leaves no work
behind.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ryot_metrics import EngineClosedError
from ryot_metrics.serve import logprobs
from ryot_metrics.serve.responses import (
    AssistantMessage,
    ChatChoice,
    ChatResponse,
    CompletionChoice,
    CompletionResponse,
    PromptTokensDetails,
    ToolCall,
    Usage,
)
from ryot_metrics.serve.stats import Finished
from ryot_metrics.serve.tools import ToolCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from ryot_metrics import Stream
    from ryot_metrics.completion import Chunk

COMPLETE = ("stop", "length")
"""How a stream ends whose answer is complete."""


@dataclass(frozen=True)
class Part:
    """One choice of an answer.

    Attributes:
        stream: What the engine writes.
        prompt: The tokens that it continues.
        group: Which of the call's prompts it continues; prompts are counted once.
        echo: What stands before its text.
    """

    stream: Stream
    prompt: list[int]
    group: int
    echo: str = ""

    def finish_reason(self) -> str:
        """How it ended.

        Raises:
            EngineClosedError: It ended early, though its client still waits.
        """
        if self.stream.finish_reason not in COMPLETE:
            raise EngineClosedError("the engine closed before the answer was complete")
        return self.stream.finish_reason


@dataclass
class Answer:
    """One call's identity, its parts, and what they are reported with.

    Attributes:
        endpoint: The path of the route.
        base: The model's name.
        adapter: The adapter's, if it is one that answers.
        chat: Whether it is a chat's.
        tools: Whether calls of tools are looked for.
        return_token_ids: Whether tokens are reported beside their text.
        on_close: Is told of an answer that is complete.
        started: When the call came, in nanoseconds of `time.monotonic_ns`.
        submitted: When all parts were with the engine.
        parts: One for each choice.
        lease: Keeps its model loaded.
        created: When the call came, in seconds since 1970.
    """

    endpoint: str
    base: str
    adapter: str | None = None
    chat: bool = False
    tools: bool = False
    return_token_ids: bool = False
    on_close: Callable[[Finished], None] | None = None
    started: int = field(default_factory=time.monotonic_ns)
    submitted: int | None = None
    parts: list[Part] = field(default_factory=list)
    lease: ExitStack = field(default_factory=ExitStack)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"

    @property
    def model(self) -> str:
        """The name that the answer bears."""
        return self.adapter or self.base

    def queued(self) -> None:
        """All parts are with the engine."""
        self.submitted = time.monotonic_ns()

    def close(self) -> None:
        """Stop the work that is still going on, and report an answer that is complete."""
        for part in self.parts:
            part.stream.cancel()
        self.lease.close()
        complete = all(part.stream.finish_reason in COMPLETE for part in self.parts)
        if complete and self.submitted is not None and self.on_close is not None:
            self.on_close(self._finished(self.submitted))

    def _finished(self, submitted: int) -> Finished:
        usage = self.usage()
        return Finished(
            id=self.id,
            started=self.started,
            submitted=submitted,
            finished=time.monotonic_ns(),
            tokens_in=usage.prompt_tokens,
            tokens_out=usage.completion_tokens,
            batch_size=len(self.parts),
        )

    def usage(self) -> Usage:
        """The tokens of all parts; those of a prompt with several answers count once."""
        prompts = {part.group: part.stream.prompt_tokens for part in self.parts}
        prompt = sum(prompts.values())
        cached = {part.group: part.stream.cached_tokens or 0 for part in reversed(self.parts)}
        completion = sum(part.stream.completion_tokens for part in self.parts)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(cached.values())),
        )

    async def whole(self) -> BaseModel:
        """The answer, once every part has ended."""
        chunks = await asyncio.gather(*(_all(part.stream) for part in self.parts))
        if self.chat:
            return ChatResponse(
                id=self.id,
                created=self.created,
                model=self.model,
                choices=[self._chat(*numbered) for numbered in enumerate(chunks)],
                usage=self.usage(),
                prompt_token_ids=self.parts[0].prompt if self.return_token_ids else None,
            )
        return CompletionResponse(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._completion(*numbered) for numbered in enumerate(chunks)],
            usage=self.usage(),
        )

    def _completion(self, index: int, chunks: list[Chunk]) -> CompletionChoice:
        part = self.parts[index]
        return CompletionChoice(
            index=index,
            text=part.echo + _text(chunks),
            logprobs=logprobs.of_completion(chunks, 0),
            finish_reason=part.finish_reason(),
            token_ids=self._token_ids(chunks),
            prompt_token_ids=part.prompt if self.return_token_ids else None,
        )

    def _chat(self, index: int, chunks: list[Chunk]) -> ChatChoice:
        part = self.parts[index]
        reason, text = part.finish_reason(), _text(chunks)
        calls: list[ToolCall] = []
        if self.tools:
            parser = ToolCalls()
            text, found = parser.feed(text)
            text += parser.end()
            calls = [ToolCall(**call) for call in found]
        return ChatChoice(
            index=index,
            message=AssistantMessage(content=text, tool_calls=calls or None),
            logprobs=logprobs.of_chat(chunks),
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            token_ids=self._token_ids(chunks),
        )

    def _token_ids(self, chunks: list[Chunk]) -> list[int] | None:
        if not self.return_token_ids:
            return None
        return [chunk.token_id for chunk in chunks if chunk.token_id is not None]


async def _all(stream: Stream) -> list[Chunk]:
    return [chunk async for chunk in stream]


def _text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)
