"""HTTP requests as inference requests: middleware for ASGI and WSGI apps of any framework.

Each HTTP request that is measured is one request of the metrics. Decorators, contexts and engine
calls inside of it join it, and it counts once.
"""

from ryot_metrics.middleware.asgi import InferenceMiddleware
from ryot_metrics.middleware.wsgi import InferenceWSGIMiddleware

__all__ = ["InferenceMiddleware", "InferenceWSGIMiddleware"]
