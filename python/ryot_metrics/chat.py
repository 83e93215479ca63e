"""Chat messages to one prompt, with the model's own chat template.

A template is a program that came with the model file, so it runs in Jinja's immutable sandbox, with
the same settings and helpers as Hugging Face gives it. This module knows neither engine nor HTTP.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ryot_metrics._extra import serve_extra

with serve_extra("rendering chat templates"):
    from jinja2 import Template, TemplateError, meta
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


class _Compiled(NamedTuple):
    template: Template
    reads_tools: bool
    """Whether it does anything with tools."""


@lru_cache(maxsize=8)
def _compile(source: str) -> _Compiled:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    names = meta.find_undeclared_variables(environment.parse(source))
    return _Compiled(environment.from_string(source), "tools" in names)


def _flat(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as templates expect it.

    Its content is one string, text parts being joined by line breaks; the arguments of its tool
    calls, which travel as JSON, are objects.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    flat = {**message, "content": content or ""}
    if calls := message.get("tool_calls"):
        flat["tool_calls"] = [_call(call) for call in calls]
    return flat


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(arguments := function.get("arguments"), str):
        function["arguments"] = json.loads(arguments or "{}")
    return {**call, "function": function}


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str | None,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> str:
    """Write a conversation as the one text that the model was trained to continue.

    Args:
        messages: Mappings with `role` and `content`; content is a string or a list of
            `{"type": "text", "text": …}` parts. `tool_calls` are those of OpenAI's API.
        template: The model's Jinja source, or None for ChatML.
        tools: What the model may ask to be called, as OpenAI's API describes it.
        bos_token: What the template may write as the beginning of the sequence.
        eos_token: What the template may write as the end of a turn.
        add_generation_prompt: End with the opening of the assistant's turn.

    Raises:
        ValueError: There is no message, the template refuses the conversation or is broken, or
            there are tools and it does not read them.

    Example:
        >>> print(render([{"role": "user", "content": "Hi"}], None))
        <|im_start|>user
        Hi<|im_end|>
        <|im_start|>assistant
        <BLANKLINE>
    """
    if not messages:
        raise ValueError("messages is empty; a conversation needs at least 1 message")
    try:
        compiled = _compile(template or CHATML)
        text = compiled.template.render(
            messages=[_flat(message) for message in messages],
            tools=list(tools) or None,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as reason:  # a template is foreign code and may raise anything
        raise ValueError(f"the model's chat template failed: {reason}") from reason
    if tools and not compiled.reads_tools:
        raise ValueError(f"tools: there are {len(tools)}, but the model's chat template reads none")
    return text
