"""The OpenAI-compatible service over an engine or a pool: its layers and routes put together.

`create_app` neither owns nor closes what answers: who made it closes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from ryot_metrics import mount_dashboard, mount_metrics
from ryot_metrics.serve import encode, errors, generate, state
from ryot_metrics.serve.auth import ApiKeys
from ryot_metrics.serve.limit import MAX_BODY_BYTES, BodyLimit
from ryot_metrics.serve.served import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ryot_metrics import Engine, ModelPool
    from ryot_metrics.serve.stats import Finished

CORS_METHODS = ("GET", "POST")


def create_app(
    models: Engine | ModelPool,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    max_prompt_tokens: int | None = None,
    api_keys: Collection[str] = (),
    protect_metrics: bool = False,
    cors_origins: Collection[str] = (),
    on_answer: Callable[[Finished], None] | None = None,
) -> FastAPI:
    """Build the service.

    Args:
        models: What answers: an engine, or a pool, whose models are loaded when they are asked for.
            It stays the caller's to shut down.
        max_body_bytes: The largest body of a request; a larger one is answered with 413.
        max_prompt_tokens: The longest prompt; a longer one is answered with 400. None leaves the
            limit to the engines: their context.
        api_keys: The keys of clients; without one, everybody may ask. `/health` never needs one.
        protect_metrics: Whether `/metrics` and `/dashboard` need a key too.
        cors_origins: The origins whose pages may call the API from a browser; `*` means all.
        on_answer: Is told of each complete answer, on the event loop.

    Returns:
        An application with `/v1/completions`, `/v1/chat/completions`, `/v1/embeddings`,
        `/v1/models`, `/tokenize`, `/detokenize`, `/health`, `/metrics` and `/dashboard`.

    Raises:
        ValueError: If a limit is below 1, or two models or adapters have one name.

    Example:
        >>> from ryot_metrics import Engine
        >>> with Engine("toy") as engine:
        ...     app = create_app(engine, api_keys=["secret"])
    """
    if max_body_bytes < 1:
        raise ValueError(f"max_body_bytes is {max_body_bytes}; it must be at least 1")
    served = Served(models, max_prompt_tokens)
    names = ", ".join(served.names)
    app = FastAPI(title="ryot-metrics", description=f"OpenAI-compatible API for {names}")
    # The layer that is added last is the first that sees a request.
    app.add_middleware(BodyLimit, max_body_bytes=max_body_bytes)
    if api_keys:
        app.add_middleware(ApiKeys, keys=api_keys, protect_metrics=protect_metrics)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=CORS_METHODS,
            allow_headers=["*"],
        )
    counted = (generate.COMPLETIONS, generate.CHAT, encode.EMBEDDINGS)
    errors.install(app, served.default, counted)
    app.include_router(generate.router(served, on_answer))
    app.include_router(encode.router(served))
    app.include_router(state.router(served))
    mount_metrics(app)
    mount_dashboard(app)
    return app
