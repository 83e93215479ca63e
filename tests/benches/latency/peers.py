"""The engines that are compared, asked in the process, without HTTP between.

The peer is `xllamacpp`, which embeds llama-server's engine. `n_batch` is all that bounds its
prefill, and its default is 2048; it keeps its KV cells in one buffer (`unified`) or cut into equal
parts, one per sequence.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ryot_metrics import Engine, EngineConfig, RyotError, SamplingParams, Stream
from ryot_metrics.client import REGISTRY

from .client import Ending, Peer
from .trace import Ask


@dataclass(frozen=True)
class Size:
    """What a scenario needs of an engine.

    Attributes:
        cells: KV cells of all sequences together.
        parallel: The most sequences at once.
        longest: Tokens of the longest sequence; 0 if memory must stay `cells` in any case. A
            cache cut into parts gets parts of this size, even if that takes more memory.
    """

    cells: int = 8192
    parallel: int = 8
    longest: int = 0


@dataclass(frozen=True)
class Setting:
    """How the peer is tuned."""

    batch: int = 2048
    unified: bool = True

    def __str__(self) -> str:
        return f"{self.batch}{'' if self.unified else ' split'}"

    @classmethod
    def parse(cls, text: str) -> Setting:
        """The setting that `64:1` (unified) or `64:0` (split) names."""
        batch, _, unified = text.partition(":")
        return cls(int(batch), unified != "0")


DEFAULT = Setting()
TUNED = [Setting(batch, unified) for batch in (64, 128, 256, 512) for unified in (True, False)]


def add_tuned(parser: argparse.ArgumentParser) -> None:
    """Adds the option that says how the peer is tuned."""
    parser.add_argument(
        "--tuned",
        nargs="*",
        type=Setting.parse,
        default=TUNED,
        metavar="N_BATCH:UNIFIED",
        help="the peer's settings that its best is searched among, such as 64:1 128:0; one is "
        "taken as it is, none is searched; default: 64 to 512, unified and split",
    )


class Ours(Peer):
    """The engine of this package, as it is by default; `unified` is about its KV cells."""

    def __init__(self, model: str, threads: int, size: Size, *, unified: bool = True) -> None:
        config = EngineConfig(
            ctx_size=size.cells, parallel=size.parallel, threads=threads, kv_unified=unified
        )
        self.engine = Engine(model, config)
        self._decoded: list[int] = []

    def answer(self, ask: Ask, on_token: Callable[[], bool]) -> Ending:
        """Answers through a stream."""
        text = []
        try:
            stream = self.stream(ask)
            for chunk in stream:
                text.append(chunk.text)
                if chunk.token_id is not None and on_token():
                    stream.cancel()
        except (RyotError, ValueError) as error:
            return Ending(error=repr(error))
        self._decoded.append(max(stream.completion_tokens - 1, 0))
        return Ending(
            text="".join(text),
            prompt_tokens=stream.prompt_tokens,
            completion_tokens=stream.completion_tokens,
        )

    def stream(self, ask: Ask) -> Stream:
        """The request, on its way."""
        params = SamplingParams(max_tokens=ask.tokens, temperature=0, ignore_eos=True)
        return self.engine.stream(
            ask.prompt, params, priority=ask.priority, ttft_ms=ask.ttft_ms, tbt_ms=ask.tbt_ms
        )

    def prefilled(self) -> int:
        """As the metrics have it: all tokens computed but those of answers.

        An answer's last token is never computed.
        """
        labels = {"model": self.engine.name}
        computed = REGISTRY.get_sample_value("ryot_engine_batch_tokens_sum", labels) or 0
        return int(computed) - sum(self._decoded)


class Xllamacpp(Peer):
    """llama-server's engine."""

    def __init__(self, model: str, threads: int, size: Size, setting: Setting) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_parallel = size.parallel
        params.n_ctx = size.cells if setting.unified else self._cut(size)
        params.n_batch = setting.batch
        params.kv_unified = setting.unified
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.warmup = True
        params.endpoint_metrics = True
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    @staticmethod
    def _cut(size: Size) -> int:
        return max(size.cells, size.longest * size.parallel)

    def answer(self, ask: Ask, on_token: Callable[[], bool]) -> Ending:
        """Answers through the streaming callback, which comes on the calling thread."""
        text: list[str] = []
        last: dict[str, Any] = {}

        def take(event: dict[str, Any]) -> bool:
            last.update(event)
            if "error" in event or event["choices"][0]["finish_reason"] is not None:
                return False
            text.append(event["choices"][0]["text"])
            return on_token()

        body = {
            "prompt": ask.prompt,
            "max_tokens": ask.tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
        }
        self.server.handle_completions(body, take)
        usage = last.get("usage", {})
        return Ending(
            text="".join(text),
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            error=last["error"]["message"] if "error" in last else None,
        )

    def prefilled(self) -> int:
        """As its own metrics have it; they do not count what came from its cache."""
        page: str = self.server.handle_metrics()
        (value,) = re.findall(r"^llamacpp:prompt_tokens_total (\d+)", page, re.MULTILINE)
        return int(value)
