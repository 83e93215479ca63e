"""`InferenceContext`, sync and async."""

import asyncio
import logging

import pytest

from page import changes
from ryot_metrics import InferenceContext

TOKENS = "ryot_tokens_generated_total"


def test_the_documented_loop_counts_each_token_once():
    """`set_token_count(context.token_count + 1)` for each of 10 tokens counts 10."""
    with changes() as change, InferenceContext(model="loop") as context:
        context.set_token_count(0)
        for _ in range(10):
            context.set_token_count(context.token_count + 1)
            context.record_inter_token_latency(0.02)
    assert change.sum(TOKENS, model="loop") == 10
    assert change.sum("ryot_tokens_per_request_sum", model="loop") == 10
    name = "ryot_inference_inter_token_latency_seconds_sum"
    assert change.sum(name, model="loop") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "success"),
        (ValueError(), "error"),
        (TimeoutError(), "timeout"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_block_s_end_is_the_status(error, status, asynchronous):
    """However the block is left, it is one request of that status."""
    context = InferenceContext(model="block", endpoint="/e")

    def body():
        assert context.status is None
        assert context.start_time > 0
        if error:
            raise error

    async def run():
        async with context:
            body()

    def run_sync():
        with context:
            body()

    with changes() as change:
        try:
            asyncio.run(run()) if asynchronous else run_sync()
        except BaseException as raised:
            assert type(raised) is type(error)
    assert context.status == status
    assert change.statuses("block") == {status: 1}
    assert change.sum("ryot_active_inference_requests", model="block") == 0


def test_an_error_after_a_token_is_partial():
    """A stream in a context that breaks off has the status partial."""
    with (
        changes() as change,
        pytest.raises(ValueError, match="x"),
        InferenceContext(model="p") as context,
    ):
        context.token()
        raise ValueError("x")
    assert change.statuses("p") == {"partial": 1}


def test_queue_wait_is_from_queued_to_scheduled():
    """`queued` raises the depth, `scheduled` lowers it and records the wait."""
    with changes() as change, InferenceContext(model="queue") as context:
        context.queued()
        assert change.sum("ryot_queue_depth", model="queue", priority_level="normal") == 1
        assert change.sum("ryot_inference_queue_size", model="queue") == 1
        context.scheduled()
    assert change.sum("ryot_inference_queue_wait_seconds_count", model="queue") == 1
    assert change.sum("ryot_queue_depth", model="queue") == 0


def test_a_stated_status_wins():
    """`set_status` decides, and refuses what the catalogue does not have."""
    with changes() as change, InferenceContext(model="stated") as context:
        with pytest.raises(ValueError, match='"oops"; it must be one of success, error'):
            context.set_status("oops")
        context.set_status("timeout")
    assert change.statuses("stated") == {"timeout": 1}
    assert change.sum("ryot_inference_errors_total", error_type="timeout", model="stated") == 1


def test_misuse_is_logged_and_harms_nothing(caplog):
    """Calls outside of the block, and a second entry or exit, are ignored with a warning."""
    caplog.set_level(logging.WARNING, "ryot_metrics")
    context = InferenceContext(model="misuse")
    context.token()
    context.__exit__(None, None, None)
    with changes() as change:
        with context:
            context.__enter__()
        context.__exit__(None, None, None)
    assert change.statuses("misuse") == {"success": 1}
    assert len(caplog.records) == 4


@pytest.mark.parametrize("count", [-1, None, "7", 1.5, float("nan"), float("inf"), 10**30])
def test_numbers_that_make_no_sense_are_dropped(count):
    """They raise nothing into the request, change nothing, and are counted."""
    with changes() as change, InferenceContext("dropping") as context:
        context.set_token_count(2)
        for tell in (context.set_token_count, context.add_tokens, context.set_prompt_tokens):
            tell(count)
    assert (context.token_count, context.status) == (2, "success")
    assert change.sum("ryot_metrics_dropped_total", reason="invalid_value") == 3


@pytest.mark.parametrize(("model", "label"), [("a\ud800", "a?"), (3, "3"), (None, "default")])
def test_any_model_has_a_label(model, label):
    """Clients choose models: whatever they send, the block runs and is counted."""
    with changes() as change, InferenceContext(model, endpoint=model, batch_size=-1) as context:
        pass
    assert context.status == "success"
    assert change.statuses(label) == {"success": 1}


def test_both_import_paths_give_the_same_objects():
    """`ryot.monitoring.metrics` is `ryot_metrics`, and leaves the namespace `ryot` open."""
    import ryot
    import ryot.monitoring.metrics as seeds
    import ryot_metrics

    assert getattr(ryot, "__file__", None) is None
    for name in seeds.__all__:
        assert getattr(seeds, name) is getattr(ryot_metrics, name)


def test_system_and_model_info_are_absent_until_set():
    """The info families appear with their facts."""
    import subprocess
    import sys

    code = """
from ryot.monitoring.metrics import system_info, model_info
from ryot_metrics.client import REGISTRY, generate_latest
assert b"ryot_system_info" not in generate_latest()
system_info.info({"version": "1.0.0", "engine": "ryot"})
model_info.info({"models": "gpt4, claude, llama"})
labels = {"version": "1.0.0", "engine": "ryot"}
assert REGISTRY.get_sample_value("ryot_system_info", labels) == 1.0
assert b'ryot_model_info{models="gpt4, claude, llama"} 1.0' in generate_latest()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
