"""The routes that say what is served and whether it works: /v1/models and /health."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from ryot_metrics import EngineClosedError
from ryot_metrics.serve.errors import ApiError, documented
from ryot_metrics.serve.responses import Health, ModelCard, ModelList

if TYPE_CHECKING:
    from ryot_metrics.serve.served import Served


def router(served: Served) -> APIRouter:
    """The routes.

    Args:
        served: What is served.
    """
    routes = APIRouter()
    created = int(time.time())

    def card(name: str) -> ModelCard:
        model, adapter = served.find(name)
        return ModelCard(
            id=name,
            created=created,
            max_model_len=served.longest(model),
            parent=None if adapter is None else model,
        )

    @routes.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[card(name) for name in served.names])

    @routes.get("/v1/models/{model:path}", responses=documented(404))
    async def model(model: str) -> ModelCard:
        return card(model)

    @routes.get("/health", responses=documented(503))
    async def health() -> Health:
        try:
            served.check_open()
        except EngineClosedError as closed:
            raise ApiError.of(closed) from closed
        return Health()

    return routes
