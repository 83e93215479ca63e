"""The pytest plugin: isolation, the clock, what assertions accept, and how they fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ryot_metrics import Engine, InferenceContext, SamplingParams, client, track_inference_request
from ryot_metrics.testing import isolated

ROOT = Path(__file__).parents[2]
REQUESTS = "ryot_inference_requests_total"
TTFT = "ryot_ttft_latency_seconds"


@pytest.fixture
def metrics():
    with isolated() as metrics:
        yield metrics


def run_pytest(*arguments, cwd, **environment):
    """A pytest run in a process of its own, that finds our package but no settings of ours."""
    paths = os.pathsep.join([environment.pop("path", ""), str(ROOT / "python")]).lstrip(os.pathsep)
    env = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"} | environment
    options = ["-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function"]
    line = [sys.executable, "-m", "pytest", *options, "--rootdir", cwd, *arguments]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_example_suite_passes(tmp_path):
    """The suite in `examples/` runs green under plain pytest."""
    example = tmp_path / "test_service.py"
    example.write_text((ROOT / "examples" / "test_service.py").read_text())
    done = run_pytest("-p", "pytest_ryot_metrics", "-W", "error", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_installed_plugin_loads_by_itself_and_imports_nothing(tmp_path):
    """As an installed entry point it gives the fixture, and runs without it load none of us."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("[project.entry-points.pytest11]")
    installed = tmp_path / "site" / "ryot_metrics_plugin-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    entry = lines[start + 1].replace('"', "")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{entry}\n")
    (tmp_path / "test_plain.py").write_text(
        "import sys\n"
        "def test_plain():\n"
        "    assert 'pytest_ryot_metrics' in sys.modules\n"
        "    assert 'ryot_metrics' not in sys.modules\n"
        "def test_used(ryot_metrics):\n"
        "    assert ryot_metrics.clock.now_ns == 0\n"
    )
    done = run_pytest("-W", "error", cwd=tmp_path, path=str(tmp_path / "site"))
    assert "2 passed" in done.stdout, done.stdout + done.stderr


ASYNCHRONOUS = """
import asyncio
import pytest
from ryot_metrics import track_inference_request

@track_inference_request(model="m")
async def answer():
    await asyncio.sleep(0)

@pytest.mark.asyncio
@pytest.mark.parametrize("calls", range(1, 9))
async def test_answer(ryot_metrics, calls):
    await asyncio.gather(*(answer() for _ in range(calls)))
    ryot_metrics.assert_metric("ryot_inference_requests_total", {"model": "m"}, delta=calls)
"""


def test_with_asyncio_and_xdist(tmp_path):
    """Under pytest-asyncio and two workers of pytest-xdist, each test sees its own requests."""
    (tmp_path / "test_asynchronous.py").write_text(ASYNCHRONOUS)
    done = run_pytest("-p", "pytest_ryot_metrics", "-n", "2", "-W", "error", cwd=tmp_path)
    assert "8 passed" in done.stdout, done.stdout + done.stderr


FAILING = """
from ryot_metrics import InferenceContext

def test_fails(ryot_metrics):
    with InferenceContext("m") as context:
        ryot_metrics.clock.advance(ms=250)
        context.token()
    ryot_metrics.assert_metric(
        "ryot_inference_requests_total", {"model": "m", "status": "error"}, delta=1
    )
"""


def test_failure_is_readable(tmp_path):
    """The text of a failure in pytest's report, line by line."""
    (tmp_path / "test_failing.py").write_text(FAILING)
    done = run_pytest("-p", "pytest_ryot_metrics", cwd=tmp_path)
    assert done.returncode == 1
    shown = [line[8:] for line in done.stdout.splitlines() if line.startswith("E   ")]
    name = REQUESTS
    assert [line.rstrip() for line in shown[:8]] == [
        f'AssertionError: {name}{{model="m", status="error"}}',
        "  delta: expected 1, found 0",
        "",
        "nearest samples:",
        f'  {name}{{model="m", status="error"}}  value 0, delta 0',
        f'  {name}{{model="m", status="success"}}  value 1, delta 1'
        '  <- status="success" is not "error"',
        f'  {name}{{model="m", status="timeout"}}  value 0, delta 0'
        '  <- status="timeout" is not "error"',
        f'  {name}{{model="m", status="partial"}}  value 0, delta 0'
        '  <- status="partial" is not "error"',
    ]
    table = [line.split() for line in shown[shown.index("changed during the test:") + 1 :]]
    assert table[0] == ["sample", "before", "after", "delta"]
    assert [f'{name}{{model="m",', 'status="success"}', "-", "1", "+1"] in table
    assert ['ryot_inference_ttft_seconds_sum{model="m"}', "-", "0.25", "+0.25"] in table
    assert "_failure.py" not in done.stdout  # the traceback ends in the test


def failure(metrics, *arguments, **wanted):
    with pytest.raises(AssertionError) as raised:
        metrics.assert_metric(*arguments, **wanted)
    return str(raised.value)


