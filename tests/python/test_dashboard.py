"""The live page as it is served: apps, policy, arguments, colours, names of samples."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ryot_metrics import catalogue, dashboard
from ryot_metrics.dashboard import make_dashboard_app, make_dashboard_wsgi_app, mount_dashboard
from ryot_metrics.middleware.routes import DEFAULT_EXCLUDE


def contrast(first: str, second: str) -> float:
    """WCAG's contrast of two colours `#rrggbb`."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(luminance(color) for color in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def test_lines_stand_out() -> None:
    """Each line's colour has WCAG's 3:1 for graphics on the card, in both schemes."""
    style = (Path(dashboard.__file__).parent / "page.css").read_text()
    colors = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    cards = next((light, dark) for name, light, dark in colors if name == "card")
    lines = [pair for name, *pair in colors if re.fullmatch(r"p\d+|c\d", name)]
    assert len(lines) == 11
    for pair in lines:
        for color, card in zip(pair, cards, strict=True):
            assert contrast(color, card) >= 3, (color, card)


def test_every_sample_is_of_the_catalogue() -> None:
    """The page asks for no name that the catalogue does not have."""
    script = (Path(dashboard.__file__).parent / "samples.js").read_text()
    asked = set(re.findall(r"^  (\w+): \"\w*\",$", script, re.MULTILINE))
    known = {name for family in catalogue.families() for name in family.samples}
    assert asked - known == {"process_start_time_seconds"}
    assert len(asked) > 15


def call_asgi(app: Any, method: str) -> httpx.Response:
    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, "/")

    return asyncio.run(call())


def call_wsgi(app: Any, method: str) -> httpx.Response:
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://test") as client:
        return client.request(method, "/")


@pytest.mark.parametrize(
    ("call", "make"), [(call_asgi, make_dashboard_app), (call_wsgi, make_dashboard_wsgi_app)]
)
def test_plain_apps(call: Any, make: Any) -> None:
    """ASGI and WSGI give the same page with a policy that allows this page only."""
    app = make("/app/metrics?a=1&b='\"", interval=5)
    answer = call(app, "GET")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    assert 'data-metrics="/app/metrics?a=1&amp;b=&#x27;&quot;" data-interval="5"' in answer.text
    assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert len(answer.content) == int(answer.headers["content-length"])
    assert call(app, "HEAD").content == b""
    assert call(app, "HEAD").headers["content-length"] == answer.headers["content-length"]
    assert call(app, "POST").status_code == 405


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "dashboard"}, "path is 'dashboard'"),
        ({"metrics_path": "metrics"}, "metrics_path is 'metrics'"),
        ({"interval": 0.05}, "interval is 0.05; it must be from 0.1 to 60 seconds"),
        ({"interval": math.nan}, "interval is nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    """What cannot work is refused by its value and the limit."""
    with pytest.raises(ValueError, match=re.escape(words)):
        mount_dashboard(FastAPI(), **arguments)


@pytest.mark.parametrize("url", ["//evil.example/", "https://evil.example/", "/\\evil", ""])
def test_metrics_of_another_server(url: str) -> None:
    """The page reads its own server only, and says so instead of showing nothing."""
    with pytest.raises(ValueError, match="must be a path on this server"):
        make_dashboard_app(url)


def test_is_no_request_of_the_service() -> None:
    """The middlewares leave the live page out of what they measure, as the metrics page."""
    assert {"/metrics", "/dashboard"} <= set(DEFAULT_EXCLUDE)
