"""HTTP requests as inference requests: middleware for ASGI and WSGI apps of any framework.

Each HTTP request that is measured is one request of the metrics. Decorators, contexts and engine
calls inside of it join it, and it counts once.

What the HTTP status says of its outcome:

| HTTP status | status | error_type |
|---|---|---|
| below 400 | success | |
| 404 | error | model_not_found; `invalid_prompt` where nothing tells the app's routes |
| 408, 504 | timeout | timeout |
| 429 | error | inference_error, as a full queue is the service's state |
| 499 | cancelled | |
| other 4xx | error | invalid_prompt |
| other 5xx | error | inference_error |

What no status tells: a client that hung up is `cancelled`; an exception that leaves the app has
the outcome that it has everywhere, and is `partial` after the first byte of a good response; so
has one that Flask, Django or Litestar answers with a 5xx; a response that the app leaves
unfinished is an `inference_error`.
"""

from ryot_metrics.middleware.asgi import InferenceMiddleware
from ryot_metrics.middleware.wsgi import InferenceWSGIMiddleware

__all__ = ["InferenceMiddleware", "InferenceWSGIMiddleware"]
