"""What GPUs do, on the page: memory, utilisation, power and temperature of each device.

A native thread reads NVIDIA's NVML every five seconds, without the GIL; where there is no such
driver, the memory of the devices that llama.cpp computes on (Metal, Vulkan). It starts with the
first page, so there is nothing to call: the functions here choose. Without any device, the
families are absent, and the reason is logged once at level DEBUG.

Set `RYOT_METRICS_GPU=0` in the environment to have no such thread; this, and the interval, are
settings of `ryot_metrics.configure`, which the functions here change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ryot_metrics import _ryot_metrics
from ryot_metrics.config import configure

__all__ = ["stop_watching_gpus", "watch_gpus"]


def watch_gpus(
    models: str | Mapping[int | str, str] | None = None,
    *,
    interval: float | None = None,
    library: str | os.PathLike[str] | None = None,
) -> None:
    """Says which model runs on which GPU, and how often they are read; reads them at once.

    Args:
        models: The label `model` of all devices, or of each by its number. Devices without one
            have no such label. The model of an `Engine` with layers on the GPU is known anyway.
        interval: Seconds between two readings, above 0 and 3600 at most; None: as the setting
            `gpu_interval` has it, which is 5 by default.
        library: The path of NVML, where the loader does not find it.

    Raises:
        ValueError: For an interval outside its limits.

    Example:
        >>> from ryot_metrics.gpu import stop_watching_gpus, watch_gpus
        >>> watch_gpus({0: "llama-13b", 1: "bitnet-7b"})
        >>> stop_watching_gpus()
    """
    if isinstance(models, str):
        named: dict[str | None, str] = {None: models}
    else:
        named = {str(device): model for device, model in (models or {}).items()}
    configure(gpu=True) if interval is None else configure(gpu=True, gpu_interval=interval)
    path = None if library is None else os.fspath(library)
    _ryot_metrics.watch_gpus(named, path)


def stop_watching_gpus() -> None:
    """Reads no more; what was read leaves the page. `watch_gpus` begins again."""
    configure(gpu=False)
