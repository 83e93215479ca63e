"""Fixtures of the Python tests."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from ryot_metrics import Engine
from ryot_metrics.serve import create_app
from ryot_metrics.serve.run import bind, in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[Any]:
    """A working engine without a model."""
    with Engine("toy") as engine:
        yield engine


@pytest.fixture
def live() -> Iterator[Callable[[Any], str]]:
    """A function that serves an engine on a free port and gives the URL."""
    with ExitStack() as stack:

        def start(engine: Any) -> str:
            listening = stack.enter_context(bind("127.0.0.1", 0))
            return stack.enter_context(in_background(create_app(engine), listening))

        yield start


@pytest.fixture
def live_server(live: Callable[[Any], str], engine: Any) -> str:
    """The URL of a service on the toy model."""
    return live(engine)


# Python 3.13 wants these extensions.
AUTHORITY = ["-addext", "keyUsage=critical,keyCertSign"]
LEAF = "subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a certificate of it for `localhost` and for a client."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", "ca.key", "-out", "ca.pem"]
    openssl(
        "req", "-x509", *key, *files, "-subj", "/CN=authority", "-days", "2", *AUTHORITY, cwd=folder
    )
    for name, subject in (("server", "/CN=localhost"), ("client", "/CN=scraper")):
        (folder / "extensions").write_text(LEAF)
        files = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
        openssl("req", *key, *files, "-subj", subject, cwd=folder)
        signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        files = ["-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "extensions"]
        openssl("x509", "-req", *signer, *files, cwd=folder)
    return folder
