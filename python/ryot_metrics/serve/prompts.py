"""From what a request asks to the tokens that the engine is given.

Must not know HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryot_metrics import chat
from ryot_metrics.serve.errors import ApiError

if TYPE_CHECKING:
    from ryot_metrics import Engine
    from ryot_metrics.serve.requests import Conversation


class Prompts:
    """Makes tokens of prompts and conversations, within a limit.

    Args:
        engine: The engine, for its model.
        max_prompt_tokens: The most tokens of a prompt; None leaves the limit to the engine.
    """

    def __init__(self, engine: Engine, max_prompt_tokens: int | None) -> None:
        self._engine = engine
        self._limit = max_prompt_tokens

    @property
    def longest(self) -> int:
        """The most tokens of a prompt and its answer."""
        context: int = self._engine.model_info["context_train"]
        return min(self._engine.config.longest, context)

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
