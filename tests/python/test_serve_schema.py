"""Schemathesis asks the service what its OpenAPI document allows, and what it forbids.

It runs in a process of its own, against a service on a socket: its imports and pytest's settings
are not made for each other. It has one worker, since Python 3.11's `ast` fails now and then when
several threads of it parse.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ryot_metrics import Engine, EngineConfig

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.mark.timeout(600)
def test_schemathesis(live: Callable[[Any], str], tmp_path: Path) -> None:
    """No 5xx, and every answer is as documented, for seeded good and bad requests of each route."""
    with Engine("toy", EngineConfig(ctx_size=128, parallel=16, max_queue=1024)) as engine:
        url = live(engine)
        command = [Path(sys.executable).with_name("schemathesis"), "run", f"{url}/openapi.json"]
        options = ["--seed", "1", "--max-examples", "8", "--phases", "examples,coverage,fuzzing"]
        options += ["--checks", ",".join(CHECKS), "--no-color"]
        options += ["--generation-database", "none", "--request-timeout", "60"]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Tested" in done.stdout
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
