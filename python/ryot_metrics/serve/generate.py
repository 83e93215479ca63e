"""The routes that generate text: /v1/completions and /v1/chat/completions.

Accepting a request can take milliseconds (rendering, tokenizing), so it happens on a worker thread;
waiting for a model or for tokens never holds one. Nothing here happens per token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from ryot_metrics.serve.answer import Answer, Part
from ryot_metrics.serve.errors import ApiError, documented, unseen
from ryot_metrics.serve.events import EVENTS, EventStream, while_connected
from ryot_metrics.serve.requests import CHOICES_MAX, ChatRequest, CompletionRequest
from ryot_metrics.serve.responses import ChatResponse, CompletionResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ryot_metrics import Engine
    from ryot_metrics.serve.prompts import Prompts
    from ryot_metrics.serve.served import Served
    from ryot_metrics.serve.stats import Finished

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

CLIENT_CLOSED_REQUEST = 499
"""What the log shows for an answer that nobody waited for."""

WHOLE_OR_STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, its chunks as server-sent events",
        "content": {EVENTS: {"schema": {"type": "string"}}},
    }
}


def router(served: Served, on_answer: Callable[[Finished], None] | None) -> APIRouter:
    """The routes.

    Args:
        served: What answers.
        on_answer: Is told of each answer that is complete.
    """
    routes = APIRouter(responses=WHOLE_OR_STREAMED | documented(400, 404, 413, 429, 500, 503))

    @routes.post(COMPLETIONS, response_model=CompletionResponse)
    async def completions(body: CompletionRequest, request: Request) -> object:
        asked = body.prompts

        def accept(engine: Engine, prompts: Prompts) -> None:
            with unseen():
                tokens = [prompts.within_limit(prompts.tokens(prompt)) for prompt in asked]
                echoes = [prompts.text(prompt) if body.echo else "" for prompt in asked]
            _submit(engine, answer, body, tokens, echoes)

        model, adapter = served.find(body.model)
        request.state.model = model
        with unseen():
            _check_choices(len(asked), body.n)
        answer = Answer(COMPLETIONS, model, adapter, on_close=on_answer)
        return await _reply(answer, served, accept, body, request)

    @routes.post(CHAT, response_model=ChatResponse)
    async def chat_completions(body: ChatRequest, request: Request) -> object:
        def accept(engine: Engine, prompts: Prompts) -> None:
            with unseen():
                tokens = prompts.within_limit(prompts.of_chat(body))
            _submit(engine, answer, body, [tokens], [""])

        model, adapter = served.find(body.model)
        request.state.model = model
        answer = Answer(CHAT, model, adapter, chat=True, on_close=on_answer)
        answer.tools = bool(body.offered)
        return await _reply(answer, served, accept, body, request)

    return routes


def _check_choices(prompts: int, n: int | None) -> None:
    if not prompts:
        raise ValueError("prompt is empty; a completion needs at least 1 prompt")
    if (choices := prompts * (n or 1)) > CHOICES_MAX:
        raise ValueError(
            f"the call asks for {choices:,} answers, {prompts:,} prompts times n; at most "
            f"{CHOICES_MAX} are allowed"
        )


def _submit(
    engine: Engine,
    answer: Answer,
    body: CompletionRequest | ChatRequest,
    prompts: list[list[int]],
    echoes: list[str],
) -> None:
    """Queue every prompt `n` times; if one is refused, the caller takes the earlier ones back."""
    with unseen():
        params = body.params()
    answer.return_token_ids = bool(body.return_token_ids)
    single = len(prompts) * len(params) == 1
    terms = {**body.terms(), "adapter": answer.adapter} if answer.adapter else body.terms()
    mode = "streaming" if body.stream else "standard" if single else "batch"
    for group, (prompt, echo) in enumerate(zip(prompts, echoes, strict=True)):
        for one in params:
            stream = engine.stream(prompt, one, endpoint=answer.endpoint, mode=mode, **terms)
            answer.parts.append(Part(stream, prompt, group, echo))
    answer.queued()


async def _reply(
    answer: Answer,
    served: Served,
    accept: Callable[[Engine, Prompts], None],
    body: CompletionRequest | ChatRequest,
    request: Request,
) -> object:
    """The answer as the client asked for it: events at once, or the whole at the end."""
    gone = Response(status_code=CLIENT_CLOSED_REQUEST)
    try:
        try:
            lent = await while_connected(request.receive, served.lend(answer.base, answer.lease))
            if lent is None:
                answer.close()
                return gone
            await run_in_threadpool(accept, *lent)
            if body.stream:
                if _may_be_refused(lent[0], body):
                    await while_connected(request.receive, _begun(answer))
                return EventStream(answer, include_usage=body.include_usage)
            whole = await while_connected(request.receive, answer.whole())
        except BaseException:
            answer.close()
            raise
        answer.close()
    except Exception as error:
        raise ApiError.of(error) from error
    return gone if whole is None else whole


def _may_be_refused(engine: Engine, body: CompletionRequest | ChatRequest) -> bool:
    """Whether the engine refuses it if its first token cannot come as promised."""
    config = engine.config
    inherited = config.ttft_ms is not None and body.priority != "background"
    own = body.slo is not None and body.slo.ttft_ms is not None
    return config.overload == "reject" and (own or inherited)


async def _begun(answer: Answer) -> None:
    """Waits for every first token: a promise that cannot be kept is a status, not an event."""
    await asyncio.gather(*(part.stream.ready() for part in answer.parts))
