"""Several models in one process: loaded on first use, unloaded when memory or time says so.

The pool owns its engines and knows which of them are in use; what an engine does it does not know.

Invariants: one model is loaded at a time, on the pool's own thread, and all who want it share that
load's outcome; a model that is in use is never unloaded but by `close`; all loaded models together
keep to the limit, also while one is being loaded.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics._ryot_metrics import (
    EngineClosedError,
    EngineConfig,
    OutOfMemoryError,
    RyotError,
    record_cache_eviction,
    record_model_load_attempt,
)
from ryot_metrics.engine import Engine, model_name, scaled
from ryot_metrics.models import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from ryot_metrics.engine import Adapters

CLOSED = "the pool of models was closed"


class MemoryLimitError(OutOfMemoryError):
    """A model does not fit beside those that are in use, or not at all."""


class ModelBusyError(RyotError):
    """A model answers requests, so it cannot be unloaded now."""


class Loaded(NamedTuple):
    """A model that is loaded.

    Attributes:
        engine: Its engine.
        bytes: What the engine takes: weights, those of its adapters, all KV cells, and the most of
            its host cache.
    """

    engine: Engine
    bytes: int


@dataclass
class _Entry:
    name: str
    path: str
    config: EngineConfig
    adapters: dict[str, tuple[str | os.PathLike[str], float]]
    loaded: Loaded | None = None
    loading: Future[Engine] | None = None
    users: int = 0
    """How many hold it, or wait for it."""
    used_at: float = 0.0
    bytes: int = field(init=False)
    """What it took last time; before the first, what is known without loading it."""
    adapter_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        weights = self.adapter_bytes = 0
        if self.path != "toy":
            weights = os.path.getsize(self.path)
            self.adapters = {
                name: (resolve(os.fspath(at)), scale) for name, (at, scale) in self.adapters.items()
            }
            self.adapter_bytes = sum(os.path.getsize(at) for at, _ in self.adapters.values())
        self.bytes = weights + self.adapter_bytes + self.config.host_cache_bytes

    def busy(self) -> bool:
        """Whether somebody holds it, or its engine has requests."""
        if self.users or self.loaded is None:
            return self.users > 0
        try:
            stats = self.loaded.engine.stats()
        except EngineClosedError:
            return False
        return stats["running"] + stats["waiting"] > 0


class Lease:
    """A place among a model's users: it stays loaded, once it is, until this is closed.

    `ModelPool.lease` makes it.
    """

    def __init__(self, loading: Future[Engine], give_back: Callable[[], None]) -> None:
        self._loading = loading
        self._give_back: Callable[[], None] | None = give_back

    def wait(self) -> Engine:
        """The model's engine; holds the calling thread while the model is loaded.

        Raises:
            ValueError: If the model's file is not usable.
            MemoryLimitError: If it does not fit; nothing was unloaded then.
            EngineClosedError: If the pool was closed.
        """
        return self._loading.result()

    async def ready(self) -> Engine:
        """As `wait`, but holds no thread; may be given up."""
        # The load is others' too: who gives up must not end it.
        return await asyncio.shield(asyncio.wrap_future(self._loading))

    def close(self) -> None:
        """Gives the model back; without effect the second time."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class ModelPool:
    """Models by name, of which those are loaded that are needed and fit.

    Args:
        memory_limit: The most bytes that loaded models may take: weights, adapters, all KV cells
            and the most of the host cache of each. Default: no limit. To load one, those are
            unloaded that nobody uses, the least recently used first.
        idle_seconds: After how many seconds without a request a model is unloaded. Default: never.
        clock: Seconds, for `idle_seconds`.

    Raises:
        ValueError: If a limit is not above 0.

    Example:
        >>> from ryot_metrics import ModelPool, SamplingParams
        >>> with ModelPool(memory_limit=2 << 30) as pool:
        ...     pool.add("toy")
        ...     pool.add("toy", name="other")
        ...     with pool.use("other") as engine:
        ...         answer = engine.generate("hello", SamplingParams(max_tokens=4))
        ...     pool.names, list(pool.loaded())
        (('toy', 'other'), ['other'])
    """

    def __init__(
        self,
        *,
        memory_limit: int | None = None,
        idle_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("memory_limit", memory_limit), ("idle_seconds", idle_seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0")
        self._limit = memory_limit
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "ryot-model-load")
        self._closed = threading.Event()
        if idle_seconds is not None:
            threading.Thread(target=self._sweep_on, name="ryot-model-pool", daemon=True).start()

    def add(
        self,
        model: str | os.PathLike[str],
        config: EngineConfig | None = None,
        *,
        name: str | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """Registers a model; it is loaded on first use.

        Args:
            model: As for `Engine`; its file must be there, or is fetched now.
            config: Its engine's size; by default `EngineConfig()`.
            name: What it is asked for by; by default the short name or the file's stem.
            adapters: As for `Engine`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the name is taken.
        """
        text = os.fspath(model)
        path = text if text == "toy" else os.fspath(resolve(text))
        entry = _Entry(
            name or model_name(text), path, config or EngineConfig(), scaled(adapters or {})
        )
        with self._lock:
            if entry.name in self._entries:
                raise ValueError(f"the pool has a model {entry.name!r} already")
            self._entries[entry.name] = entry

    @property
    def names(self) -> tuple[str, ...]:
        """The models, in the order in which they were added."""
        return tuple(self._entries)

    @property
    def adapters(self) -> dict[str, tuple[str, ...]]:
        """The adapters of each model, by its name."""
        return {name: tuple(entry.adapters) for name, entry in self._entries.items()}

    def peek(self, name: str) -> Engine | None:
        """A model's engine, if it is loaded now; it may be unloaded at any time."""
        loaded = self._entry(name).loaded
        return None if loaded is None else loaded.engine

    def check_open(self) -> None:
        """Raises if no more models are lent.

        Raises:
            EngineClosedError: If the pool was closed.
        """
        if self._closed.is_set():
            raise EngineClosedError(CLOSED)

    def loaded(self) -> dict[str, int]:
        """The bytes that each loaded model takes, by name."""
        with self._lock:
            return {
                entry.name: entry.loaded.bytes
                for entry in self._entries.values()
                if entry.loaded is not None
            }

    @contextmanager
    def use(self, name: str) -> Iterator[Engine]:
        """Gives a model's engine, loading it first if need be; it stays loaded in the block.

        A request that outlives the block keeps it loaded too.

        Raises:
            ValueError: If there is no such model, or its file is not usable.
            MemoryLimitError: If it does not fit; nothing was unloaded then.
            EngineClosedError: If the pool was closed.
        """
        lease = self.lease(name)
        try:
            yield lease.wait()
        finally:
            lease.close()

    def lease(self, name: str) -> Lease:
        """Becomes a user of a model, and begins to load it if need be; waits for nothing.

        Args:
            name: The model.

        Returns:
            What waits for the model, on a thread or in a task, and gives it back.

        Raises:
            ValueError: If there is no such model.
            EngineClosedError: If the pool was closed.

        Example:
            >>> from ryot_metrics import ModelPool
            >>> with ModelPool() as pool:
            ...     pool.add("toy")
            ...     lease = pool.lease("toy")  # is being loaded now
            ...     name = lease.wait().name
            ...     lease.close()
            >>> name
            'toy'
        """
        entry = self._entry(name)

        def give_back() -> None:
            with self._lock:
                entry.users -= 1
                entry.used_at = self._clock()

        with self._lock:
            self.check_open()
            if entry.loaded is not None:
                loading: Future[Engine] = Future()
                loading.set_result(entry.loaded.engine)
            else:
                if entry.loading is None:
                    entry.loading = self._loader.submit(self._load, entry)
                loading = entry.loading
            entry.users += 1
        return Lease(loading, give_back)

    def unload(self, name: str) -> bool:
        """Unloads a model; whether it was loaded.

        Raises:
            ValueError: If there is no such model.
            ModelBusyError: If it is in use.
        """
        entry = self._entry(name)
        with self._lock:
            if entry.busy():
                raise ModelBusyError(f"the model {name!r} answers requests")
            if entry.loaded is None:
                return False
            engine = self._evict(entry, "manual")
        engine.shutdown()
        return True

    def sweep(self) -> None:
        """Unloads what was not used for `idle_seconds`; a thread of the pool does it too."""
        now, engines = self._clock(), []
        with self._lock:
            for entry in self._entries.values():
                if entry.busy():
                    entry.used_at = now
                elif entry.loaded and now - entry.used_at >= (self._idle_seconds or float("inf")):
                    engines.append(self._evict(entry, "timeout"))
        for engine in engines:
            engine.shutdown()

    def close(self) -> None:
        """Ends all requests as cancelled and unloads all models; idempotent.

        Waits for a model that is being loaded; who waits for another gets `EngineClosedError`.
        """
        with self._lock:
            self._closed.set()
        self._loader.shutdown()
        with self._lock:
            held = [entry for entry in self._entries.values() if entry.loaded is not None]
            engines = [entry.loaded.engine for entry in held if entry.loaded is not None]
            for entry in held:
                entry.loaded = None
        for engine in engines:
            engine.shutdown()

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise ValueError(f"model is {name!r}; the pool has: {', '.join(self._entries)}")
        return self._entries[name]

    def _load(self, entry: _Entry) -> Engine:
        """Loads a model, or says why not, to all who wait for it."""

        def admit(needed: int) -> None:
            self._make_room(entry, needed)
            entry.bytes = needed

        loaded = None
        try:
            self.check_open()
            self._admit_unread(admit, entry)
            engine = Engine(
                entry.path,
                entry.config,
                name=entry.name,
                adapters=entry.adapters,
                admit=lambda needed: admit(needed + entry.adapter_bytes),
            )
            loaded = Loaded(engine, entry.bytes)
            return engine
        finally:
            with self._lock:
                entry.loaded, entry.loading, entry.used_at = loaded, None, self._clock()

    @staticmethod
    def _admit_unread(admit: Callable[[int], None], entry: _Entry) -> None:
        """Refuses what is too large by what is known of it, before its file is read."""
        try:
            admit(entry.bytes)
        except MemoryLimitError:
            record_model_load_attempt(entry.name, "refused")  # no engine was there to count it
            raise

    def _make_room(self, entry: _Entry, needed: int) -> None:
        """Unloads the least recently used until so many bytes are free."""
        with self._lock:
            loaded = [one for one in self._entries.values() if one.loaded is not None]
            excess = sum(one.bytes for one in loaded) + needed - (self._limit or float("inf"))
            idle = [one for one in loaded if not one.busy()]
            if excess > sum(one.bytes for one in idle):
                busy = ", ".join(one.name for one in loaded if one not in idle) or "none"
                raise MemoryLimitError(
                    f"the model {entry.name!r} takes {needed:,} bytes, and loaded models may take "
                    f"{self._limit:,} (memory_limit); in use: {busy}"
                )
            engines = []
            for one in sorted(idle, key=lambda one: one.used_at):
                if excess > 0:
                    excess -= one.bytes
                    engines.append(self._evict(one, "memory_pressure"))
        for engine in engines:
            engine.shutdown()

    def _evict(self, entry: _Entry, reason: str) -> Engine:
        """Takes a loaded model out of the pool; its engine is the caller's to shut down."""
        assert entry.loaded is not None
        engine, entry.loaded = entry.loaded.engine, None
        record_cache_eviction(entry.name, reason)
        return engine

    def _sweep_on(self) -> None:
        while not self._closed.wait((self._idle_seconds or 0) / 4):
            self.sweep()
