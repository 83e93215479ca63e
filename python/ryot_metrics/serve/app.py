"""The OpenAI-compatible service over one engine: routes, and nothing per token.

`create_app` neither owns nor closes the engine: who made it closes it. Accepting a request can
take milliseconds (rendering, tokenizing), so it happens on a worker thread; waiting for tokens
never holds a thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from ryot_metrics import EngineClosedError, chat, mount_dashboard, mount_metrics
from ryot_metrics.serve import errors
from ryot_metrics.serve.answer import CHAT, COMPLETION, Answer, EventStream, while_connected
from ryot_metrics.serve.limit import MAX_BODY_BYTES, BodyLimit
from ryot_metrics.serve.protocol import (
    AssistantMessage,
    ChatChoice,
    ChatRequest,
    ChatResponse,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    ModelCard,
    ModelList,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from ryot_metrics import Engine, SamplingParams
    from ryot_metrics.serve.answer import Shape

CLIENT_CLOSED_REQUEST = 499
"""What the log shows for an answer that nobody waited for."""


def create_app(engine: Engine, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """Build the service.

    Args:
        engine: What answers. It stays the caller's to shut down.
        max_body_bytes: The largest body of a request; a larger one is answered with 413.

    Returns:
        An application with `/v1/completions`, `/v1/chat/completions`, `/v1/models`, `/health`,
        `/metrics` and `/dashboard`.

    Raises:
        ValueError: If the limit is below 1.
    """
    if max_body_bytes < 1:
        raise ValueError(f"max_body_bytes is {max_body_bytes}; it must be at least 1")
    app = FastAPI(title="ryot-metrics", description=f"OpenAI-compatible API for {engine.name}")
    app.add_middleware(BodyLimit, max_body_bytes=max_body_bytes)
    errors.install(app, engine.name, (COMPLETION.endpoint, CHAT.endpoint))
    app.include_router(_answers(engine))
    app.include_router(_state(engine))
    mount_metrics(app)
    mount_dashboard(app)
    return app


def _answers(engine: Engine) -> APIRouter:
    router = APIRouter()
    info = engine.model_info

    @router.post(COMPLETION.endpoint, response_model=CompletionResponse)
    async def completions(body: CompletionRequest, request: Request) -> object:
        _check_model(body.model, engine)

        def accept() -> Answer:
            prompts = body.prompts
            mode = "streaming" if body.stream else "standard" if len(prompts) == 1 else "batch"
            return _submit(engine, COMPLETION, prompts, body.params(), mode)

        return await _reply(await _accepted(accept), body, request, _completion)

    @router.post(CHAT.endpoint, response_model=ChatResponse)
    async def chat_completions(body: ChatRequest, request: Request) -> object:
        _check_model(body.model, engine)

        def accept() -> Answer:
            template = info["chat_template"]
            prompt = chat.render(
                [message.model_dump(exclude_none=True) for message in body.messages],
                template,
                bos_token=info["bos_token"],
                eos_token=info["eos_token"],
            )
            mode = "streaming" if body.stream else "standard"
            # A template writes the beginning of the sequence itself where its model wants one.
            special = template is None
            return _submit(engine, CHAT, [prompt], body.params(), mode, add_special=special)

        return await _reply(await _accepted(accept), body, request, _chat)

    return router


def _state(engine: Engine) -> APIRouter:
    router = APIRouter()
    longest = min(engine.config.ctx_size, engine.model_info["context_train"])
    card = ModelCard(id=engine.name, created=int(time.time()), max_model_len=longest)

    @router.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[card])

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> ModelCard:
        _check_model(model, engine)
        return card

    @router.get("/health")
    async def health() -> dict[str, str]:
        try:
            engine.stats()
        except EngineClosedError as closed:
            raise errors.ApiError.of(closed) from closed
        return {"status": "ok"}

    return router


def _check_model(name: str | None, engine: Engine) -> None:
    if name and name != engine.name:
        raise errors.model_not_found(name, engine.name)


async def _accepted(accept: Callable[[], Answer]) -> Answer:
    """Run the accepting off the event loop; what it refuses becomes the client's error."""
    try:
        return await run_in_threadpool(accept)
    except Exception as error:
        raise errors.ApiError.of(error) from error


def _submit(
    engine: Engine,
    shape: Shape,
    prompts: Sequence[str | list[int]],
    params: SamplingParams,
    mode: str,
    *,
    add_special: bool = True,
) -> Answer:
    """Queue every prompt, or none: one that is refused takes the earlier ones back."""
    if not prompts:
        raise ValueError("prompt is empty; a completion needs at least 1 prompt")
    answer = Answer(shape, engine.name, streams := [])
    try:
        for prompt in prompts:
            stream = engine.stream(
                prompt, params, endpoint=shape.endpoint, mode=mode, add_special=add_special
            )
            streams.append(stream)
    except Exception:
        answer.cancel()
        raise
    return answer


async def _reply(
    answer: Answer,
    body: CompletionRequest | ChatRequest,
    request: Request,
    build: Callable[[Answer, list[tuple[str, str]]], BaseModel],
) -> BaseModel | Response:
    """The answer as the client asked for it: events at once, or the whole at the end."""
    if body.stream:
        return EventStream(answer, include_usage=body.include_usage)
    try:
        choices = await while_connected(request.receive, answer.whole())
    except Exception as error:
        raise errors.ApiError.of(error) from error
    finally:
        answer.cancel()
    if choices is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return build(answer, choices)


def _completion(answer: Answer, choices: list[tuple[str, str]]) -> CompletionResponse:
    return CompletionResponse(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=[
            CompletionChoice(index=index, text=text, finish_reason=reason)
            for index, (text, reason) in enumerate(choices)
        ],
        usage=answer.usage(),
    )


def _chat(answer: Answer, choices: list[tuple[str, str]]) -> ChatResponse:
    return ChatResponse(
        id=answer.id,
        created=answer.created,
        model=answer.model,
        choices=[
            ChatChoice(message=AssistantMessage(content=text), finish_reason=reason)
            for text, reason in choices
        ],
        usage=answer.usage(),
    )
