"""A client of an engine's Unix socket: frames out, typed events in.

Must not know: the engine. It speaks the protocol of `docs/uds.md` with whatever listens.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ryot_metrics._ryot_metrics import RyotError

HEADER = struct.Struct("<I")
"""A frame's length."""

READ_BYTES = 65_536


class UdsError(RyotError):
    """The server's answer is an error.

    Attributes:
        code: What went wrong, such as `E_PROTO_BAD_REQUEST`.
        id: The request that it is about; None if it is about none.
        retry_after: After about how many seconds another attempt makes sense; None if never.
    """

    def __init__(
        self,
        code: str,
        message: str,
        id: str | int | None = None,  # noqa: A002  the protocol's name
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.id = id
        self.retry_after = retry_after


@dataclass(frozen=True)
class Token:
    """A piece of an answer.

    Attributes:
        id: The request.
        text: The text that became certain; may be empty.
        token_id: The token; None for the text of several.
    """

    id: str | int
    text: str
    token_id: int | None


@dataclass(frozen=True)
class Eos:
    """The end of an answer.

    Attributes:
        id: The request.
        reason: `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: Tokens in the prompt.
        completion_tokens: Tokens in the answer.
        text: What no token before had: all of it for a request that is not streamed.
    """

    id: str | int
    reason: str
    prompt_tokens: int
    completion_tokens: int
    text: str = ""


class Client:
    """A connection to an engine's Unix socket; answers one request at a time.

    Args:
        path: The socket's file.
        timeout: Seconds to wait for the server each time; None waits for ever.

    Raises:
        OSError: If nothing listens there, or it is not allowed.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._ids = itertools.count(1)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(os.fspath(path))
        except OSError as error:
            self._socket.close()
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None

    def metrics(self) -> dict[str, Any]:
        """The engine's scorecard. The server closes the connection after it.

        Raises:
            UdsError: If the server refuses.
        """
        self._send({"event": "metrics"})
        metrics: dict[str, Any] = self._receive()["metrics"]
        return metrics

    def generate(
        self,
        prompt: str,
        *,
        id: str | int | None = None,  # noqa: A002  the protocol's name
        **fields: Any,
    ) -> Answer:
        """Asks for an answer.

        Args:
            prompt: The text to continue.
            id: What the request is called; by default its number on this connection.
            **fields: Further fields of the protocol: `max_tokens`, `temperature`, `top_p`,
                `top_k`, `min_p`, `seed`, `stop`, `stream`, `slo`, `priority`, `user`,
                `deadline_ms`, `adapter`, …

        Returns:
            The answer, whose events are to be taken before the next request.
        """
        name = next(self._ids) if id is None else id
        self._send({"id": name, "prompt": prompt, **fields})
        return Answer(self, name)

    def cancel(self, id: str | int) -> None:  # noqa: A002  the protocol's name
        """Ends a request at the engine's next step. Also from a signal handler or a thread."""
        self._send({"event": "cancel", "id": id})

    def close(self) -> None:
        """Ends the connection, and with it a request that runs."""
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message, ensure_ascii=False).encode()
        try:
            self._socket.sendall(HEADER.pack(len(payload)) + payload)
        except (BrokenPipeError, ConnectionResetError):
            if not self._fill():  # the server's last words, if it had any
                raise

    def _receive(self) -> dict[str, Any]:
        """The next event; what the server calls an error is raised."""
        length = HEADER.size
        while len(self._buffer) < length or len(self._buffer) < (length := self._length()):
            if not self._fill():
                raise ConnectionError("the server closed the connection")
        event: dict[str, Any] = json.loads(self._buffer[HEADER.size : length])
        del self._buffer[:length]
        if event.pop("event") == "error":
            raise UdsError(**event)
        return event

    def _length(self) -> int:
        return HEADER.size + int(HEADER.unpack_from(self._buffer)[0])

    def _fill(self) -> bool:
        read = self._socket.recv(READ_BYTES)
        self._buffer += read
        return bool(read)


class Answer(Iterator["Token | Eos"]):
    """The events of one request: tokens, and an `Eos` as the last.

    The text of all of them, one after the other, is the answer.
    """

    def __init__(self, client: Client, id: str | int) -> None:  # noqa: A002
        self.id = id
        self._client = client
        self._ended = False

    def __next__(self) -> Token | Eos:
        """The next event.

        Raises:
            UdsError: If the request was refused, or failed on the way.
        """
        if self._ended:
            raise StopIteration
        fields = self._client._receive()
        if "reason" not in fields:
            return Token(**fields)
        self._ended = True
        return Eos(**fields)

    def cancel(self) -> None:
        """Ends it at the engine's next step; what was produced, and the end, still come."""
        self._client.cancel(self.id)
