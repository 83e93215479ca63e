"""The routes that say what is served and whether it works: /v1/models and /health."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter

from ryot_metrics import EngineClosedError
from ryot_metrics.serve.errors import ApiError, documented
from ryot_metrics.serve.responses import Health, ModelCard, ModelList

if TYPE_CHECKING:
    from ryot_metrics import Engine
    from ryot_metrics.serve.prompts import Prompts


def router(engine: Engine, prompts: Prompts, longest: int) -> APIRouter:
    """The routes.

    Args:
        engine: What is served.
        prompts: What knows the model's name.
        longest: The most tokens of a prompt and its answer.
    """
    routes = APIRouter()
    created, base = int(time.time()), engine.name
    cards = {
        name: ModelCard(
            id=name,
            created=created,
            max_model_len=longest,
            parent=None if name == base else base,
        )
        for name in prompts.models
    }

    @routes.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=list(cards.values()))

    @routes.get("/v1/models/{model:path}", responses=documented(404))
    async def model(model: str) -> ModelCard:
        return cards[prompts.check_model(model) or base]

    @routes.get("/health", responses=documented(503))
    async def health() -> Health:
        try:
            engine.stats()
        except EngineClosedError as closed:
            raise ApiError.of(closed) from closed
        return Health()

    return routes
