"""A short form of `tests/benches/soak.py`, and what happens where more is asked than fits."""

from dataclasses import replace

import pytest
from rich.console import Console

import soak
from ryot_metrics import Engine, EngineConfig, SamplingParams
from soak_client import Seen


@pytest.mark.parametrize(("model", "seconds"), [("toy", 5), ("smollm2-135m", 20)])
def test_nothing_is_lost_or_left_under_pressure(model, seconds):
    """Sixteen clients ask for twice the context; all counts agree, and nothing is left."""
    report = soak.soak(model, seconds, ctx_size=512, threads=1)
    assert [check for check in report.checks if not check[2]] == []
    assert report.pressure > 1.5
    assert report.seen.requests("length") > 0


def test_a_difference_is_found():
    """A token, a request or an error too many breaks the check that is for it."""
    seen = Seen()
    seen.ended["whole", "length"] = 1
    seen.ended["dropped", "dropped"] = 1
    seen.tokens.update(streaming=5, standard=2, prompt=7)
    seen.unseen["standard"] = 3
    figures = dict.fromkeys([*soak.FIGURES, "streaming", "standard", "prompt"], 0.0)
    figures |= {"success": 1.0, "cancelled": 1.0, "streaming": 5.0, "standard": 4.0, "prompt": 7.0}
    stats = {"running": 0, "waiting": 0, "used_cells": 0}
    cached = [min(10 * at, 16_000 + at % 300) for at in range(0, 3000, 10)]
    memory = [
        soak.Sample(10 * index, 1000.0 + kib, kib << 10, 100 * index)
        for index, kib in enumerate(cached)
    ]

    def broken(seen=seen, figures=figures, stats=stats, memory=memory):
        report = soak.Report(seen, memory, 2.0, stats, figures)
        for table in soak.tables(report):
            Console(quiet=True).print(table)
        return [name for name, _, holds in soak.checks(report, 1_000) if not holds]

    assert broken() == []
    assert broken(figures=figures | {"streaming": 6.0}) == ["tokens of answers"]
    assert broken(figures=figures | {"standard": 6.0}) == ["tokens of dropped answers"]
    assert broken(figures=figures | {"success": 3.0}) == ["requests: success", "requests: all"]
    assert broken(stats=stats | {"used_cells": 1}) == ["used_cells at the end"]
    leaking = [replace(one, kib=one.kib + 10 * one.at) for one in memory]
    assert broken(memory=leaking) == ["memory beside a full cache"]
    filling = [replace(one, kib=one.kib + 50 * min(one.at, 800)) for one in memory]
    assert broken(memory=filling) == []
    assert broken(memory=[replace(one, host_bytes=0) for one in leaking]) == []
    failed = Seen()
    failed.add(seen)
    failed.faults["whole: error"] = 1
    assert broken(seen=failed) == ["nothing unexpected"]


def test_twice_the_context_is_answered_whole():
    """Sixteen requests that need 1,024 cells together all end as asked in a context of 512."""
    params = SamplingParams(max_tokens=32, temperature=0, ignore_eos=True)
    with Engine("smollm2-135m", EngineConfig(ctx_size=512, parallel=16, threads=1)) as engine:
        words = engine.tokenize(" The weather was mild and the streets were quiet." * 8)
        prompts = [[*engine.tokenize(f"Day {day}."), *words][:32] for day in range(16)]
        answers = engine.generate(prompts, params)
        stats = engine.stats()
    assert {len(prompt) for prompt in prompts} == {32}
    ended = {(one.finish_reason, one.token_count, one.error) for one in answers}
    assert ended == {("length", 32, None)}
    assert (stats["running"], stats["waiting"], stats["used_cells"]) == (0, 0, 0)
