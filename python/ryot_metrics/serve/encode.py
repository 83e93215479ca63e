"""The routes around text and its numbers: /tokenize, /detokenize and /v1/embeddings.

The first two have vLLM's paths, fields and answers.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from ryot_metrics.serve.errors import ApiError, documented, unseen
from ryot_metrics.serve.requests import (
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeBody,
    TokenizeRequest,
)
from ryot_metrics.serve.responses import (
    DetokenizeResponse,
    Embedding,
    EmbeddingResponse,
    EmbeddingUsage,
    TokenizeResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np

    from ryot_metrics import Engine
    from ryot_metrics.serve.prompts import Prompts
    from ryot_metrics.serve.served import Served

T = TypeVar("T")

EMBEDDINGS = "/v1/embeddings"


def router(served: Served) -> APIRouter:
    """The routes.

    Args:
        served: Whose models these are.
    """
    routes = APIRouter(responses=documented(400, 404, 413, 500, 503))

    async def work(model: str, todo: Callable[[Engine, Prompts], T]) -> T:
        """Does it on a worker thread, once the model is there."""
        with ExitStack() as lease:
            return await run_in_threadpool(todo, *await served.lend(model, lease))

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> TokenizeResponse:
        def todo(engine: Engine, prompts: Prompts) -> TokenizeResponse:
            with unseen():
                return _tokenized(body, engine, prompts)

        return await work(served.find(body.model).model, todo)

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> DetokenizeResponse:
        def todo(engine: Engine, _: Prompts) -> DetokenizeResponse:
            with unseen():
                return DetokenizeResponse(prompt=engine.detokenize(body.tokens))

        return await work(served.find(body.model).model, todo)

    @routes.post(EMBEDDINGS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> EmbeddingResponse:
        def todo(engine: Engine, prompts: Prompts) -> EmbeddingResponse:
            with unseen():
                tokens = [prompts.within_limit(prompts.tokens(text)) for text in body.inputs]
            return _embedded(body, engine, tokens)

        model, adapter = served.find(body.model)
        request.state.model = model
        with unseen():
            if adapter is not None:
                raise ValueError(f"the adapter {adapter!r} has no embeddings; its model has")
            if not body.inputs:
                raise ValueError("input is empty; at least 1 text is needed")
        return await work(model, todo)

    return routes


def _tokenized(body: TokenizeBody, engine: Engine, prompts: Prompts) -> TokenizeResponse:
    if isinstance(body, TokenizeRequest):
        tokens = prompts.tokens(body.prompt, add_special=body.add_special_tokens)
    else:
        tokens = prompts.of_chat(body, add_generation_prompt=body.add_generation_prompt)
    strings = None
    if body.return_token_strs:
        strings = [engine.detokenize([token]) for token in tokens]
    return TokenizeResponse(
        count=len(tokens), max_model_len=prompts.longest, tokens=tokens, token_strs=strings
    )


def _embedded(body: EmbeddingRequest, engine: Engine, tokens: list[list[int]]) -> EmbeddingResponse:
    try:
        vectors = engine.embed(tokens, pooling=body.pooling, endpoint=EMBEDDINGS)
    except Exception as error:
        raise ApiError.of(error) from error
    in_base64 = body.encoding_format == "base64"
    data = [
        Embedding(index=index, embedding=_base64(vector) if in_base64 else vector.tolist())
        for index, vector in enumerate(vectors)
    ]
    count = sum(map(len, tokens))
    usage = EmbeddingUsage(prompt_tokens=count, total_tokens=count)
    return EmbeddingResponse(data=data, model=engine.name, usage=usage)


def _base64(vector: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
