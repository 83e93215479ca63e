"""Every failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The one table from exceptions to statuses. What happened before an answer began becomes a status;
what happens after becomes an event of the stream (`ApiError.body` serves both). What is refused
here, before the engine could see it, is counted here.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ryot_metrics import EngineClosedError, QueueFullError
from ryot_metrics._ryot_metrics import Request as Measured

if TYPE_CHECKING:
    from collections.abc import Collection

    from fastapi import FastAPI, Request


logger = logging.getLogger(__name__)

UNKNOWN_MODEL = "__unknown__"
"""The label `model` of requests for a model that is not here, whatever name they had."""


class ApiError(Exception):
    """An error as the client sees it."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    @classmethod
    def of(cls, error: Exception) -> ApiError:
        """The answer to an error that the engine raised."""
        if isinstance(error, ApiError):
            return error
        message = str(error)
        if isinstance(error, ValueError):
            return cls(400, message)
        if isinstance(error, QueueFullError):
            wait = error.retry_after
            return cls(429, message, "rate_limit_error", code="queue_full", retry_after=wait)
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


def model_not_found(name: str, served: str) -> ApiError:
    """The answer to a request for a model that is not here."""
    message = f"the model {name!r} does not exist; this server has {served!r}"
    return ApiError(404, message, param="model", code="model_not_found")


class BodyTooLargeError(HTTPException):
    """A body is larger than the limit; as an HTTPException it passes through FastAPI's reading."""

    def __init__(self, size: str, limit: int) -> None:
        message = f"the body has {size} bytes; at most {limit:,} are allowed (max_body_bytes)"
        super().__init__(413, message)


def install(app: FastAPI, model: str, endpoints: Collection[str]) -> None:
    """Answer with OpenAI's shape wherever the framework would use its own.

    Args:
        app: The app.
        model: The model that is served.
        endpoints: The paths of inference; what is refused there counts as a request.
    """

    def count(request: Request, model: str, error_type: str) -> None:
        if request.url.path in endpoints and request.method == "POST":
            Measured(model, request.url.path).finish("error", error_type)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        if error.status == 404:
            count(request, UNKNOWN_MODEL, "model_not_found")
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        count(request, model, "invalid_prompt")
        return _invalid(error.errors()[0]).response()

    @app.exception_handler(BodyTooLargeError)
    async def too_large(request: Request, error: BodyTooLargeError) -> JSONResponse:
        count(request, model, "invalid_prompt")
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
    fields = [part for part in problem["loc"][1:] if isinstance(part, str)]
    field = problem.get("ctx", {}).get("field") or next(iter(fields), "body")
    return ApiError(400, f"{field}: {problem['msg']}", param=field)