def test_typo_in_a_name(metrics):
    """A name that does not exist fails even for a delta of 0, and the likely one is named."""
    failure(metrics, "ryot_inference_requests", delta=0)  # a family's name is no sample's
    text = failure(metrics, "ryot_inference_request_total", delta=0)
    assert "delta: expected 0, found no such sample" in text
    assert "nearest names:\n  ryot_inference_requests_total (nothing was recorded)" in text
    assert text.endswith("changed during the test:\n  nothing")


def test_typo_in_a_label(metrics):
    """A label that the family does not have fails even for a delta of 0."""
    with InferenceContext("m"):
        pass
    text = failure(metrics, REQUESTS, {"modell": "m"}, delta=0)
    assert "no label modell; it has" in text
    metrics.assert_metric(REQUESTS, {"model": "other"}, delta=0)


def test_delta_of_a_histogram(metrics):
    """Who asks a histogram for a delta is told what it has."""
    with InferenceContext("m") as context:
        context.token()
    assert "ask for its count or its sum" in failure(metrics, TTFT, {"model": "m"}, delta=1)


def test_children_with_the_labels_are_summed(metrics):
    """Labels left out are summed over."""
    for model in ("a", "a", "b"):
        with InferenceContext(model):
            pass
    metrics.assert_metric(REQUESTS, delta=3)
    metrics.assert_metric(REQUESTS, {"model": "a"}, delta=2, value=2)
    metrics.assert_metric(REQUESTS, {"status": "success"}, delta=pytest.approx(3))
    metrics.assert_metric(TTFT, {"model": "a"}, count=0, sum=0)


def test_absent(metrics):
    """A child that nobody made is absent; one at zero is there."""
    metrics.assert_metric(REQUESTS, {"model": "m"}, absent=True)
    with InferenceContext("m"):
        pass
    text = failure(metrics, REQUESTS, {"model": "m", "status": "error"}, absent=True)
    assert "is there, with the value 0; it must be absent" in text


@pytest.mark.parametrize("wanted", [{}, {"absent": True, "delta": 0}])
def test_nothing_asserted(metrics, wanted):
    """An assertion of nothing, or of contradictions, is a mistake in the test."""
    with pytest.raises(TypeError, match="takes delta, value, count, sum, or absent=True alone"):
        metrics.assert_metric(REQUESTS, **wanted)


def test_clock_counts_integers(metrics):
    """Units add up exactly; the clock does not go back."""
    metrics.clock.advance(seconds=3, ms=2, us=1, ns=9)
    metrics.clock.advance(ms=0.5)
    assert metrics.clock.now_ns == 3_002_501_009
    with pytest.raises(ValueError, match="told to move by -1 ns"):
        metrics.clock.advance(ns=-1)


def test_metrics_of_the_default_registry():
    """A metric made before the test counts from the test's beginning; its value stays its own."""
    jobs = client.Counter("testing_jobs", "J.", ["queue"])
    wait = client.Histogram("testing_wait", "W.")
    try:
        jobs.labels("mail").inc(5)
        wait.observe(1)
        with isolated() as metrics:
            metrics.assert_metric("testing_jobs_total", {"queue": "mail"}, delta=0, value=5)
            jobs.labels("mail").inc(2)
            wait.observe(3)
            metrics.assert_metric("testing_jobs_total", {"queue": "mail"}, delta=2, value=7)
            metrics.assert_metric("testing_wait", count=1, sum=3)
            assert ("testing_jobs_total", {"queue": "mail"}, 5, 7) in metrics.changes()
    finally:
        client.REGISTRY.unregister(jobs)
        client.REGISTRY.unregister(wait)


def test_engine_from_before_is_seen():
    """What an engine of the whole session records during the test is part of the deltas."""
    with Engine("toy", name="session") as engine:
        engine.generate("before", SamplingParams(max_tokens=3))
        with isolated() as metrics:
            metrics.assert_metric(REQUESTS, {"model": "session"}, absent=True)
            engine.generate("inside", SamplingParams(max_tokens=3))
            metrics.assert_metric(REQUESTS, {"model": "session"}, delta=1, value=1)


def test_threads_and_tasks(metrics):
    """Requests of every thread and task record here, exactly."""

    @track_inference_request(model="m")
    def work():
        return None

    @track_inference_request(model="m")
    async def wait():
        await asyncio.sleep(0)

    async def tasks():
        await asyncio.gather(*(wait() for _ in range(20)))

    threads = [threading.Thread(target=lambda: [work() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(tasks())
    for thread in threads:
        thread.join()
    metrics.assert_metric(REQUESTS, {"model": "m", "status": "success"}, delta=220)
    assert 'ryot_inference_requests_total{model="m",status="success"} 220.0' in metrics.page()


def test_tests_share_nothing(metrics):
    """Nothing of the other tests here is in the isolated catalogue."""
    assert metrics.changes() == []
