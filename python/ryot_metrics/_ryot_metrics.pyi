"""The native part of `ryot_metrics`; the docstrings are in the module itself."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

__all__ = [
    "DEBUG_BUILD",
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "DecodeError",
    "EngineClosedError",
    "EngineConfig",
    "Gauge",
    "Histogram",
    "Info",
    "NativeEngine",
    "NativeServer",
    "NativeStream",
    "OutOfMemoryError",
    "QueueFullError",
    "Request",
    "RyotError",
    "SamplingParams",
    "Wakeup",
    "__version__",
    "catalogue",
    "collect",
    "encode",
    "model_info",
    "negotiate",
    "system_info",
]

__version__: Final[str]
DEBUG_BUILD: Final[bool]
REGISTRY: Final[CollectorRegistry]
system_info: Final[Info]
model_info: Final[Info]

# --- the metrics client

@final
class CollectorRegistry:
    def __new__(cls) -> CollectorRegistry: ...
    def get_sample_value(
        self, name: str, labels: Mapping[str, str] | None = None
    ) -> float | None: ...

@final
class Counter:
    def __new__(
        cls,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = ...,
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = ...,
    ) -> Counter: ...
    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Counter: ...
    def remove(self, *labelvalues: Any) -> None: ...
    def clear(self) -> None: ...
    def inc(self, amount: float = 1.0) -> None: ...

@final
class Gauge:
    def __new__(
        cls,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = ...,
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = ...,
    ) -> Gauge: ...
    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Gauge: ...
    def remove(self, *labelvalues: Any) -> None: ...
    def clear(self) -> None: ...
    def inc(self, amount: float = 1.0) -> None: ...
    def dec(self, amount: float = 1.0) -> None: ...
    def set(self, value: float) -> None: ...

@final
class Histogram:
    def __new__(
        cls,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = ...,
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = ...,
        buckets: Sequence[float] = ...,
    ) -> Histogram: ...
    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Histogram: ...
    def remove(self, *labelvalues: Any) -> None: ...
    def clear(self) -> None: ...
    def observe(self, amount: float) -> None: ...

@final
class Info:
    def __new__(
        cls,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = ...,
        namespace: str = "",
        subsystem: str = "",
        unit: str = "",
        registry: CollectorRegistry | None = ...,
    ) -> Info: ...
    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Info: ...
    def remove(self, *labelvalues: Any) -> None: ...
    def clear(self) -> None: ...
    def info(self, val: Mapping[str, str]) -> None: ...

def encode(registry: CollectorRegistry, openmetrics: bool) -> bytes: ...
def negotiate(accept: str) -> tuple[bool, str]: ...
def collect(
    registry: CollectorRegistry,
) -> list[tuple[str, str, str, str, list[tuple[str, list[tuple[str, str]], float]]]]: ...

# --- the scrape server

@final
class NativeServer:
    def __new__(
        cls,
        registry: CollectorRegistry,
        host: str,
        port: int,
        *,
        unix_socket: str | os.PathLike[str] | None = None,
        unix_mode: int = 0o600,
        path: str | None = None,
        certfile: str | os.PathLike[str] | None = None,
        keyfile: str | os.PathLike[str] | None = None,
        client_cafile: str | os.PathLike[str] | None = None,
        client_auth_required: bool = False,
        max_connections: int | None = None,
        max_header_bytes: int | None = None,
        read_timeout: float | None = None,
        write_timeout: float | None = None,
        gzip_min_bytes: int | None = None,
    ) -> NativeServer: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int | None: ...
    def shutdown(self) -> None: ...
    def __enter__(self) -> NativeServer: ...
    def __exit__(self, *_args: Any) -> None: ...

# --- requests

def catalogue() -> list[tuple[str, str, list[str], list[float], str, list[str]]]: ...

@final
class Request:
    def __new__(
        cls, model: str, endpoint: str = "", mode: str = "standard", batch_size: int = 0
    ) -> Request: ...
    @property
    def key(self) -> int: ...
    @property
    def token_count(self) -> int: ...
    def queued(self) -> None: ...
    def scheduled(self) -> None: ...
    def token(self) -> None: ...
    def resumed(self) -> None: ...
    def add_tokens(self, count: int) -> None: ...
    def set_token_count(self, count: int) -> None: ...
    def set_prompt_tokens(self, count: int) -> None: ...
    def set_ttft(self, seconds: float) -> None: ...
    def record_inter_token_latency(self, seconds: float) -> None: ...
    def finish(self, status: str, error_type: str | None = None) -> None: ...

# --- the engine

@final
class EngineConfig:
    def __new__(
        cls,
        *,
        ctx_size: int | None = None,
        parallel: int | None = None,
        batch_size: int | None = None,
        prefill_chunk: int | None = None,
        threads: int | None = None,
        max_queue: int | None = None,
        gpu_layers: int | None = None,
    ) -> EngineConfig: ...
    @property
    def ctx_size(self) -> int: ...
    @property
    def parallel(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def prefill_chunk(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_queue(self) -> int: ...
    @property
    def gpu_layers(self) -> int | None: ...

@final
class SamplingParams:
    def __new__(
        cls,
        *,
        max_tokens: int | None = ...,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        repetition_penalty: float = 1.0,
        ignore_eos: bool = False,
    ) -> SamplingParams: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def stop(self) -> list[str]: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def ignore_eos(self) -> bool: ...

@final
class NativeEngine:
    def __new__(cls, model: str, name: str, config: EngineConfig) -> NativeEngine: ...
    def submit(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        endpoint: str,
        mode: str,
        parent: int | None,
        add_special: bool,
    ) -> NativeStream: ...
    def tokenize(self, text: str, add_special: bool) -> list[int]: ...
    def stats(self) -> dict[str, int]: ...
    def model_info(self) -> dict[str, Any]: ...
    def shutdown(self) -> None: ...

@final
class NativeStream:
    @property
    def id(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    def next(self) -> tuple[str, int] | None: ...
    def wait(self) -> None: ...
    def poll(self) -> tuple[list[tuple[str, int]], bool]: ...
    def attach(self, wakeup: Wakeup) -> None: ...
    def cancel(self) -> None: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def tail(self) -> str: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def ttft_seconds(self) -> float | None: ...
    @property
    def duration_seconds(self) -> float | None: ...

@final
class Wakeup:
    def __new__(cls) -> Wakeup: ...
    def fileno(self) -> int: ...
    def acknowledge(self) -> None: ...

# --- errors

class RyotError(Exception): ...

class QueueFullError(RyotError):
    retry_after: float

class EngineClosedError(RyotError): ...
class DecodeError(RyotError): ...
class OutOfMemoryError(RyotError): ...
