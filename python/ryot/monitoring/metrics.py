"""`ryot.monitoring.metrics`: the same objects as `ryot_metrics`."""

from ryot_metrics import (
    InferenceContext,
    model_info,
    system_info,
    track_inference_request,
    track_token_generation,
)

__all__ = [
    "InferenceContext",
    "model_info",
    "system_info",
    "track_inference_request",
    "track_token_generation",
]
