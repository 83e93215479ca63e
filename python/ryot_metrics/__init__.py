"""Prometheus metrics for services that run language models, and a batching engine they measure.

This is the public API of `ryot_metrics`; `ryot_metrics.client` is the general metrics client.
"""

import warnings as _warnings

from ryot_metrics import _ryot_metrics
from ryot_metrics._ryot_metrics import (
    DecodeError,
    EngineClosedError,
    EngineConfig,
    OutOfMemoryError,
    QueueFullError,
    RyotError,
    SamplingParams,
    __version__,
    model_info,
    system_info,
)
from ryot_metrics.asgi import mount_metrics
from ryot_metrics.config import Settings, configure
from ryot_metrics.context import InferenceContext
from ryot_metrics.cost import CostModel, set_cost_model
from ryot_metrics.dashboard import mount_dashboard
from ryot_metrics.decorators import track_inference_request, track_token_generation
from ryot_metrics.engine import Chunk, Completion, Engine, Stream
from ryot_metrics.errors import register_error_type

__all__ = [
    "Chunk",
    "Completion",
    "CostModel",
    "DecodeError",
    "Engine",
    "EngineClosedError",
    "EngineConfig",
    "InferenceContext",
    "OutOfMemoryError",
    "QueueFullError",
    "RyotError",
    "SamplingParams",
    "Settings",
    "Stream",
    "__version__",
    "configure",
    "model_info",
    "mount_dashboard",
    "mount_metrics",
    "register_error_type",
    "set_cost_model",
    "system_info",
    "track_inference_request",
    "track_token_generation",
]

if _ryot_metrics.DEBUG_BUILD:
    _warnings.warn(
        "ryot_metrics was built without optimisation and will be slow; build it in release mode",
        RuntimeWarning,
        stacklevel=2,
    )
