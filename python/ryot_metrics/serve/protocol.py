"""What travels over the OpenAI-compatible API, as types.

Requests say which fields have an effect, and which are refused unless they ask for what happens
anyway. This module knows nothing of the engine's work or of HTTP; it builds the engine's
parameters, whose limits are the engine's to check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from ryot_metrics import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "grammar": ("",),
    "json_schema": (),
    "structured_outputs": (),
}
"""Fields that would change the answer, with the values that (like null) ask for nothing.

Other unknown fields (`user`, `metadata`, …) change nothing and are ignored.
"""


def _same(value: object, other: object) -> bool:
    """Equality as JSON has it, where 0 is 0.0 but not false."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


class StreamOptions(BaseModel):
    """How a streamed answer ends."""

    include_usage: bool = False


class _Request(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, data: Any) -> Any:
        for field, harmless in UNSUPPORTED.items():
            value = data.get(field) if isinstance(data, dict) else None
            if value is not None and not any(_same(value, other) for other in harmless):
                raise PydanticCustomError(
                    "unsupported",
                    "{value} is not supported",
                    {"field": field, "value": repr(value)},
                )
        return data

    @property
    def include_usage(self) -> bool:
        """Whether a streamed answer ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _params(self, max_tokens: int | None) -> SamplingParams:
        """The engine's parameters; a field that is absent or null keeps the engine's default."""
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "stop": self.stop,
            "ignore_eos": self.ignore_eos,
        }
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(max_tokens=max_tokens, **named)


class CompletionRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, one per choice."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        return cast("list[str] | list[list[int]]", prompt)

    def params(self) -> SamplingParams:
        """The engine's parameters; OpenAI's default is 16 tokens."""
        return self._params(16 if self.max_tokens is None else self.max_tokens)


class TextPart(BaseModel):
    """A part of a message's content; only text can be read here."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation; a template may read further fields."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None

    def params(self) -> SamplingParams:
        """The engine's parameters; without a limit, what the context leaves."""
        limit = self.max_completion_tokens
        return self._params(self.max_tokens if limit is None else limit)


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    """The continuation of one prompt."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: str


class CompletionResponse(BaseModel):
    """The whole answer of /v1/completions."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class AssistantMessage(BaseModel):
    """The turn that the model wrote."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """The one answer to a conversation."""

    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: str


class ChatResponse(BaseModel):
    """The whole answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ryot-metrics"] = "ryot-metrics"
    max_model_len: int


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
