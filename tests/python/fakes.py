"""An engine that plays a script: for what a real one does only now and then.

Holding a token back, failing in the middle, or running until it is cancelled cannot be asked of a
real engine. `ScriptedEngine` has the part of `Engine` that the service uses.
"""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

from ryot_metrics import EngineClosedError, EngineConfig, SamplingParams
from ryot_metrics.completion import Chunk

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScriptedStream:
    """Gives the script's texts, one per token, then ends, fails or waits to be cancelled."""

    def __init__(
        self, texts: Sequence[str], prompt_tokens: int, end: str | Exception | None, tail: str
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.finish_reason: str | None = None
        self.cancelled = threading.Event()
        self._texts = list(texts)
        self._end = end
        self._tail = tail
        self._woken = asyncio.Event()

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> Chunk:
        await asyncio.sleep(0)
        if self._texts and not self.cancelled.is_set():
            self.completion_tokens += 1
            return Chunk(self._texts.pop(0), 0)
        if self._end is None:
            await self._woken.wait()
        if isinstance(self._end, Exception):
            self.finish_reason = "error"
            raise self._end
        if self._tail:
            tail, self._tail = self._tail, ""
            return Chunk(tail, None)
        self.finish_reason = self._end or "cancelled"
        raise StopAsyncIteration

    def fail(self, error: Exception) -> None:
        """End a stream that waits."""
        self._end = error
        self._woken.set()

    def cancel(self) -> None:
        """End the stream, unless it has ended; noticed by whoever waits on `cancelled`."""
        if self.finish_reason is None:
            self.cancelled.set()
            self._woken.set()


class ScriptedEngine:
    """Answers every prompt with the same script.

    Args:
        texts: The text of each token, or None to write as many as `max_tokens` allows.
        end: A finish reason, an error to raise, or None to wait until cancelled.
        tail: The text that comes with the end.
        refusal: Raised instead of accepting a request, as often as `refusals_left` says.
    """

    def __init__(
        self,
        texts: Sequence[str] | None = None,
        *,
        end: str | Exception | None = "length",
        tail: str = "",
        refusal: Exception | None = None,
        name: str = "scripted",
        config: EngineConfig | None = None,
    ) -> None:
        self.name = name
        self.config = config or EngineConfig()
        self.model_info = {
            "chat_template": None,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "context_train": 2048,
        }
        self.adapters: tuple[str, ...] = ()
        self.streams: list[ScriptedStream] = []
        self.submitted: list[dict[str, Any]] = []
        self.accepted = threading.Event()
        self.refusal = refusal
        self.refusals_left = math.inf
        self._texts = texts
        self._end = end
        self._tail = tail
        self._closed = False

    def tokenize(self, text: str, add_special: bool = True) -> list[int]:
        """A token a byte, and one for the beginning."""
        return [1] * add_special + list(text.encode())

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of bytes, without the beginning."""
        return bytes(tokens).decode().removeprefix("\x01")

    def stream(
        self,
        prompt: str | list[int],
        params: SamplingParams | None = None,
        *,
        endpoint: str = "",
        mode: str = "streaming",
        add_special: bool = True,
        **terms: Any,
    ) -> ScriptedStream:
        """Accept a prompt and note how it was asked for."""
        asked = {"prompt": prompt, "params": params, "endpoint": endpoint, "mode": mode}
        self.submitted.append({**asked, "terms": terms})
        if self.refusal is not None and self.refusals_left:
            self.refusals_left -= 1
            raise self.refusal
        if not prompt:
            raise ValueError("the prompt has 0 tokens; at least 1 is needed")
        tokens = self.tokenize(prompt, add_special) if isinstance(prompt, str) else prompt
        limit = (params or SamplingParams()).max_tokens or self.config.ctx_size - len(tokens)
        texts = [f" {index}" for index in range(limit)] if self._texts is None else self._texts
        self.streams.append(ScriptedStream(texts, len(tokens), self._end, self._tail))
        self.accepted.set()
        return self.streams[-1]

    def stats(self) -> dict[str, int]:
        """Nothing to count, unless closed."""
        if self._closed:
            raise EngineClosedError("the engine was shut down")
        return {}

    def shutdown(self) -> None:
        """Close."""
        self._closed = True

    def __enter__(self) -> ScriptedEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
