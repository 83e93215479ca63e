"""The demo."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from ryot_metrics._load import percentile, plan
from ryot_metrics.cli import main


def test_plan_is_mixed() -> None:
    """Eight chats hold one long prompt and one client that hangs up."""
    chats = plan(8)
    assert [len(chat.prompt) > 1500 for chat in chats].count(True) == 1
    assert [chat.cancel_after is not None for chat in chats].count(True) == 1


def test_percentile() -> None:
    """Percentiles are interpolated between measured values."""
    assert percentile([4.0, 1.0, 3.0, 2.0, 5.0], 50) == 3.0
    assert percentile([0.0, 100.0], 95) == pytest.approx(95.0)
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_demo_on_the_toy() -> None:
    """Without a terminal the demo prints a line per chat, the table, and where the metrics are."""
    program = "import sys; from ryot_metrics.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", program, "demo", "--backend", "toy", "--port", "0"]
    out = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    lines = out.splitlines()
    assert sum(line.startswith("chat ") for line in lines) == 8
    assert sum(": done, " in line for line in lines) == 7
    assert sum(": hung up, 8 tokens" in line for line in lines) == 1
    assert "1 cancelled, 7 success" in out
    assert sum("/metrics  " in line for line in lines) == 3
    assert lines[-1].startswith("metrics: http://127.0.0.1:")
    assert "\x1b" not in out


def test_demo_needs_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    """A load without requests is refused before anything is started."""
    assert main(["demo", "--backend", "toy", "--requests", "0"]) == 2
    assert capsys.readouterr().err == "ryot-metrics: error: --requests is 0; at least 1\n"
