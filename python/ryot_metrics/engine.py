"""The batching engine: answers many prompts at once on one model.

The work is done by a native thread that never holds the GIL; this module shapes its answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from numbers import Integral
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict, cast, overload

from ryot_metrics._extra import serve_extra
from ryot_metrics._ryot_metrics import (
    EngineConfig,
    NativeEngine,
    NativeStream,
    SamplingParams,
    Wakeup,
)
from ryot_metrics.completion import Chunk, Completion
from ryot_metrics.models import resolve
from ryot_metrics.tracking import current_request

Adapters: TypeAlias = "Mapping[str, str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]"
"""LoRA files by name, each alone or with its scale."""

if TYPE_CHECKING:
    from numpy import float32, int32, int64
    from numpy.typing import NDArray

    Tokens: TypeAlias = Sequence[int] | NDArray[int32] | NDArray[int64]
    Prompt: TypeAlias = str | Tokens
    Prompts: TypeAlias = list[str] | list[list[int]] | list[NDArray[int32]] | list[NDArray[int64]]
    from typing_extensions import Unpack


class Terms(TypedDict, total=False):
    """What a request is promised, and by which adapter; all are keywords of `Engine.stream`.

    Attributes:
        priority: `interactive`, the default: somebody waits for it; or `background`: it takes what
            interactive requests leave.
        ttft_ms: The promise for the first token, in milliseconds from now; default: the engine's.
        tbt_ms: The promise for the time between two tokens, in milliseconds; default: the engine's.
        tenant: On whose behalf; tenants of one priority share the engine fairly. At most 256 bytes.
        deadline_ms: Milliseconds from now after which the answer is of no use: the request then
            ends as `cancelled`. Default: never.
        adapter: The name of the LoRA adapter that answers; default: the bare model.
    """

    priority: Literal["interactive", "background"]
    ttft_ms: float | None
    tbt_ms: float | None
    tenant: str
    deadline_ms: float | None
    adapter: str | None


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
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that the prefix cache held; None before the end."""
        return self._native.cached_tokens

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
                self._ready.append(Chunk.of(piece))
                return self._take()
            self._end()
            if self._ready:
                return self._take()
        self._raise_error()
        raise StopIteration

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Chunk:
        await self.ready()
        if self._ready:
            return self._take()
        raise StopAsyncIteration

    async def ready(self) -> None:
        """Waits until a chunk or the end is there, and takes nothing.

        Raises:
            QueueFullError: If the request's first token cannot come as promised.
            DecodeError: If it failed and no chunk is left to take.

        Example:
            >>> async def first(engine):
            ...     stream = engine.stream("hello", SamplingParams(max_tokens=2))
            ...     await stream.ready()
            ...     return next(stream).token_id is not None  # it waits for nothing
            >>> with Engine("toy") as engine:
            ...     asyncio.run(first(engine))
            True
        """
        while not self._ready and not self._ended and not self._fill():
            if self._waker is None:
                self._waker = _Waker.of_running_loop()
                self._native.attach(self._waker.wakeup)
            else:
                await self._waker.wait(self)
        if not self._ready:
            self._raise_error()

    def _take(self) -> Chunk:
        chunk = self._ready.popleft()
        self.completion_tokens += chunk.token_id is not None
        return chunk

    def _fill(self) -> bool:
        """Takes what is there, without waiting; whether there was anything."""
        pieces, finished = self._native.poll()
        self._ready.extend(map(Chunk.of, pieces))
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
        adapters: LoRA adapters, at most 64, that requests can name: GGUF files made for this model,
            by name, each a path or `repo:file`, or such a file and a scale from -100 to 100: how
            much of it is added to the weights, 1 by default. One file may have several names. A
            step of the engine has requests of one name; they take turns. In the metrics their
            requests are the model's: its cache, steps and memory are not one adapter's.
        admit: Is told how many bytes the engine will take, with its weights, all KV cells and the
            most of its host cache, before it takes the cells. What it raises ends the start.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is no usable model or no adapter for it.
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
        adapters: Adapters | None = None,
        admit: Callable[[int], object] | None = None,
    ) -> None:
        text = os.fspath(model)
        path = text if text == "toy" else os.fspath(resolve(text))
        self.name = name or model_name(text)
        self.adapters = tuple(adapters or ())
        self.config = config or EngineConfig()
        files = [
            (own, file if text == "toy" else resolve(os.fspath(file)), scale)
            for own, (file, scale) in scaled(adapters or {}).items()
        ]
        self._native = NativeEngine(path, self.name, self.config, files, admit)
        self.model_info = self._native.model_info()

    @overload
    def generate(
        self,
        prompt: str | list[int] | NDArray[int32] | NDArray[int64],
        params: SamplingParams | None = None,
        *,
        n: None = None,
        echo: bool = False,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: str | list[int] | NDArray[int32] | NDArray[int64],
        params: SamplingParams | None = None,
        *,
        n: int,
        echo: bool = False,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        echo: bool = False,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Prompts,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        echo: bool = False,
        endpoint: str = "",
        **terms: Unpack[Terms],
    ) -> Completion | list[Completion]:
        """Answers a prompt, or a list of them at once; waits for the end.

        Args:
            prompt: Text or token ids, or a list of such. Token ids may be a numpy array of one
                dimension, int32 or int64.
            params: How the answer is drawn; by default `SamplingParams()`.
            n: How many answers to each prompt; answer i of n adds i to the seed, if there is one.
                By default one, which is not in a list.
            echo: Puts the prompt's text before that of the answer.
            endpoint: The label `endpoint` of the request's metrics.
            **terms: Urgency, promises and adapter: see `Terms`.

        Returns:
            A completion; or, for a list of prompts or with `n`, a list: all answers to the first
            prompt, then to the next. In a list, an answer that failed on the way has the finish
            reason `error` and its `error`; the others are unharmed.

        Raises:
            ValueError: For an empty prompt, one longer than the context, an unknown adapter, or an
                `n` below 1.
            QueueFullError: If the queue is full of others' requests.
            EngineClosedError: If the engine was shut down.
            DecodeError: If a single prompt failed on the way.

        Example:
            >>> with Engine("toy") as engine:
            ...     answers = engine.generate("hello", SamplingParams(temperature=2.0), n=3)
            >>> len({answer.text for answer in answers})
            3
        """
        params = params or SamplingParams()
        if _is_one(prompt):
            one = cast("Prompt", prompt)
            if n is None:
                stream = self.stream(one, params, endpoint=endpoint, mode="standard", **terms)
                return self._collect(stream, one if echo else None, raises=True)
            prompts: Sequence[Prompt] = [one]
        else:
            prompts = cast("Sequence[Prompt]", prompt)
        if not len(prompts):
            raise ValueError("the list of prompts has 0 entries; at least 1 is needed")
        if n is not None and n < 1:
            raise ValueError(f"n is {n}; it must be at least 1")
        jobs = [(one, params.for_answer(index)) for one in prompts for index in range(n or 1)]
        return self._generate_all(jobs, echo=echo, endpoint=endpoint, **terms)

    def _generate_all(
        self,
        jobs: list[tuple[Prompt, SamplingParams]],
        *,
        echo: bool,
        endpoint: str,
        **terms: Unpack[Terms],
    ) -> list[Completion]:
        # Half of the queue is left to others, so that a long list can be given whole.
        most = self.config.parallel + self.config.max_queue // 2
        streams: deque[tuple[Stream, Prompt | None]] = deque()
        completions: list[Completion] = []
        for prompt, params in jobs:
            if len(streams) >= most:
                completions.append(self._collect(*streams.popleft(), raises=False))
            stream = self.stream(prompt, params, endpoint=endpoint, mode="batch", **terms)
            streams.append((stream, prompt if echo else None))
        completions.extend(self._collect(*stream, raises=False) for stream in streams)
        return completions

    def _collect(self, stream: Stream, echo: Prompt | None, *, raises: bool) -> Completion:
        """Waits for a stream's end and makes one answer of it, after this prompt's text."""
        native = stream._native
        native.wait()
        pieces, _ = native.poll()
        chunks = [Chunk.of(piece) for piece in pieces]
        error = native.error
        if raises and error is not None:
            raise error
        before = echo if isinstance(echo, str) else self.detokenize([] if echo is None else echo)
        logprobs = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
        return Completion(
            text="".join([before, *(chunk.text for chunk in chunks), native.tail]),
            token_ids=[token for _, token, _ in pieces],
            finish_reason=native.finish_reason or "error",
            prompt_tokens=stream.prompt_tokens,
            cached_tokens=native.cached_tokens or 0,
            ttft_seconds=native.ttft_seconds,
            duration_seconds=native.duration_seconds or 0.0,
            error=error,
            logprobs=logprobs or None,
        )

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
            prompt: Text, or token ids, as for `generate`.
            params: How the answer is drawn; by default `SamplingParams()`.
            endpoint: The label `endpoint` of the request's metrics.
            mode: How the metrics call the request: `streaming`, `standard` or `batch`.
            add_special: Whether the model's token for a beginning is put before the text.
            **terms: Urgency, promises and adapter: see `Terms`.

        Returns:
            The stream, an iterator and an async iterator. Its request runs from now on.

        Raises:
            ValueError: For an empty prompt, one longer than the context, or an unknown adapter.
            QueueFullError: If the queue is full; `retry_after` says for how many seconds.
            EngineClosedError: If the engine was shut down.

        Example:
            >>> with Engine("toy") as engine:
            ...     pieces = list(engine.stream("hello", SamplingParams(max_tokens=3)))
            >>> len(pieces)
            3
        """
        origin = _origin(endpoint, mode)
        params = params or SamplingParams()
        return Stream(self._native.submit(prompt, params, add_special, origin, terms))

    def embed(
        self,
        prompts: Prompt | Prompts,
        *,
        pooling: Literal["mean", "last", "cls"] | None = None,
        normalize: bool = True,
        endpoint: str = "",
    ) -> NDArray[float32]:
        """A vector for each prompt, from what the model's last layer makes of its tokens.

        It is computed on the calling thread, without the GIL, with a decoder that this call makes
        and frees again; the engine's streams go on meanwhile and share the processors with it.
        Calls take turns. In the metrics each prompt is a request without an answer.

        Args:
            prompts: Text or token ids, or a list of such, as for `generate`.
            pooling: Which of a prompt's tokens count: the `mean` of all; the `last`, which knows
                all others; or the first (`cls`), for models trained for that. Default: what the
                model's file names, else `mean`.
            normalize: Whether each vector gets the Euclidean length 1, so that the product of two
                is their cosine similarity.
            endpoint: The label `endpoint` of the requests' metrics.

        Returns:
            An array of float32 with a row for each prompt, in their order.

        Raises:
            ValueError: For an empty list, an empty prompt, one longer than the context, or an
                unknown pooling. Nothing is computed then.
            EngineClosedError: If the engine was shut down.
            OutOfMemoryError: If the decoder's memory cannot be had.
            ModuleNotFoundError: If numpy is not installed.

        Example:
            >>> with Engine("toy") as engine:
            ...     vectors = engine.embed(["hello", "world"])
            >>> vectors.shape, vectors.dtype.name
            ((2, 16), 'float32')
        """
        with serve_extra("Engine.embed"):
            import numpy  # noqa: F401 - the native part needs it
        one = _is_one(prompts)
        all_prompts = [cast("Prompt", prompts)] if one else cast("Sequence[Prompt]", prompts)
        if not len(all_prompts):
            raise ValueError("the list of prompts has 0 entries; at least 1 is needed")
        origin = _origin(endpoint, "standard" if one else "batch")
        return self._native.embed(all_prompts, pooling, normalize, origin)

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text.

        Args:
            text: The text; names of control tokens in it are read as these tokens.
            add_special: Whether the model's token for a beginning is put before it.

        Returns:
            Token ids.
        """
        return self._native.tokenize(text, add_special)

    def detokenize(self, tokens: Tokens) -> str:
        """The text of tokens, with U+FFFD for bytes that are no UTF-8; control tokens have none.

        Args:
            tokens: Token ids.

        Raises:
            ValueError: For a token that is not in the vocabulary.

        Example:
            >>> with Engine("toy") as engine:
            ...     engine.detokenize(engine.tokenize("hello"))
            'hello'
        """
        return self._native.detokenize(tokens)

    def stats(self) -> dict[str, int]:
        """The load: what runs, what waits, and what that takes.

        Returns:
            Requests `running` and `waiting`; KV cells that running ones use (`used_cells`) and
            that keep prefixes for others (`cached_cells`); bytes of the host's memory that hold
            such prefixes and preempted requests (`host_bytes`); `steps` so far.

        Raises:
            EngineClosedError: If the engine was shut down.
        """
        return self._native.stats()

    def clear_cache(self) -> None:
        """Empties the prefix cache at the next step; running and preempted requests go on.

        `ryot_model_cache_evictions_total` counts it once, as `manual`.

        Raises:
            EngineClosedError: If the engine was shut down.

        Example:
            >>> with Engine("toy") as engine:
            ...     prompt, params = "asked again and again", SamplingParams(max_tokens=1)
            ...     asked = [engine.generate(prompt, params).cached_tokens for _ in range(2)]
            ...     engine.clear_cache()
            ...     asked.append(engine.generate(prompt, params).cached_tokens)
            >>> asked[0], asked[1] > 0, asked[2]
            (0, True, 0)
        """
        self._native.clear_cache()

    def scorecard(self) -> dict[str, Any]:
        """The scheduler's scorecard, under the names of the UMA Serve metrics document.

        The same facts are on the page as `ryot_engine_*`, in base units; nothing is stored twice.

        Returns:
            Flat keys. Counters and sizes are integers, times are milliseconds, histograms are
            `{"count", "sum", "buckets"}` with the cumulative counts by upper bound, as text.
            `decode_ms_min` is None before the first decode; a ratio of nothing is 0.

        Example:
            >>> with Engine("toy", name="scored") as engine:
            ...     _ = engine.generate("hello", SamplingParams(max_tokens=4))
            ...     card = engine.scorecard()
            >>> card["tokens_generated_total"], card["decode_tokens_total"], card["decode_calls"]
            (4, 3, 3)
        """
        card: dict[str, Any] = json.loads(self._native.scorecard())
        return card

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


def scaled(adapters: Adapters) -> dict[str, tuple[str | os.PathLike[str], float]]:
    """The adapters with the scale of each: 1 where none is given."""
    return {
        name: given if isinstance(given, tuple) else (given, 1.0)
        for name, given in adapters.items()
    }


def _origin(endpoint: str, mode: str) -> tuple[str, str, Sequence[int]]:
    """How a request stands in the metrics: as a part of the one that runs here, if one does."""
    request = current_request()
    return endpoint, mode, request.keys if request is not None else []


def model_name(model: str) -> str:
    """What a model is called that nobody named: its short name, or its file's stem."""
    return os.path.basename(model).rpartition(":")[2].removesuffix(".gguf")


def _is_one(prompt: Prompt | Prompts) -> bool:
    """Whether this is one prompt and not several."""
    if isinstance(prompt, str) or hasattr(prompt, "dtype"):
        return True
    return bool(prompt) and isinstance(prompt[0], Integral)  # numpy's too
