"""What the OpenAI-compatible API answers, as types.

Fields that only some callers ask for are null for the others. This module knows nothing of the
engine's work, of requests or of HTTP.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer that is none."""

    error: ErrorBody


class PromptTokensDetails(BaseModel):
    """What became of a prompt's tokens."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Choice(BaseModel):
    """One answer, whatever the endpoint."""

    index: int
    logprobs: dict[str, Any] | None = None
    finish_reason: str
    token_ids: list[int] | None = None


class CompletionChoice(Choice):
    """The continuation of one prompt."""

    text: str
    prompt_token_ids: list[int] | None = None


class CompletionResponse(BaseModel):
    """The whole answer of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class CalledFunction(BaseModel):
    """A function that the model wants to have called; the arguments are JSON."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(BaseModel):
    """The turn that the model wrote."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Choice):
    """One answer to a conversation."""

    message: AssistantMessage


class ChatResponse(BaseModel):
    """The whole answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None


class Embedding(BaseModel):
    """The embedding of one input: numbers, or base64 of float32 in little-endian order."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The answer of /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class TokenizeResponse(BaseModel):
    """The answer of /tokenize, as vLLM has it."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeResponse(BaseModel):
    """The answer of /detokenize, as vLLM has it."""

    prompt: str


class ModelCard(BaseModel):
    """A model that is served; an adapter has the one that it is for as its parent."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ryot-metrics"] = "ryot-metrics"
    max_model_len: int | None
    parent: str | None = None


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """The answer of /health while requests are taken."""

    status: Literal["ok"] = "ok"
