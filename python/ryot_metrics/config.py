"""The settings of the process: `configure`, and the variables `RYOT_METRICS_*` it begins with.

What a value may be is the native module's to say; this module carries values there, and knows
which came from where. Must not import more than the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from ryot_metrics import _ryot_metrics, catalogue
from ryot_metrics._kinds import check_kind
from ryot_metrics._variables import PARSERS, nearest, unknown, variable, written

__all__ = ["Settings", "configure", "settings"]

NATIVE_FACTOR = 1.1
"""How much the buckets of a histogram that is `"native"` grow, at most."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen, as it is.

    Attributes:
        profile: The names of the families of language models on a page that asks for none:
            `ryot`, `vllm` or `otel`.
        views: Whether the catalogue's views, sums under a second name, are on the page.
        disabled: Families that are off, by name or shell pattern (`ryot_gpu_*`). A counter or
            histogram is not recorded meanwhile, and no profile shows what it is the source of.
        sampling: Histograms of which only every n-th observation is recorded. Their `_count`,
            `_sum` and buckets are those of the recorded observations, so a rate of `_count` is
            1/n of the real one; quantiles and means stay what they are.
        buckets: Upper bounds of histograms that should differ from the catalogue's; or `"native"`
            for a native histogram, or the factor by which its buckets grow. Views and the other
            profiles keep their own. They are fixed by a family's first observation.
        windows: The windows of `ryot_tokens_per_second`, 1 to 8 of them, each a multiple of 5 s up
            to an hour: `30s`, `5m`, `1h`. Tokens are kept for the longest, a quarter of an
            hour at least; a longer one is refused once tokens were counted that are not kept.
        operation_name: `gen_ai_operation_name` in the profile `otel`, such as `chat` or
            `text_completion`; 1 to 64 characters.
        labels: Labels of every sample of the default registry.
        series_limit: The most series of one family; past it, new label sets are counted under
            `model="__overflow__"`.
        pipeline_recent: The requests that completed last and have tables in a `PipelineStats`
            that is made from now on, 1 to 100,000.
        pipeline_max_open: The most open requests of one, 1 to 1,000,000.
        pipeline_max_buffered: The most events that wait in a `PipelineEvents` that is made from
            now on, 1 to 10,000,000.
        gpu: Whether GPUs are read, by a native thread that starts with the first page.
        gpu_interval: Seconds between two readings of GPUs, above 0 and 3600 at most.
        shared: What the worker processes of a service share, so that the page of each is the page
            of all: a name, for a file in `/dev/shm`, or a path. Before the first write; it cannot
            change after that. Default empty: nothing is shared.
        shared_wait: Seconds that a new series waits, at most, while another process changes what is
            shared, above 0 and 60 at most: after that, whoever changes it was stopped, and the
            series counts in its own process until it can be shared.
        sources: Where each setting came from: `default`, `environment` or `configure`.
    """

    profile: str = "ryot"
    views: bool = True
    disabled: Sequence[str] = ()
    sampling: Mapping[str, int] = field(default_factory=dict)
    buckets: Mapping[str, Sequence[float] | float | str] = field(default_factory=dict)
    windows: Sequence[str] = ("1m", "5m", "15m")
    operation_name: str = "inference"
    labels: Mapping[str, str] = field(default_factory=dict)
    series_limit: int = 10_000
    pipeline_recent: int = 256
    pipeline_max_open: int = 10_000
    pipeline_max_buffered: int = 100_000
    gpu: bool = True
    gpu_interval: float = 5.0
    shared: str = ""
    shared_wait: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Each setting's name, value, default, environment variable, and where it came from."""
        rows = []
        for name in PARSERS:
            value, default = getattr(self, name), getattr(_DEFAULTS, name)
            source = self.sources.get(name, "default")
            rows.append((name, written(value), written(default), variable(name), source))
        return rows

    def _apply(self) -> None:
        _ryot_metrics.apply_settings(
            self.profile,
            self.views,
            _expanded(self.disabled),
            list(self.sampling.items()),
            [(name, _buckets(value)) for name, value in self.buckets.items()],
            self.windows,
            self.operation_name,
            [(str(name), str(value)) for name, value in self.labels.items()],
            self.series_limit,
            self.pipeline_recent,
            self.pipeline_max_open,
            self.pipeline_max_buffered,
            self.gpu,
            self.gpu_interval,
            self.shared,
            self.shared_wait,
        )


