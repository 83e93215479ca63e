"""Every failure in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

The one table from exceptions to statuses. What happened before an answer began becomes a status;
what happens after becomes an event of the stream (`ApiError.body` serves both).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ryot_metrics import EngineClosedError, QueueFullError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request


logger = logging.getLogger(__name__)


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


def install(app: FastAPI) -> None:
    """Answer with OpenAI's shape wherever the framework would use its own."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(error.errors()[0]).response()

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
