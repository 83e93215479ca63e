"""From what a request asks to the tokens that the engine is given.

Must not know HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryot_metrics import chat
from ryot_metrics.serve.errors import ApiError, model_not_found

if TYPE_CHECKING:
    from ryot_metrics import Engine
    from ryot_metrics.serve.requests import Conversation


class Prompts:
    """Makes tokens of prompts and conversations, within a limit.

    Args:
        engine: The engine, for its model.
        max_prompt_tokens: The most tokens of a prompt; None leaves the limit to the engine.

    Raises:
        ValueError: If the limit is below 1.
    """

    def __init__(self, engine: Engine, max_prompt_tokens: int | None) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens is {max_prompt_tokens}; it must be at least 1")
        self._engine = engine
        self._limit = max_prompt_tokens

    @property
    def models(self) -> tuple[str, ...]:
        """The names that may be asked for: the model's, then those of its adapters."""
        return (self._engine.name, *self._engine.adapters)

    def check_model(self, name: str | None) -> str | None:
        """The adapter that a name means; none at all means the bare model.

        Raises:
            ApiError: If nothing of this name is served.
        """
        if not name or name == self._engine.name:
            return None
        if name not in self._engine.adapters:
            raise model_not_found(name, self.models)
        return name

    def tokens(self, prompt: str | list[int], *, add_special: bool = True) -> list[int]:
        """The tokens of a prompt, which may be tokens already."""
        if isinstance(prompt, str):
            return self._engine.tokenize(prompt, add_special=add_special)
        return prompt

    def within_limit(self, tokens: list[int]) -> list[int]:
        """The same tokens, unless they are too many."""
        if self._limit is not None and len(tokens) > self._limit:
            message = (
                f"the prompt has {len(tokens):,} tokens; at most {self._limit:,} are allowed "
                "(max_prompt_tokens)"
            )
            raise ApiError(400, message, code="context_length_exceeded")
        return tokens

    def text(self, prompt: str | list[int]) -> str:
        """The text of a prompt, for its echo."""
        return prompt if isinstance(prompt, str) else self._engine.detokenize(prompt)

    def of_chat(self, asked: Conversation, *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation, as the model's chat template writes it."""
        info = self._engine.model_info
        template = info["chat_template"]
        text = chat.render(
            asked.turns(),
            template,
            tools=asked.offered,
            bos_token=info["bos_token"],
            eos_token=info["eos_token"],
            add_generation_prompt=add_generation_prompt,
        )
        # A template writes the beginning of the sequence itself where its model wants one.
        return self.tokens(text, add_special=template is None)
