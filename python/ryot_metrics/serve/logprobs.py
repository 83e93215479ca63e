"""Log-probabilities of tokens, in the two forms of OpenAI's API. Must not know how they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ryot_metrics.completion import Chunk, Logprob, TokenLogprobs

LOWEST = -9999.0
"""What stands for a probability of zero, whose logarithm JSON cannot write."""


def of_chat(chunks: Iterable[Chunk]) -> dict[str, Any] | None:
    """The `logprobs` of a chat's choice; None if they were not asked for."""
    content = []
    for place in _places(chunks):
        tops = [_entry(top) for top in place.top]
        content.append({**_entry(place.drawn), "top_logprobs": tops})
    return {"content": content, "refusal": None} if content else None


def of_completion(chunks: Iterable[Chunk], offset: int) -> dict[str, Any] | None:
    """The `logprobs` of a completion's choice; None if they were not asked for.

    Args:
        chunks: What was written.
        offset: Where in the text it begins, in characters.
    """
    places = _places(chunks)
    if not places:
        return None
    texts = [place.drawn.text for place in places]
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return {
        "tokens": texts,
        "token_logprobs": [_finite(place.drawn) for place in places],
        "top_logprobs": [
            {one.text: _finite(one) for one in (*place.top, place.drawn)} for place in places
        ],
        "text_offset": offsets,
    }


def _places(chunks: Iterable[Chunk]) -> Sequence[TokenLogprobs]:
    return [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]


def _entry(one: Logprob) -> dict[str, Any]:
    return {"token": one.text, "logprob": _finite(one), "bytes": list(one.bytes)}


def _finite(one: Logprob) -> float:
    return max(one.logprob, LOWEST)
