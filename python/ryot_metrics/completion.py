"""What the engine's answers are made of. This module knows nothing of how they come about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy import int32
    from numpy.typing import NDArray


class Logprob(NamedTuple):
    """How likely the model held a token.

    Attributes:
        token_id: The token.
        logprob: The natural logarithm of its probability.
        bytes: Its bytes, which may be a part of a character; none for a control token.
    """

    token_id: int
    logprob: float
    bytes: bytes

    @property
    def text(self) -> str:
        """The bytes as text, with U+FFFD for what is no UTF-8."""
        return self.bytes.decode(errors="replace")


class TokenLogprobs(NamedTuple):
    """The log-probabilities at one place of an answer.

    They are the model's own, before bias, penalties and temperature.

    Attributes:
        drawn: That of the token that was drawn.
        top: Those of the likeliest tokens, likeliest first; as many as were asked for.
    """

    drawn: Logprob
    top: list[Logprob]

    @classmethod
    def of(cls, native: tuple[Any, list[Any]]) -> TokenLogprobs:
        """From what the native engine gives: the same as plain tuples."""
        drawn, top = native
        return cls(Logprob(*drawn), [Logprob(*one) for one in top])


class Chunk(NamedTuple):
    """A piece of an answer.

    Attributes:
        text: The text that became certain: valid UTF-8, maybe empty, maybe of several tokens.
        token_id: The token; None for text that was held back until the end.
        logprobs: The token's log-probabilities, if they were asked for.
    """

    text: str
    token_id: int | None
    logprobs: TokenLogprobs | None = None

    def __str__(self) -> str:
        """The text."""
        return self.text

    @classmethod
    def of(cls, native: tuple[str, int, Any]) -> Chunk:
        """From what the native engine gives."""
        text, token_id, logprobs = native
        return cls(text, token_id, None if logprobs is None else TokenLogprobs.of(logprobs))


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: The text.
        token_ids: Its tokens, without the one that ends it.
        finish_reason: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: Tokens in the prompt.
        ttft_seconds: Seconds from queued to the first token; None without one.
        duration_seconds: Seconds from queued to finished.
        error: What went wrong, if `finish_reason` is `error`.
        logprobs: The log-probabilities of each token, if they were asked for.
        cached_tokens: Tokens of the prompt that the prefix cache held.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    ttft_seconds: float | None
    duration_seconds: float
    error: Exception | None = None
    logprobs: list[TokenLogprobs] | None = None
    cached_tokens: int = 0

    @property
    def token_count(self) -> int:
        """Tokens in the answer."""
        return len(self.token_ids)

    def token_array(self) -> NDArray[int32]:
        """The tokens as a numpy array, which an engine also takes as a prompt.

        Raises:
            ImportError: If numpy is not installed.

        Example:
            >>> Completion("hi", [104, 105], "stop", 1, None, 0.1).token_array()
            array([104, 105], dtype=int32)
        """
        import numpy

        return numpy.array(self.token_ids, dtype=numpy.int32)
