"""Who may use the service: keys, pages of other origins, and how long a prompt may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ryot_metrics.serve import create_app
from ryot_metrics.serve.auth import VARIABLE, read_keys

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["first-key", "second-key"]
BODY = {"prompt": "p", "max_tokens": 1}


def client_of(engine: Any, **options: Any) -> httpx.AsyncClient:
    """A client that calls the application directly."""
    transport = httpx.ASGITransport(create_app(engine, **options))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "first-key",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-key2",
        "Bearer FIRST-KEY",
        "Basic first-key",
        "Bearer é",
    ],
)
async def test_a_wrong_key_is_refused(engine: Any, sent: str | None) -> None:
    """Without one of the keys everything but the open routes is 401, in OpenAI's shape."""
    headers = {} if sent is None else {"Authorization": sent.encode()}
    async with client_of(engine, api_keys=KEYS) as client:
        for response in (
            await client.post("/v1/completions", json=BODY, headers=headers),
            await client.get("/v1/models", headers=headers),
            await client.get("/docs", headers=headers),
            await client.get("/none", headers=headers),
        ):
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")


@pytest.mark.asyncio
@pytest.mark.parametrize("sent", ["Bearer first-key", "Bearer second-key", "bearer first-key"])
async def test_each_key_is_enough(engine: Any, sent: str) -> None:
    """Every key opens the service."""
    async with client_of(engine, api_keys=KEYS) as client:
        response = await client.post("/v1/completions", json=BODY, headers={"Authorization": sent})
    assert response.status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("protected", [False, True])
async def test_open_routes(engine: Any, protected: bool) -> None:
    """/health never needs a key, the metrics and their page only if they are protected."""
    async with client_of(engine, api_keys=KEYS, protect_metrics=protected) as client:
        paths = ("/health", "/metrics", "/dashboard")
        statuses = [(await client.get(path)).status_code for path in paths]
    assert statuses == [200, 401, 401] if protected else [200, 200, 200]


def test_keys_come_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's, the file's and the environment's keys all count."""
    file = tmp_path / "keys"
    file.write_text("# ours\n\n  one \ntwo\n")
    monkeypatch.setenv(VARIABLE, "three")
    assert read_keys(["zero"], str(file)) == ["zero", "one", "two", "three"]
    monkeypatch.delenv(VARIABLE)
    assert read_keys() == []


def test_bad_keys_are_refused_unnamed(tmp_path: Path) -> None:
    """An unusable key is an error, which does not show it; so is a file without a key."""
    for key in ("", " secret", "sécret"):
        with pytest.raises(ValueError, match="an API key must be ASCII") as error:
            read_keys([key])
        assert "cret" not in str(error.value)
    file = tmp_path / "keys"
    file.write_text("# none\n")
    with pytest.raises(ValueError, match="0 keys; at least 1 is needed"):
        read_keys(file=str(file))


@pytest.mark.asyncio
async def test_other_origins_are_shut_out(engine: Any) -> None:
    """By default no page of another origin may call; a named one may, also without a key yet."""
    ask = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    allowed = "access-control-allow-origin"
    async with client_of(engine) as client:
        assert (await client.options("/v1/completions", headers=ask)).status_code == 405
        response = await client.get("/v1/models", headers=ask)
        assert allowed not in response.headers
    async with client_of(engine, cors_origins=["http://page"], api_keys=KEYS) as client:
        assert (await client.options("/v1/completions", headers=ask)).status_code == 200
        refused = await client.post("/v1/completions", json=BODY, headers=ask)
        assert (refused.status_code, refused.headers[allowed]) == (401, "http://page")
        other = await client.post("/v1/completions", headers={**ask, "Origin": "http://other"})
        assert allowed not in other.headers


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "fits", "long"),
    [
        ("/v1/completions", {"prompt": "x" * 40}, {"prompt": "x" * 41}),
        ("/v1/completions", {"prompt": [5] * 40}, {"prompt": ["x", "x" * 41]}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "u", "content": ""}]},
            {"messages": [{"role": "u", "content": "x" * 9}]},
        ),
    ],
)
async def test_the_longest_prompt(engine: Any, path: str, fits: Any, long: Any) -> None:
    """A prompt up to the limit is answered; one token more is 400, with both numbers."""
    async with client_of(engine, max_prompt_tokens=50 if "chat" in path else 40) as client:
        assert (await client.post(path, json={**fits, "max_tokens": 1})).status_code == 200
        response = await client.post(path, json={**long, "max_tokens": 1})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "allowed (max_prompt_tokens)" in error["message"]


def test_a_limit_of_nothing_is_refused(engine: Any) -> None:
    """A limit below one token is an error that names it."""
    with pytest.raises(ValueError, match="max_prompt_tokens is 0; it must be at least 1"):
        create_app(engine, max_prompt_tokens=0)
