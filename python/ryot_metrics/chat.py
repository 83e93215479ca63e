"""Chat messages to one prompt, with the model's own chat template.

A template is a program that came with the model file, so it runs in Jinja's immutable sandbox, with
the same settings and helpers as Hugging Face gives it. This module knows neither engine nor HTTP.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ryot_metrics._extra import serve_extra

with serve_extra("rendering chat templates"):
    from jinja2 import Template, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.nodes import Node
    from jinja2.parser import Parser

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The format of a model that brings no template of its own."""


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; for inference it is its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: Parser) -> list[Node]:
        """Drop the two tags and keep what stands between them."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML, which would put "\u003c" into the prompt.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its content as one string; text parts are joined by line breaks."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    return {**message, "content": content or ""}


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str | None,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> str:
    """Write a conversation as the one text that the model was trained to continue.

    Args:
        messages: Mappings with `role` and `content`; content is a string or a list of
            `{"type": "text", "text": …}` parts.
        template: The model's Jinja source, or None for ChatML.
        bos_token: What the template may write as the beginning of the sequence.
        eos_token: What the template may write as the end of a turn.
        add_generation_prompt: End with the opening of the assistant's turn.

    Raises:
        ValueError: There is no message, or the template refuses the conversation or is broken.
    """
    if not messages:
        raise ValueError("messages is empty; a conversation needs at least 1 message")
    try:
        return _compile(template or CHATML).render(
            messages=[_flat(message) for message in messages],
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as reason:  # a template is foreign code and may raise anything
        raise ValueError(f"the model's chat template failed: {reason}") from reason
