"""Tool calls in what a model writes, in the form that most small models were trained on.

Hermes, Qwen and SmolLM write `<tool_call>{"name": …, "arguments": {…}}</tool_call>`. Whatever else
a model writes, broken calls too, stays text: nothing of an answer is lost. Must not know HTTP.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


class ToolCalls:
    """Takes an answer's text piece by piece, and tells text from calls.

    Example:
        >>> calls = ToolCalls()
        >>> calls.feed('Let me see. <tool')
        ('Let me see. ', [])
        >>> text, found = calls.feed('_call>{"name": "now", "arguments": {}}</tool_call>')
        >>> text, found[0]["function"]
        ('', {'name': 'now', 'arguments': '{}'})
        >>> calls.end()
        ''
    """

    def __init__(self) -> None:
        self.count = 0
        self._held = ""

    def feed(self, piece: str) -> tuple[str, list[dict[str, Any]]]:
        """The text and the calls that are certain now; the rest is held back."""
        self._held += piece
        text, found = "", []
        while True:
            before, tag, rest = self._held.partition(OPEN)
            if not tag:
                certain = len(self._held) - _overlap(self._held)
                text, self._held = text + self._held[:certain], self._held[certain:]
                break
            inside, closed, after = rest.partition(CLOSE)
            text, self._held = text + before, tag + rest
            if not closed:
                break
            self._held = after
            if (call := self._parsed(inside)) is not None:
                found.append(call)
            else:
                text += tag + inside + closed
        # Models put line breaks between calls, which are no text of the answer.
        return ("" if self.count and not text.strip() else text), found

    def end(self) -> str:
        """What was held back: a call that was never closed is text."""
        held, self._held = self._held, ""
        return held

    def _parsed(self, inside: str) -> dict[str, Any] | None:
        try:
            call = json.loads(inside)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        if not isinstance(name, str):
            return None
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        self.count += 1
        return {
            "index": self.count - 1,
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }


def _overlap(text: str) -> int:
    """How much of the text's end may be the beginning of a call."""
    sizes = range(min(len(OPEN) - 1, len(text)), 0, -1)
    return next((size for size in sizes if OPEN.startswith(text[-size:])), 0)
