"""Every failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The one table from exceptions to statuses. What happened before an answer began becomes a status;
what happens after becomes an event of the stream (`ApiError.body` serves both). What is refused
here, before the engine could see it, is counted here.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ryot_metrics import EngineClosedError, MemoryLimitError, QueueFullError
from ryot_metrics._ryot_metrics import Request as Measured
from ryot_metrics.serve.responses import ErrorResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from fastapi import FastAPI, Request


logger = logging.getLogger(__name__)

MEANINGS = {
    400: "The request is malformed or asks for what cannot be had",
    401: "No API key, or a wrong one",
    404: "There is no such model",
    413: "The body is larger than the limit",
    429: "The queue is full, or a promise cannot be kept; `Retry-After` says when to ask again",
    500: "The engine failed",
    503: "The service is loading, draining or closed, or the model does not fit now",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How these statuses stand in the OpenAPI document of a route."""
    return {it: {"model": ErrorResponse, "description": MEANINGS[it]} for it in statuses}


UNKNOWN_MODEL = "__unknown__"
"""The label `model` of requests for a model that is not here, whatever name they had."""


class ApiError(Exception):
    """An error as the client sees it.

    Args:
        status: The status of the answer.
        message: What is wrong, for a person.
        kind: OpenAI's `type`.
        param: The field that is meant.
        code: What is wrong, for a program.
        retry_after: Seconds after which to ask again.
        error_type: What a request counts as that the engine, which counts too, has not seen.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        error_type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: Exception) -> ApiError:
        """The answer to an error that the engine raised."""
        if isinstance(error, ApiError):
            return error
        message = str(error)
        if isinstance(error, ValueError | OverflowError):
            return cls(400, message)
        if isinstance(error, QueueFullError):
            wait = error.retry_after
            return cls(429, message, "rate_limit_error", code="queue_full", retry_after=wait)
        if isinstance(error, MemoryLimitError):
            kind = "service_unavailable_error"
            return cls(503, message, kind, code="memory_limit", retry_after=1.0)
        if isinstance(error, EngineClosedError):
            return cls(503, message, "service_unavailable_error", code="engine_closed")
        logger.error("a request failed", exc_info=error)
        return cls(500, message, "server_error", code=type(error).__name__)

    def response(self) -> JSONResponse:
        """The error as a whole answer."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return JSONResponse(self.body, self.status, headers)


def model_not_found(name: str, served: Collection[str]) -> ApiError:
    """The answer to a request for a model that is not here."""
    known = ", ".join(map(repr, served))
    message = f"the model {name!r} does not exist; this server has {known}"
    kind = "model_not_found"
    return ApiError(404, message, param="model", code=kind, error_type=kind)


@contextmanager
def unseen() -> Iterator[None]:
    """Count what is refused in the block here, since the engine has not seen it."""
    try:
        yield
    except Exception as error:
        refusal = ApiError.of(error)
        if refusal.error_type is None:
            bad = refusal.status < 500
            refusal.error_type = "invalid_prompt" if bad else "inference_error"
        raise refusal from error


class BodyTooLargeError(HTTPException):
    """A body is larger than the limit; as an HTTPException it passes through FastAPI's reading."""

    def __init__(self, size: str, limit: int) -> None:
        message = f"the body has {size} bytes; at most {limit:,} are allowed (max_body_bytes)"
        super().__init__(413, message)


def install(app: FastAPI, model: str, endpoints: Collection[str]) -> None:
    """Answer with OpenAI's shape wherever the framework would use its own.

    Args:
        app: The app.
        model: What counts a request whose model is not known.
        endpoints: The paths of inference; what is refused there counts as a request.
    """

    def count(request: Request, error_type: str) -> None:
        if request.url.path in endpoints and request.method == "POST":
            own = UNKNOWN_MODEL if error_type == "model_not_found" else model
            own = getattr(request.state, "model", own)
            Measured(own, request.url.path).finish("error", error_type)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        if error.error_type is not None:
            count(request, error.error_type)
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        count(request, "invalid_prompt")
        return _invalid(error.errors()[0]).response()

    @app.exception_handler(BodyTooLargeError)
    async def too_large(request: Request, error: BodyTooLargeError) -> JSONResponse:
        count(request, "invalid_prompt")
        return ApiError(413, error.detail, code="request_too_large").response()

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        response = ApiError(error.status_code, error.detail).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "internal error", "server_error", code=type(error).__name__).response()


def _invalid(problem: dict[str, Any]) -> ApiError:
    """The first problem that validation found, with the field's name in front."""
    if problem["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {problem['ctx']['error']}")
    if problem["type"] == "model_attributes_type":
        return ApiError(400, "the body must be a JSON object, sent as application/json")
    # Fields are in lower case: what begins otherwise is which of several bodies it was taken for.
    named = [part for part in problem["loc"][1:] if isinstance(part, str)]
    fields = [part for part in named if part[:1].islower()]
    field = problem.get("ctx", {}).get("field") or next(iter(fields), "body")
    return ApiError(400, f"{field}: {problem['msg']}", param=field)
