"""Where the NATS server is, and how it lets one in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ryot_metrics.fleet.names import NATS

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class NatsServer:
    """A NATS server; a URL alone may stand wherever one is wanted.

    It lets one in by user and password, by a token, or by the credentials of a file; what is
    secret is neither in its `repr` nor in a log or error.

    Attributes:
        url: `nats://127.0.0.1:4222`, or `tls://` to insist on TLS. User and password, or a token,
            may stand before an `@`.
        user: The user, with a password.
        password: The password of the user.
        token: A token in place of both.
        credentials: A file with a user's JWT and the seed of its key, as `nsc` writes it.
        tls: Whether to insist on TLS.
        ca: A PEM file with the authorities that the server's certificate may come from, beside
            those of the system.
        certificate: A PEM file with the client's own certificate.
        key: A PEM file with its key.

    Example:
        >>> NatsServer("nats://me:secret@127.0.0.1:4222", user="me", password="secret")
        NatsServer(user='me', credentials=None, tls=False, ca=None, certificate=None, key=None)
    """

    url: str = field(default=NATS, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | os.PathLike[str] | None = None
    tls: bool = False
    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, server: str | NatsServer) -> NatsServer:
        """The server, from itself or from its URL."""
        return server if isinstance(server, NatsServer) else cls(server)
