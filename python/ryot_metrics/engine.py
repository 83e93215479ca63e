"""The batching engine: answers many prompts at once on one model.

The work is done by a native thread that never holds the GIL; this module shapes its answers.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypedDict, cast, overload

from ryot_metrics._ryot_metrics import (
    EngineConfig,
    NativeEngine,
    NativeStream,
    SamplingParams,
    Wakeup,
)
from ryot_metrics.models import resolve
from ryot_metrics.tracking import current_request

if TYPE_CHECKING:
    from typing_extensions import Unpack

Prompt = str | Sequence[int]
"""Text, or token ids."""


class Terms(TypedDict, total=False):
    """What a request is promised and how urgent it is; all are keywords of `Engine.stream`.

    Attributes:
        priority: `interactive`, the default: somebody waits for it; or `background`: it takes what
            interactive requests leave.
        ttft_ms: The promise for the first token, in milliseconds from now; default: the engine's.
        tbt_ms: The promise for the time between two tokens, in milliseconds; default: the engine's.
        tenant: On whose behalf; tenants of one priority share the engine fairly. At most 256 bytes.
        deadline_ms: Milliseconds from now after which the answer is of no use: the request then
            ends as `cancelled`. Default: never.
    """

    priority: Literal["interactive", "background"]
    ttft_ms: float | None
    tbt_ms: float | None
    tenant: str
    deadline_ms: float | None


class Chunk(NamedTuple):
    """A piece of an answer.

    Attributes:
        text: The text that became certain: valid UTF-8, maybe empty, maybe of several tokens.
        token_id: The token; None for text that was held back until the end.
    """

    text: str
    token_id: int | None

    def __str__(self) -> str:
        """The text."""
        return self.text


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: The text.
        token_ids: Its tokens, without the one that ends it.
        finish_reason: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: Tokens in the prompt.
        ttft_seconds: Seconds from queued to the first token; None without one.
        duration_seconds: Seconds from queued to finished.
        error: What went wrong, if `finish_reason` is `error`.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    ttft_seconds: float | None
    duration_seconds: float
    error: Exception | None = None

    @property
    def token_count(self) -> int:
        """Tokens in the answer."""
        return len(self.token_ids)


class Stream(Iterator[Chunk], AsyncIterator[Chunk]):
    """An answer as it comes, one chunk per token; to be taken with `for` or `async for`.

    A stream that is dropped before its end cancels its request.

    Attributes:
        id: The request's number within its engine.
        prompt_tokens: Tokens in the prompt.
        completion_tokens: Tokens taken from the stream so far.
    """

    def __init__(self, native: NativeStream) -> None:
        self._native = native
        self._ready: deque[Chunk] = deque()
        self._waker: _Waker | None = None
        self._ended = False
        self.id = native.id
        self.prompt_tokens = native.prompt_tokens
        self.completion_tokens = 0

    @property
    def finish_reason(self) -> str | None:
        """None before the end, then `stop`, `length`, `cancelled` or `error`."""
        return self._native.finish_reason if self._ended else None

    @property
    def ttft_seconds(self) -> float | None:
        """Seconds from queued to the first token; None before the end."""
        return self._native.ttft_seconds

    @property
    def duration_seconds(self) -> float | None:
        """Seconds from queued to finished; None before the end."""
        return self._native.duration_seconds

    def cancel(self) -> None:
        """Ends the request at the next step; what was produced can still be taken."""
        self._native.cancel()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        if self._ready:
            return self._take()
        if not self._ended:
            piece = self._native.next()
            if piece is not None:
                self._ready.append(Chunk(*piece))
                return self._take()
            self._end()
            if self._ready:
                return self._take()
        self._raise_error()
        raise StopIteration

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        while not self._ready and not self._ended and not self._fill():
            if self._waker is None:
                self._waker = _Waker.of_running_loop()
                self._native.attach(self._waker.wakeup)
            else:
                await self._waker.wait(self)
        if self._ready:
            return self._take()
        self._raise_error()
        raise StopAsyncIteration

    def _take(self) -> Chunk:
        chunk = self._ready.popleft()
        self.completion_tokens += chunk.token_id is not None
        return chunk

    def _fill(self) -> bool:
        """Takes what is there, without waiting; whether there was anything."""
        pieces, finished = self._native.poll()
        self._ready.extend(Chunk(*piece) for piece in pieces)
        if finished:
            self._end()
        return bool(self._ready) or finished

    def _end(self) -> None:
        self._ended = True
        if tail := self._native.tail:
            self._ready.append(Chunk(tail, None))

    def _raise_error(self) -> None:
        error = self._native.error
        if error is not None and self._native.finish_reason == "error":
            raise error


class _Waker:
    """Wakes the streams of one event loop, once per step of the engine."""

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waker]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.wakeup = Wakeup()
        self._waiting: dict[Stream, asyncio.Future[None]] = {}
        loop.add_reader(self.wakeup.fileno(), self._wake)

    @classmethod
    def of_running_loop(cls) -> _Waker:
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loop:
            cls._of_loop[loop] = cls(loop)
        return cls._of_loop[loop]

    async def wait(self, stream: Stream) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[stream] = future
        # What came before the line above woke nobody.
        if stream._fill():
            del self._waiting[stream]
            return
        try:
            await future
        finally:
            self._waiting.pop(stream, None)

    def _wake(self) -> None:
        self.wakeup.acknowledge()
        for stream, future in list(self._waiting.items()):
            if not future.done() and stream._fill():
                future.set_result(None)


class Engine:
    """A model that answers many prompts at once.

    Args:
        model: A path of a GGUF file, `repo:file` of Hugging Face, a short name such as
            `smollm2-135m`, or `toy`, a scripted model that needs no file.
        config: Its size; by default `EngineConfig()`.
        name: The label `model` of its metrics; by default the short name or the file's stem.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no usable model.
        OutOfMemoryError: If the context's memory could not be had.

    Example:
        >>> from ryot_metrics import Engine, SamplingParams
        >>> with Engine("toy") as engine:
        ...     answer = engine.generate("hello", SamplingParams(max_tokens=4))
        >>> answer.token_count, answer.finish_reason
        (4, 'length')
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        config: EngineConfig | None = None,
        *,
        name: str | None = None,
    ) -> None:
        text = os.fspath(model)
        path = text if text == "toy" else os.fspath(resolve(text))
        self.name = name or os.path.basename(text).rpartition(":")[2].removesuffix(".gguf")
        self.config = config or EngineConfig()
        self._native = NativeEngine(path, self.name, self.config)
        self.model_info = self._native.model_info()

    @overload
    def generate(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: str | list[int] | list[str] | list[list[int]],
        params: SamplingParams | None = None,
        *,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> Completion | list[Completion]:
        """Answers a prompt, or a list of them at once; waits for the end.

        Args:
            prompt: Text or token ids, or a list of such.
            params: How the answer is drawn; by default `SamplingParams()`.
            endpoint: The label `endpoint` of the request's metrics.
            **terms: Urgency and promises: see `Terms`.

        Returns:
            A completion, or one for each prompt. In a list, a prompt that failed on the way has
            the finish reason `error` and its `error`; the others are unharmed.

        Raises:
            ValueError: For an empty prompt, or one longer than the context.
            QueueFullError: If the queue is full of others' requests.
            EngineClosedError: If the engine was shut down.
            DecodeError: If a single prompt failed on the way.
        """
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            stream = self.stream(prompt, params, endpoint=endpoint, mode="standard", **terms)
            return _collect(stream, raises=True)
        if not prompt:
            raise ValueError("the list of prompts has 0 entries; at least 1 is needed")
        # Half of the queue is left to others, so that a long list can be given whole.
        most = self.config.parallel + self.config.max_queue // 2
        open_streams: deque[Stream] = deque()
        completions: list[Completion] = []
        for one in cast("list[str] | list[list[int]]", prompt):
            if len(open_streams) >= most:
                completions.append(_collect(open_streams.popleft(), raises=False))
            open_streams.append(self.stream(one, params, endpoint=endpoint, mode="batch", **terms))
        completions.extend(_collect(stream, raises=False) for stream in open_streams)
        return completions

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        endpoint: str = "",
        mode: str = "streaming",
        add_special: bool = True,
        **terms: Unpack[Terms],
    ) -> Stream:
        """Answers a prompt token by token.

        Args:
            prompt: Text or token ids.
            params: How the answer is drawn; by default `SamplingParams()`.
            endpoint: The label `endpoint` of the request's metrics.
            mode: How the metrics call the request: `streaming`, `standard` or `batch`.
            add_special: Whether the model's token for a beginning is put before the text.
            **terms: Urgency and promises: see `Terms`.

        Returns:
            The stream, an iterator and an async iterator. Its request runs from now on.

        Raises:
            ValueError: For an empty prompt, or one longer than the context.
            QueueFullError: If the queue is full; `retry_after` says for how many seconds.
            EngineClosedError: If the engine was shut down.

        Example:
            >>> with Engine("toy") as engine:
            ...     pieces = list(engine.stream("hello", SamplingParams(max_tokens=3)))
            >>> len(pieces)
            3
        """
        request = current_request()
        parents = request.keys if request is not None else []
        params = params or SamplingParams()
        tokens = prompt if isinstance(prompt, str) else list(prompt)
        native = self._native.submit(tokens, params, endpoint, mode, parents, add_special, **terms)
        return Stream(native)

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text.

        Args:
            text: The text; names of control tokens in it are read as these tokens.
            add_special: Whether the model's token for a beginning is put before it.

        Returns:
            Token ids.
        """
        return self._native.tokenize(text, add_special)

    def stats(self) -> dict[str, int]:
        """The load: requests `running` and `waiting`, KV cells reserved and used, steps so far.

        Raises:
            EngineClosedError: If the engine was shut down.
        """
        return self._native.stats()

    def shutdown(self) -> None:
        """Ends all requests as cancelled and waits for the engine's thread; idempotent."""
        self._native.shutdown()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()


def _collect(stream: Stream, *, raises: bool) -> Completion:
    """Waits for a stream's end and makes one answer of it."""
    native = stream._native
    native.wait()
    pieces, _ = native.poll()
    error = native.error
    if raises and error is not None:
        raise error
    return Completion(
        text="".join(text for text, _ in pieces) + native.tail,
        token_ids=[token for _, token in pieces],
        finish_reason=native.finish_reason or "error",
        prompt_tokens=stream.prompt_tokens,
        ttft_seconds=native.ttft_seconds,
        duration_seconds=native.duration_seconds or 0.0,
        error=error,
    )
