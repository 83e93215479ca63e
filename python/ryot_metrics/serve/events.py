"""An answer as server-sent events, while it is made.

Everything that happens once per token is here. A chunk is written as text around the token's own
JSON string, since building and serialising objects per token would take time from the engine that
shares the machine's cores. This module knows no routes and no requests.

Invariant: one event per token, also when the token's text is held back (then the event's text is
empty). Text that was held back until the end goes with the finish reason.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.responses import StreamingResponse

from ryot_metrics.completion import Chunk
from ryot_metrics.serve import logprobs
from ryot_metrics.serve.errors import ApiError
from ryot_metrics.serve.tools import ToolCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from starlette.types import Receive, Scope, Send

    from ryot_metrics.serve.answer import Answer, Part

T = TypeVar("T")

EVENTS = "text/event-stream"

Event = tuple[int, Chunk, "str | None"]
"""Of which part, what, and the finish reason of the part's last one."""


class EventStream(StreamingResponse):
    """An answer sent while it is made, and given up when the client hangs up."""

    def __init__(self, answer: Answer, *, include_usage: bool) -> None:
        super().__init__(events(answer, include_usage=include_usage), media_type=EVENTS)
        self.headers["Cache-Control"] = "no-cache"
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or the hang-up; the scope is the base class's business."""
        try:
            await while_connected(receive, self.stream_response(send))
        except OSError:
            pass  # the client hung up while an event was being sent
        finally:
            self._answer.close()


async def events(answer: Answer, *, include_usage: bool) -> AsyncIterator[bytes]:
    """The answer's events; a failure becomes the last one."""
    head = _head(answer)
    writers = [_Writer(answer, index) for index in range(len(answer.parts))]
    once = ""
    if answer.chat and answer.return_token_ids:
        once = f',"prompt_token_ids":{_json(answer.parts[0].prompt)}'
    try:
        async for index, chunk, finish_reason in _interleaved(answer.parts):
            choice = writers[index].choice(chunk, finish_reason)
            yield f'{head},"choices":[{choice}]{once}}}\n\n'.encode()
            once = ""
    except Exception as error:  # the status line is out: the stream must tell
        yield f"data: {json.dumps(ApiError.of(error).body)}\n\n".encode()
        return
    if include_usage:
        yield f'{head},"choices":[],"usage":{answer.usage().model_dump_json()}}}\n\n'.encode()
    yield b"data: [DONE]\n\n"


def _head(answer: Answer) -> str:
    constant = {
        "id": answer.id,
        "object": "chat.completion.chunk" if answer.chat else "text_completion",
        "created": answer.created,
        "model": answer.model,
    }
    return "data: " + _json(constant).removesuffix("}")


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


class _Writer:
    """Writes the choices of one part, as JSON."""

    def __init__(self, answer: Answer, index: int) -> None:
        self._part = part = answer.parts[index]
        self._index = index
        self._tools = ToolCalls() if answer.tools else None
        self._token_ids = answer.return_token_ids
        self._chat = answer.chat
        self._offset = 0
        self._echo = part.echo
        if answer.chat:
            self._first = '"delta":{"role":"assistant","content":'
            self._before, self._after = '"delta":{"content":', "}"
        else:
            self._first = self._before = '"text":'
            self._after = ""
        self._once = ""
        if self._token_ids and not answer.chat:
            self._once = f',"prompt_token_ids":{_json(part.prompt)}'

    def choice(self, chunk: Chunk, finish_reason: str | None) -> str:
        """The choice that carries this chunk."""
        text, calls, end = self._echo + chunk.text, "", "null"
        if self._tools is not None:
            text, calls, finish_reason = self._with_tools(self._tools, chunk.text, finish_reason)
        if finish_reason is not None:
            end = f'"{finish_reason}"'
        ids = self._once
        if self._token_ids:
            ids += f',"token_ids":{[] if chunk.token_id is None else [chunk.token_id]}'
        written = (
            f'{{"index":{self._index},{self._first}{json.dumps(text)}{calls}{self._after},'
            f'"logprobs":{self._logprobs(chunk)},"finish_reason":{end}{ids}}}'
        )
        self._first, self._echo, self._once = self._before, "", ""
        return written

    def _logprobs(self, chunk: Chunk) -> str:
        if chunk.logprobs is None:
            return "null"
        if self._chat:
            return _json(logprobs.of_chat([chunk]))
        found = logprobs.of_completion([chunk], self._offset)
        self._offset += len(chunk.logprobs.drawn.text)
        return _json(found)

    def _with_tools(
        self, tools: ToolCalls, piece: str, finish_reason: str | None
    ) -> tuple[str, str, str | None]:
        text, calls = tools.feed(piece)
        if finish_reason is not None:
            text += tools.end()
            if finish_reason == "stop" and tools.count:
                finish_reason = "tool_calls"
        return text, f',"tool_calls":{_json(calls)}' if calls else "", finish_reason


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


async def _interleaved(parts: Sequence[Part]) -> AsyncIterator[Event]:
    """Every part's tokens as they come, and then its end with the text that was held back.

    The queue has no bound of its own: it holds at most the tokens of the answer, and a bound would
    leave a pump waiting forever once nobody reads.
    """
    queue: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def pump(index: int, part: Part) -> None:
        try:
            tail = Chunk("", None)
            async for chunk in part.stream:
                if chunk.token_id is None:
                    tail = chunk
                else:
                    queue.put_nowait((index, chunk, None))
            queue.put_nowait((index, tail, part.finish_reason()))
        except Exception as error:  # handed to the reader, which raises it
            queue.put_nowait(error)

    pumps = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(parts)]
    try:
        unfinished = len(pumps)
        while unfinished:
            item = await queue.get()
            if isinstance(item, Exception):
                raise item
            unfinished -= item[2] is not None
            yield item
    finally:
        for task in pumps:
            task.cancel()
