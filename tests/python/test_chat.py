"""Chat templates: the text that Hugging Face's rendering gives, and no way out of the sandbox."""

from __future__ import annotations

from typing import Any

import pytest

from ryot_metrics.chat import render

USER = [{"role": "user", "content": "Hi"}]

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


def test_real_template() -> None:
    """SmolLM2's own template puts its system message in front of the conversation."""
    assert render(USER, SMOLLM2) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_chatml_without_a_template() -> None:
    """A model without a template gets ChatML, every turn closed and the next one opened."""
    messages = [{"role": "system", "content": "Be brief."}, *USER]
    assert render(messages, None) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(USER, None, add_generation_prompt=False).endswith("Hi<|im_end|>\n")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("one", "one"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ([], ""),
        (None, ""),
    ],
)
def test_content(content: Any, text: str) -> None:
    """Content is a string, or parts that are joined by line breaks."""
    template = "{{ messages[0]['content'] }}"
    assert render([{"role": "user", "content": content}], template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ bos_token }}x{{ eos_token }}", "<s>x</s>"),
        ("  {% if true %}\nx\n  {% endif %}\n", "x\n"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Hi!"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ unknown }}x", "x"),
    ],
    ids=["tokens", "trimmed", "break", "json", "indent", "generation", "clock", "undefined"],
)
def test_helpers(template: str, text: str) -> None:
    """A template finds the settings and helpers that Hugging Face gives it."""
    assert render(USER, template, bos_token="<s>", eos_token="</s>") == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate str"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10000000) %}x{% endfor %}", "Range too big"),
    ],
    ids=["refused", "syntax", "type", "mutation", "escape", "bomb"],
)
def test_failure_has_its_reason(template: str, reason: str) -> None:
    """A template that refuses, is broken or leaves the sandbox is a ValueError with the reason."""
    with pytest.raises(ValueError, match=reason):
        render(USER, template)


def test_empty_conversation() -> None:
    """No message is an error, whatever the template would make of it."""
    with pytest.raises(ValueError, match="messages is empty"):
        render([], None)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLED = [
    {"role": "user", "content": "Weather in Bern?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]

CHATML_WITH_TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)

INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def test_tools_in_chatml() -> None:
    """Tools, a call with its arguments as an object, and its answer, as Hermes and Qwen have it."""
    assert render(CALLED, CHATML_WITH_TOOLS, tools=TOOLS) == (
        "<|im_start|>system\n# Tools\n<tools>\n"
        '{"type": "function", "function": {"name": "weather", "description": "The weather of a '
        'city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}'
        "\n</tools><|im_end|>\n"
        "<|im_start|>user\nWeather in Bern?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}'
        "\n</tool_call><|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_no_tools_are_none() -> None:
    """Without tools a template that asks for them sees none."""
    assert render(USER, CHATML_WITH_TOOLS) == render(USER, None)


def test_llama_3() -> None:
    """Headers, trimmed contents, and the beginning of the sequence."""
    assert render([{"role": "user", "content": " Hi "}], LLAMA_3, bos_token="<B>") == (
        "<B><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_instruct() -> None:
    """Turns in [INST], the end of each answer, and a refusal of turns out of order."""
    turns = [*USER, {"role": "assistant", "content": "Hello"}, *USER]
    assert render(turns, INSTRUCT, bos_token="<s>", eos_token="</s>") == (
        "<s>[INST] Hi [/INST] Hello</s>[INST] Hi [/INST]"
    )
    with pytest.raises(ValueError, match="roles must alternate"):
        render([*USER, *USER], INSTRUCT)


def test_tools_that_nobody_reads() -> None:
    """A template that does nothing with tools is an error, rather than a model without them."""
    with pytest.raises(ValueError, match="tools: there are 1, but the model's chat template reads"):
        render(USER, LLAMA_3, tools=TOOLS)


@pytest.mark.parametrize("arguments", ["{", "é"])
def test_broken_arguments(arguments: str) -> None:
    """Arguments of an earlier call that are no JSON are an error with the reason."""
    calls = [{"function": {"name": "weather", "arguments": arguments}}]
    turns = [{"role": "assistant", "content": "", "tool_calls": calls}]
    with pytest.raises(ValueError, match="chat template failed: Expecting"):
        render(turns, CHATML_WITH_TOOLS)
