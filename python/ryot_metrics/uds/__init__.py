"""An engine's Unix socket: the server, and a client of it.

The protocol is described in `docs/uds.md`. The server answers from a native thread; the client is
plain Python and needs no other module of this package.

Example:
    >>> import tempfile
    >>> from ryot_metrics import Engine
    >>> from ryot_metrics.uds import Client, serve_uds
    >>> with tempfile.TemporaryDirectory() as home, Engine("toy") as engine:
    ...     with serve_uds(engine, f"{home}/engine.sock"), Client(f"{home}/engine.sock") as client:
    ...         pieces = list(client.generate("hello", max_tokens=3))
    >>> len(pieces), pieces[-1].reason
    (4, 'length')
"""

from ryot_metrics.uds.client import Answer, Client, Eos, Token, UdsError
from ryot_metrics.uds.server import UdsServer, serve_uds

__all__ = ["Answer", "Client", "Eos", "Token", "UdsError", "UdsServer", "serve_uds"]
