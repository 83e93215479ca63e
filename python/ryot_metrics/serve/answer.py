"""From streams of tokens to an answer: whole, or as server-sent events.

Everything that happens once per token is here. A chunk is written as text around the token's own
JSON string, since building and serialising objects per token would take time from the engine that
shares the machine's cores. This module knows no routes and no request models.

Invariants:
- One event per token, also when the token's text is held back (then the event's text is empty).
  Text that was held back until the end (a chunk without a token) goes with the finish reason.
- Whatever way an answer ends, its streams are cancelled (a no-op for one that has finished), so a
  client that hangs up leaves no work behind.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.responses import StreamingResponse

from ryot_metrics import EngineClosedError
from ryot_metrics.serve.errors import ApiError
from ryot_metrics.serve.protocol import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from starlette.types import Receive, Scope, Send

    from ryot_metrics import Stream

T = TypeVar("T")


@dataclass(frozen=True)
class Shape:
    """How one endpoint names and writes its chunks."""

    endpoint: str
    id_prefix: str
    chunk_object: str
    first: str
    """What stands before the text of a choice's first chunk."""
    before: str
    after: str


COMPLETION = Shape("/v1/completions", "cmpl", "text_completion", '"text":', '"text":', "")
CHAT = Shape(
    endpoint="/v1/chat/completions",
    id_prefix="chatcmpl",
    chunk_object="chat.completion.chunk",
    first='"delta":{"role":"assistant","content":',
    before='"delta":{"content":',
    after="}",
)


class Answer:
    """One call's identity and its streams, one per choice."""

    def __init__(self, shape: Shape, model: str, streams: Sequence[Stream]) -> None:
        self.shape = shape
        self.model = model
        self.id = f"{shape.id_prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.streams = streams

    def cancel(self) -> None:
        """Stop the work that is still going on."""
        for stream in self.streams:
            stream.cancel()

    def usage(self) -> Usage:
        """The tokens of all choices."""
        prompt = sum(stream.prompt_tokens for stream in self.streams)
        completion = sum(stream.completion_tokens for stream in self.streams)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
        )

    async def whole(self) -> list[tuple[str, str]]:
        """Each choice's text and finish reason."""
        return await asyncio.gather(*map(_whole, self.streams))

    async def events(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        """The answer as server-sent events; a failure becomes the last one."""
        head = self._head()
        before = [self.shape.first] * len(self.streams)
        try:
            async for index, text, finish_reason in _interleaved(self.streams):
                yield (
                    f'{head},"choices":[{{"index":{index},{before[index]}{json.dumps(text)}'
                    f'{self.shape.after},"logprobs":null,"finish_reason":{finish_reason}}}]}}\n\n'
                ).encode()
                before[index] = self.shape.before
        except Exception as error:  # the status line is out: the stream must tell
            yield f"data: {json.dumps(ApiError.of(error).body)}\n\n".encode()
            return
        if include_usage:
            yield f'{head},"choices":[],"usage":{self.usage().model_dump_json()}}}\n\n'.encode()
        yield b"data: [DONE]\n\n"

    def _head(self) -> str:
        constant = {
            "id": self.id,
            "object": self.shape.chunk_object,
            "created": self.created,
            "model": self.model,
        }
        return "data: " + json.dumps(constant, separators=(",", ":")).removesuffix("}")


class EventStream(StreamingResponse):
    """An answer sent while it is made, and given up when the client hangs up."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        events = answer.events(include_usage=include_usage)
        super().__init__(events, media_type="text/event-stream")
        self.headers["Cache-Control"] = "no-cache"
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or the hang-up; the scope is the base class's business."""
        try:
            await while_connected(receive, self.stream_response(send))
        except OSError:
            pass  # the client hung up while an event was being sent
        finally:
            self._answer.cancel()


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Do the work, but give it up with None once the client has hung up."""
    working = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait({working, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        hung_up.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _whole(stream: Stream) -> tuple[str, str]:
    text = "".join([chunk.text async for chunk in stream])
    return text, _finish_reason(stream)


def _finish_reason(stream: Stream) -> str:
    if stream.finish_reason not in {"stop", "length"}:
        raise EngineClosedError("the engine closed before the answer was complete")
    return stream.finish_reason


async def _interleaved(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, str, str]]:
    """Every stream's tokens as they come: index, text, and the finish reason as JSON.

    The queue has no bound of its own: it holds at most the tokens of the answer, and a bound would
    leave a pump waiting forever once nobody reads.
    """
    queue: asyncio.Queue[tuple[int, str, str] | Exception] = asyncio.Queue()

    async def pump(index: int, stream: Stream) -> None:
        try:
            tail = ""
            async for chunk in stream:
                if chunk.token_id is None:
                    tail = chunk.text
                else:
                    queue.put_nowait((index, chunk.text, "null"))
            queue.put_nowait((index, tail, json.dumps(_finish_reason(stream))))
        except Exception as error:  # handed to the reader, which raises it
            queue.put_nowait(error)

    pumps = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(streams)]
    try:
        unfinished = len(pumps)
        while unfinished:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item[2] != "null"
            yield item
    finally:
        for task in pumps:
            task.cancel()
