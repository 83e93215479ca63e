"""Reading an answer from its bytes as they pass, without changing or keeping them.

Of a stream of server-sent events only the lines `data:` are looked at. Their JSON is parsed until
the first token has come and where an end, an error or a usage stands in it; each other line is one
token, unparsed. Of any other answer the last bytes are kept, where the usage stands, and why the
answer ended.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import Any, Protocol

from ryot_metrics.instrument._answer import read_usage, reader_of
from ryot_metrics.instrument._call import Call

TAIL_BYTES = 65_536
"""How much of the end of an answer is searched for its usage."""

_TRUNCATED = re.compile(
    rb'"finish_reason"\s*:\s*"length"'
    rb'|"incomplete_details"\s*:\s*\{\s*"reason"\s*:\s*"max_output_tokens"'
)
_NOTABLE = re.compile(rb'"(?:usage|error|finish_reason)"\s*:\s*[^\sn]')


class Meter(Protocol):
    """Takes the bytes of an answer."""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""

    def close(self) -> None:
        """There are no more bytes."""


class Events:
    """Reads server-sent events.

    Args:
        call: What is told.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._reader = reader_of(call.endpoint)
        self._names_tokens = call.endpoint.endswith("/responses")
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, which may begin and end within a line."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def close(self) -> None:
        """The last line may lack its end."""
        self.feed(b"\n")

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._call.end()
        elif self._is_plain_token(data):
            self._call.token()
        else:
            self._reader(self._call, json.loads(data))

    def _is_plain_token(self, data: bytes) -> bool:
        if self._names_tokens:
            return b'.delta"' in data
        return self._call.tokens > 0 and _NOTABLE.search(data) is None


class Tail:
    """Keeps the end of an answer and finds its usage there, and whether it was cut off.

    Args:
        call: What is told.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def close(self) -> None:
        """Reads them, without parsing the rest."""
        # In a string of the answer these quotes would be escaped, so these are keys.
        self._call.truncated = _TRUNCATED.search(self._tail) is not None
        start = self._tail.rfind(b'"usage"')
        if start >= 0:
            text = self._tail[start + 7 :].decode(errors="replace").lstrip(" \t\r\n:")
            usage: Any = json.JSONDecoder().raw_decode(text)[0]
            read_usage(self._call, {"usage": usage})


class Unzipped:
    """Reads a compressed answer; the bytes that pass stay compressed.

    Args:
        meter: What takes the bytes in clear.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its head

    def feed(self, data: bytes) -> None:
        """Takes the next compressed bytes."""
        self._meter.feed(self._decoder.decompress(data))

    def close(self) -> None:
        """There are no more bytes."""
        self._meter.close()


def meter_of(call: Call, content_type: str, encoding: str) -> Meter | None:
    """What reads an answer of this type; None if its compression is not known here."""
    events = content_type.startswith("text/event-stream")
    meter: Meter = Events(call) if events else Tail(call)
    if encoding in ("", "identity"):
        return meter
    return Unzipped(meter) if encoding in ("gzip", "deflate") else None
