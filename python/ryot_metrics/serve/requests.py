"""What the OpenAI-compatible API is asked, as types.

They say which fields have an effect, and which are refused unless they ask for what happens anyway.
This module knows nothing of the engine's work or of HTTP; it builds the engine's parameters, whose
limits are the engine's to check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from ryot_metrics import SamplingParams
from ryot_metrics.engine import Terms
from ryot_metrics.serve.formats import ResponseFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
}
"""Fields that would change the answer, with the values that (like null) ask for nothing.

Other unknown fields (`metadata`, `store`, …) change nothing and are ignored.
"""

SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "ignore_eos",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
)
"""Fields that are called as the engine's parameters are."""

TOP_LOGPROBS_MAX = 20
"""The most likeliest tokens at one place. OpenAI's limit."""

CHOICES_MAX = 128
"""The most answers of one call: prompts times `n`. OpenAI's limit of `n`."""

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Prompts: TypeAlias = str | list[Int32] | list[str] | list[list[Int32]]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _same(value: object, other: object) -> bool:
    """Equality as JSON has it, where 0 is 0.0 but not false."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


class StreamOptions(BaseModel):
    """How a streamed answer ends."""

    include_usage: bool = False


class Slo(BaseModel):
    """What a request is promised, in milliseconds."""

    model_config = ConfigDict(extra="forbid")

    ttft_ms: float | None = None
    tbt_ms: float | None = None


class _Request(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[Int32, float] | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Count | None = None
    dry_sequence_breakers: list[str] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES_MAX)] | None = None
    user: str | None = None
    priority: Literal["interactive", "background"] | None = None
    slo: Slo | None = None
    return_token_ids: bool | None = None
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

    def terms(self) -> Terms:
        """How urgent it is, what it is promised, and on whose behalf it comes."""
        terms = Terms(tenant=self.user or "")
        if self.priority is not None:
            terms["priority"] = self.priority
        if self.slo is not None:
            terms["ttft_ms"], terms["tbt_ms"] = self.slo.ttft_ms, self.slo.tbt_ms
        return terms

    def params(self) -> list[SamplingParams]:
        """The engine's parameters of each of the `n` answers, whose seeds follow each other.

        A field that is absent or null keeps the engine's default.
        """
        given = {name: getattr(self, name) for name in SAMPLING}
        given["json_schema"] = self._schema()
        given["grammar"] = self.grammar or None  # empty is none, as llama.cpp's server has it
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        params = SamplingParams(
            max_tokens=self._most_tokens(), logprobs=self._most_logprobs(), **named
        )
        return [params.for_answer(index) for index in range(self.n or 1)]

    def _schema(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must fit, from whichever field has it."""
        form = self.response_format
        schema = None if form is None else form.schema_of_answer()
        if schema is not None and self.json_schema is not None:
            raise ValueError("response_format and json_schema are given; it must be one")
        return self.json_schema if schema is None else schema

    def _most_logprobs(self) -> int | None:
        """How many likeliest tokens are reported at each place; None reports nothing."""
        raise NotImplementedError

    def _most_tokens(self) -> int | None:
        """The most tokens of an answer; None leaves it to the engine."""
        return self.max_tokens


def _each(prompts: Prompts) -> Sequence[str | list[int]]:
    """The prompts one by one: text or tokens."""
    if isinstance(prompts, str):
        return [prompts]
    if prompts and isinstance(prompts[0], int):
        return [prompts]
    return cast("list[str] | list[list[int]]", prompts)


class CompletionRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: Prompts
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, one per choice."""
        return _each(self.prompt)

    def _most_tokens(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens  # OpenAI's default

    def _most_logprobs(self) -> int | None:
        if self.echo and self.logprobs is not None:
            raise ValueError("logprobs: those of an echoed prompt are not supported")
        return self.logprobs


class TextPart(BaseModel):
    """A part of a message's content; only text can be read here."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn of a conversation; a template may read further fields."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None


class Function(BaseModel):
    """What a model may ask to be called; `parameters` is a JSON schema."""

    model_config = ConfigDict(extra="allow")

    name: str


class Tool(BaseModel):
    """A tool; there are only functions."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: Function


class Conversation(BaseModel):
    """What a chat template is given."""

    messages: list[ChatMessage]
    tools: list[Tool] | None = None
    tool_choice: Any = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model may use."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools or []]

    def turns(self) -> list[dict[str, Any]]:
        """The messages as a template reads them."""
        return [message.model_dump(exclude_none=True) for message in self.messages]


class ChatRequest(_Request, Conversation):
    """The body of POST /v1/chat/completions."""

    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None

    def _most_tokens(self) -> int | None:
        limit = self.max_completion_tokens
        return self.max_tokens if limit is None else limit

    def _most_logprobs(self) -> int | None:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: they need logprobs to be true")
        return (self.top_logprobs or 0) if self.logprobs else None


class EmbeddingRequest(BaseModel):
    """The body of POST /v1/embeddings."""

    model: str | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    pooling: Literal["mean", "last", "cls"] | None = None

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """The texts, or their tokens."""
        return _each(self.input)


class TokenizeRequest(BaseModel):
    """The body of POST /tokenize that has a prompt."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChatRequest(Conversation):
    """The body of POST /tokenize that has a conversation, as the chat template writes it."""

    model: str | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None


def _tokenized_kind(body: object) -> str:
    """Which of the two a body is meant to be, so that its faults are told as that one's."""
    is_chat = isinstance(body, dict) and "messages" in body
    return "TokenizeChatRequest" if is_chat else "TokenizeRequest"


TokenizeBody: TypeAlias = Annotated[
    Annotated[TokenizeRequest, Tag("TokenizeRequest")]
    | Annotated[TokenizeChatRequest, Tag("TokenizeChatRequest")],
    Discriminator(_tokenized_kind),
]
"""The body of POST /tokenize."""


class DetokenizeRequest(BaseModel):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[Int32]
