"""The OpenAI-compatible HTTP service over an engine."""

from ryot_metrics._extra import serve_extra

with serve_extra("the HTTP service"):
    from ryot_metrics.serve.app import create_app

__all__ = ["create_app"]
