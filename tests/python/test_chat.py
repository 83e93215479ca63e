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
