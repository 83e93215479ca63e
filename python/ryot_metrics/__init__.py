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
    record_batch_processed,
    record_cache_eviction,
    record_inference_error,
    record_kv_cache_lookup,
    record_model_load_attempt,
    record_model_load_time,
    record_prompt_reuse,
    record_queue_wait,
    record_retry,
    record_startup_phase,
    set_model_dtype,
    system_info,
    update_cache_metrics,
    update_gpu_memory,
    update_gpu_memory_percentage,
    update_gpu_metrics,
    update_gpu_utilization,
    update_kv_cache_size,
    update_kv_cache_usage,
    update_queue_metrics,
    update_token_throughput,
)
from ryot_metrics.asgi import mount_metrics
from ryot_metrics.completion import Chunk, Completion, Logprob, TokenLogprobs
from ryot_metrics.config import Settings, configure
from ryot_metrics.context import InferenceContext
from ryot_metrics.cost import CostModel, set_cost_model
from ryot_metrics.dashboard import mount_dashboard
from ryot_metrics.decorators import track_inference_request, track_token_generation
from ryot_metrics.engine import Engine, Stream
from ryot_metrics.errors import register_error_type
from ryot_metrics.pool import MemoryLimitError, ModelBusyError, ModelPool

__all__ = [
    "Chunk",
    "Completion",
    "CostModel",
    "DecodeError",
    "Engine",
    "EngineClosedError",
    "EngineConfig",
    "InferenceContext",
    "Logprob",
    "MemoryLimitError",
    "ModelBusyError",
    "ModelPool",
    "OutOfMemoryError",
    "QueueFullError",
    "RyotError",
    "SamplingParams",
    "Settings",
    "Stream",
    "TokenLogprobs",
    "__version__",
    "configure",
    "model_info",
    "mount_dashboard",
    "mount_metrics",
    "record_batch_processed",
    "record_cache_eviction",
    "record_inference_error",
    "record_kv_cache_lookup",
    "record_model_load_attempt",
    "record_model_load_time",
    "record_prompt_reuse",
    "record_queue_wait",
    "record_retry",
    "record_startup_phase",
    "register_error_type",
    "set_cost_model",
    "set_model_dtype",
    "system_info",
    "track_inference_request",
    "track_token_generation",
    "update_cache_metrics",
    "update_gpu_memory",
    "update_gpu_memory_percentage",
    "update_gpu_metrics",
    "update_gpu_utilization",
    "update_kv_cache_size",
    "update_kv_cache_usage",
    "update_queue_metrics",
    "update_token_throughput",
]

if _ryot_metrics.DEBUG_BUILD:
    _warnings.warn(
        "ryot_metrics was built without optimisation and will be slow; build it in release mode",
        RuntimeWarning,
        stacklevel=2,
    )