_DEFAULTS = Settings()
_current = _DEFAULTS


def settings() -> Settings:
    """The settings as they are.

    Example:
        >>> settings().series_limit
        10000
    """
    return _current


class _Kept(Enum):
    KEPT = "as it is"

    def __repr__(self) -> str:
        return self.value


_KEPT = _Kept.KEPT


def configure(
    *,
    profile: str | _Kept | None = _KEPT,
    views: bool | _Kept | None = _KEPT,
    disabled: Sequence[str] | _Kept | None = _KEPT,
    sampling: Mapping[str, int] | _Kept | None = _KEPT,
    buckets: Mapping[str, Sequence[float] | float | str] | _Kept | None = _KEPT,
    windows: Sequence[str] | _Kept | None = _KEPT,
    operation_name: str | _Kept | None = _KEPT,
    labels: Mapping[str, str] | _Kept | None = _KEPT,
    series_limit: int | _Kept | None = _KEPT,
    pipeline_recent: int | _Kept | None = _KEPT,
    pipeline_max_open: int | _Kept | None = _KEPT,
    pipeline_max_buffered: int | _Kept | None = _KEPT,
    gpu: bool | _Kept | None = _KEPT,
    gpu_interval: float | _Kept | None = _KEPT,
    shared: str | _Kept | None = _KEPT,
    shared_wait: float | _Kept | None = _KEPT,
) -> Settings:
    """Changes settings, at any time; those not named stay, and None brings a default back.

    Each argument is an attribute of `Settings`, which says what it means, given as a whole.

    Returns:
        The settings as they are now.

    Raises:
        TypeError: For a setting that there is not; or with the setting, its value and the type
            that it must have.
        ValueError: With the setting, its value and its limit, and for buckets of a family that
            has observations. Then nothing has changed.

    Example:
        >>> configure(sampling={"ryot_batch_size_distribution": 10}).sampling
        {'ryot_batch_size_distribution': 10}
        >>> configure(sampling=None).sampling
        {}
        >>> configure(series_limit=0)
        Traceback (most recent call last):
        ValueError: series_limit is 0; it must be 1 to 10000000
    """
    named = {name: value for name, value in locals().items() if value is not _KEPT}
    return _change(named, "configure")


def _change(changes: Mapping[str, Any], source: str) -> Settings:
    global _current
    for name, value in changes.items():
        if value is not None:
            check_kind(name, value)
    values = {k: getattr(_DEFAULTS, k) if v is None else v for k, v in changes.items()}
    sources = {k: "default" if v is None else source for k, v in changes.items()}
    changed = replace(_current, **values, sources={**_current.sources, **sources})
    changed._apply()
    _current = changed
    return changed


def _expanded(patterns: Sequence[str]) -> list[str]:
    """Names for patterns; what is no pattern is left for the native module to know."""
    names: list[str] = []
    for pattern in patterns:
        if not any(sign in pattern for sign in "*?["):
            names.append(pattern)
            continue
        found = [f.name for f in catalogue.families() if fnmatchcase(f.name, pattern)]
        if not found:
            raise ValueError(f"disabled names {pattern!r}; no family has such a name")
        names += found
    return names


def _buckets(value: Sequence[float] | float | str) -> Sequence[float] | float:
    if value == "native":
        return NATIVE_FACTOR
    if isinstance(value, str):
        raise ValueError(f"buckets are {value!r}; they must be bounds, a factor or 'native'")
    return value


def _read_environment() -> None:
    """Takes the variables over; a malformed or unknown one is logged, and changes nothing."""
    for name in unknown(os.environ):
        _warn("%s is no setting and is ignored; the nearest is %s", name, nearest(name))
    for name, parse in PARSERS.items():
        text = os.environ.get(variable(name), "").strip()
        if not text:
            continue
        try:
            _change({name: parse(text)}, "environment")
        except (ValueError, TypeError, OverflowError) as error:
            kept = written(getattr(_DEFAULTS, name)) or "none"
            message = "%s is %r and is ignored, the default (%s) is kept: %s"
            _warn(message, variable(name), text, kept, error)


def _warn(message: str, *args: object) -> None:
    import logging

    logging.getLogger("ryot_metrics").warning(message, *args)


_read_environment()
