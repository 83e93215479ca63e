"""The page in a web framework.

Must not import a framework before `mount_metrics` is called with one of its apps.
"""

from __future__ import annotations

from typing import Any

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry
from ryot_metrics.client.answer import with_profile
from ryot_metrics.client.asgi import make_asgi_app

__all__ = ["make_asgi_app", "mount_metrics"]


def mount_metrics(
    app: Any,
    path: str = "/metrics",
    *,
    registry: CollectorRegistry = REGISTRY,
    profile: str | None = None,
) -> None:
    """Adds the page to a FastAPI or Starlette app, at exactly this path, without a redirect.

    Args:
        app: The app.
        path: The path of the page.
        registry: What to show; by default all of this process.
        profile: The names of the families of language models, `ryot`, `vllm` or `otel`, on a page
            whose query names none (`/metrics?profile=vllm`); by default the registry's own.

    Raises:
        ValueError: If the path does not begin with `/`, or for an unknown profile.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> mount_metrics(app)
    """
    from starlette.routing import Route

    if not path.startswith("/"):
        raise ValueError(f"path is {path!r}; it must begin with '/'")
    page = make_asgi_app(with_profile(registry, profile))
    app.router.routes.append(Route(path, page, include_in_schema=False))
