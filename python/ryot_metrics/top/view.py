"""How figures look in a terminal. Knows rich and nothing of how the figures came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryot_metrics._extra import serve_extra

with serve_extra("the terminal view"):
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from ryot_metrics.live import Figures, Gpu, Quantiles
    from ryot_metrics.top.reader import Reading

    _Row: TypeAlias = tuple[str, str, str, Callable[[Figures], float | None]]

WIDTH = 40
"""Looks that a sparkline shows."""
_LEVELS = "▁▂▃▄▅▆▇█"
_UNKNOWN = "-"


def sparkline(values: Sequence[float | None]) -> str:
    """A value a character, from zero to the highest; a blank where one is unknown.

    Example:
        >>> sparkline([0, 1, None, 7])
        '▁▂ █'
    """
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    last = len(_LEVELS) - 1
    return "".join(
        " " if value is None else _LEVELS[min(int(value / top * last + 0.5), last)]
        for value in values
    )


def render(url: str, readings: Sequence[Reading]) -> RenderableType:
    """The whole view.

    Args:
        url: Where the page is.
        readings: The last looks, the newest last; at least one.
    """
    now = readings[-1]
    head = Text.assemble((url, "bold"), f"  {now.at:%H:%M:%S}")
    if now.problem:
        return Group(head, Text(now.problem, style="bold red"))
    if now.figures is None:
        return Group(head, Text("rates and quantiles come with the second page"))
    history = [reading.figures for reading in readings]
    return Group(head, Text(), _times(history, now.figures), Text(), _levels(history, now.figures))


def _history(figures: Sequence[Figures | None], pick: Callable[[Figures], float | None]) -> Text:
    return Text(sparkline([pick(it) if it else None for it in figures]), style="cyan")


def _times(history: Sequence[Figures | None], now: Figures) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("", width=16)
    for column in ("p50", "p95", "p99"):
        table.add_column(column, justify="right", width=10)
    table.add_column("p95, the last looks", justify="left", no_wrap=True)
    rows: tuple[tuple[str, Callable[[Figures], Quantiles]], ...] = (
        ("TTFT", lambda it: it.ttft),
        ("inter-token", lambda it: it.inter_token),
        ("queue wait", lambda it: it.queue_wait),
        ("whole request", lambda it: it.latency),
    )
    for title, pick in rows:
        found = pick(now)
        spark = _history(history, lambda it, pick=pick: pick(it).p95)  # type: ignore[misc]
        table.add_row(title, *map(seconds, (found.p50, found.p95, found.p99)), spark)
    return table


def _engine(now: Figures) -> list[_Row]:
    """What only an engine of this package has."""
    rows: list[_Row] = []
    if queue := now.engine_queue:
        note = _parts(queue, number)
        rows.append(("engine queue", number(sum(queue.values())), note, _engine_queue))
    if late := now.late_tokens_per_second:
        rows.append(("late tokens/s", number(sum(late.values())), _parts(late, number), _late))
    if cache := now.prefix_cache:
        parts = {"device": cache.device_bytes, "host": cache.host_bytes}
        hits = None if cache.hit_ratio is None else 100 * cache.hit_ratio
        rows.append(("prefix cache", percent(hits), _parts(parts, size), _prefix_hits))
    return rows


def _parts(values: Mapping[str, float | None], shown: Callable[[float], str]) -> str:
    return ", ".join(f"{shown(value)} {name}" for name, value in values.items() if value)


def _engine_queue(figures: Figures) -> float | None:
    return sum(figures.engine_queue.values()) if figures.engine_queue else None


def _late(figures: Figures) -> float | None:
    late = figures.late_tokens_per_second
    return sum(late.values()) if late else None


def _prefix_hits(figures: Figures) -> float | None:
    return figures.prefix_cache.hit_ratio if figures.prefix_cache else None


def _levels(history: Sequence[Figures | None], now: Figures) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=16)
    table.add_column(justify="right", width=10)
    table.add_column(width=28, no_wrap=True)
    table.add_column(no_wrap=True)
    statuses = [f"{rate:.1f} {status}" for status, rate in now.requests_per_second.items() if rate]
    rows: list[_Row] = [
        ("tokens/s", number(now.tokens_per_second), "", lambda it: it.tokens_per_second),
        ("requests/s", number(_requests(now)), ", ".join(statuses), _requests),
        ("active", number(now.active), "", lambda it: it.active),
        ("queue", number(now.queue_depth), "", lambda it: it.queue_depth),
        ("batch size", number(now.batch_size_mean), "mean", lambda it: it.batch_size_mean),
        ("KV cache", *_kv_cache(now), lambda it: it.kv_cache_usage or it.kv_cache_bytes),
    ]
    rows += _engine(now)
    for title, shown, note, pick in rows:
        table.add_row(title, shown, note, _history(history, pick))
    for device, gpu in now.gpus.items():
        spark = _history(history, lambda it, at=device: _utilization(it.gpus.get(at)))  # type: ignore[misc]
        memory = f"{size(gpu.memory_bytes)} in use"
        table.add_row(f"GPU {device}", percent(gpu.utilization_percent), memory, spark)
    return table


def _requests(figures: Figures) -> float | None:
    return sum(figures.requests_per_second.values()) if figures.requests_per_second else None


def _utilization(gpu: Gpu | None) -> float | None:
    return gpu.utilization_percent if gpu else None


def _kv_cache(now: Figures) -> tuple[str, str]:
    usage, hits = now.kv_cache_usage, now.kv_cache_hit_ratio
    shown = size(now.kv_cache_bytes) if usage is None else percent(usage * 100)
    return shown, "" if hits is None else f"{percent(hits * 100)} of lookups hit"


def seconds(value: float | None) -> str:
    """A time in the unit that suits it.

    Example:
        >>> seconds(0.0042), seconds(1.5), seconds(None)
        ('4.2 ms', '1.50 s', '-')
    """
    if value is None:
        return _UNKNOWN
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def number(value: float | None) -> str:
    """A count or a rate.

    Example:
        >>> number(1234.56), number(3.0)
        ('1,234.6', '3')
    """
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def percent(value: float | None) -> str:
    """A share in percent."""
    return _UNKNOWN if value is None else f"{value:.0f} %"


def size(value: float | None) -> str:
    """Bytes in the binary unit that suits them.

    Example:
        >>> size(1536), size(3 * 2**30)
        ('1.5 KiB', '3.0 GiB')
    """
    if value is None:
        return _UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
