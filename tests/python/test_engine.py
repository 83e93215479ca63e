"""The engine in Python, on the toy model; `test_llama.py` has what needs a real one."""

import asyncio
import gc
import os
import subprocess
import sys
import threading

import pytest

from page import changes
from ryot_metrics import (
    Chunk,
    Engine,
    EngineClosedError,
    EngineConfig,
    QueueFullError,
    SamplingParams,
)

FOUR = SamplingParams(max_tokens=4, temperature=0)
ENDLESS = SamplingParams(max_tokens=3000)


def test_generate_answers_one_prompt_or_many(engine):
    """A prompt gives a completion, a list gives one for each, in order, text or token ids."""
    one = engine.generate("hello", FOUR)
    assert (one.finish_reason, one.token_count, one.prompt_tokens) == ("length", 4, 5)
    assert 0 < one.ttft_seconds <= one.duration_seconds
    tokens = engine.tokenize("hello")
    assert engine.generate(tokens, FOUR).token_ids == one.token_ids
    several = engine.generate(["a", "hello", "b"], FOUR)
    assert several[1].text == one.text
    assert len({completion.text for completion in several}) == 3
    assert engine.generate([[*tokens], [1]], FOUR)[0].text == one.text


def test_a_long_list_is_answered_through_a_short_queue():
    """A list longer than queue and slots together is answered whole."""
    config = EngineConfig(parallel=2, max_queue=4)
    with Engine("toy", config) as engine:
        prompts = [f"prompt {index}" for index in range(30)]
        answers = engine.generate(prompts, FOUR)
        assert [answer.text for answer in answers] == [
            engine.generate(prompt, FOUR).text for prompt in prompts
        ]


def test_a_stream_gives_a_chunk_per_token(engine):
    """`for` and `async for` give the same chunks, whose texts make the answer."""
    whole = engine.generate("hello", FOUR)
    stream = engine.stream("hello", FOUR)
    assert stream.finish_reason is None
    chunks = list(stream)
    assert [chunk.token_id for chunk in chunks] == whole.token_ids
    assert "".join(map(str, chunks)) == whole.text
    assert stream.finish_reason == "length"
    assert stream.completion_tokens == 4

    async def main():
        return [chunk async for chunk in engine.stream("hello", FOUR)]

    assert asyncio.run(main()) == chunks
    assert isinstance(chunks[0], Chunk)


def test_many_async_streams_share_one_loop(engine):
    """32 async streams over 8 slots give what each prompt gives alone."""

    async def follow(index):
        return [chunk.token_id async for chunk in engine.stream(f"p{index}", FOUR)]

    async def main():
        return await asyncio.gather(*(follow(index) for index in range(32)))

    expected = [engine.generate(f"p{index}", FOUR).token_ids for index in range(32)]
    assert asyncio.run(main()) == expected
    assert asyncio.run(main()) == expected, "a second event loop works too"


def test_a_cancelled_stream_ends_and_frees_its_place(engine):
    """`cancel`, a dropped stream and a cancelled task all end the request as cancelled."""
    with changes() as change:
        stream = engine.stream("a", ENDLESS)
        next(stream)
        stream.cancel()
        list(stream)
        assert stream.finish_reason == "cancelled"

        stream = engine.stream("b", ENDLESS)
        next(stream)
        del stream
        gc.collect()

        async def follow():
            async for _ in engine.stream("c", ENDLESS):
                pass

        async def main():
            task = asyncio.create_task(follow())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()

        asyncio.run(main())
        engine.generate("d", FOUR)
        while engine.stats()["running"]:
            engine.generate("d", FOUR)
    assert change.statuses("toy")["cancelled"] == 3
    assert engine.stats()["used_cells"] == 0


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([], "0 entries"),
        ("", "prompt has 0 tokens; at least 1 is needed"),
        ([10**6], r"the prompt holds token 1000000; it must be from 0 to \d+"),
        ("x" * 5000, r"prompt has 5000 tokens; the context \(ctx_size\) leaves room for 4095"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_a_value_error(engine, prompt, text):
    """The error names value and limit, other requests go on, and it counts as invalid_prompt."""
    other = engine.stream("other", SamplingParams(max_tokens=20))
    with changes() as change, pytest.raises(ValueError, match=text):
        engine.generate(prompt, FOUR)
    assert change.sum(
        "ryot_inference_requests_total", model="toy", error_type="invalid_prompt"
    ) == (prompt != [])
    assert len(list(other)) == 20


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"max_tokens": -1}, "max_tokens is -1; it must be at least 0"),
        ({"temperature": -0.5}, "temperature is -0.5; it must be from 0 to 100"),
        ({"temperature": float("nan")}, "temperature is NaN"),
        ({"top_p": 0.0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be from 0 to 1"),
        ({"top_k": -2}, "top_k is -2"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"stop": [""]}, "the length of a stop string is 0"),
        ({"stop": ["x"] * 17}, "the number of stop strings is 17; it must be at most 16"),
    ],
)
def test_sampling_parameters_name_value_and_range(arguments, text):
    """Each parameter outside of its range is refused where it is made."""
    with pytest.raises(ValueError, match=text):
        SamplingParams(**arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"parallel": 0}, "parallel is 0; it must be from 1 to 256"),
        ({"parallel": -3}, "parallel is -3"),
        ({"ctx_size": 1}, "ctx_size is 1; it must be from 2"),
        ({"ctx_size": 15, "kv_unified": False}, "ctx_size is 15; it must be from 16"),
        ({"batch_size": 4, "parallel": 8}, "batch_size is 4; it must be from 8"),
        ({"threads": 5000}, "threads is 5000; it must be from 0 to 1024"),
        ({"max_queue": -1}, "max_queue is -1"),
    ],
)
def test_a_configuration_names_value_and_range(arguments, text):
    """Each size outside of its range is refused where it is made."""
    with pytest.raises(ValueError, match=text):
        EngineConfig(**arguments)


def test_without_unified_cells_each_sequence_has_its_part():
    """What is longer is refused with the name of the limit; the rest is answered as ever."""
    config = EngineConfig(ctx_size=100, parallel=2, kv_unified=False)
    assert (config.longest, EngineConfig(ctx_size=100, parallel=2).longest) == (50, 100)
    with Engine("toy", config, name="parts") as engine:
        text = r"50 tokens; the context \(ctx_size / parallel, without kv_unified\) .* room for 49"
        with pytest.raises(ValueError, match=text):
            engine.generate("x" * 50)
        assert engine.generate("x" * 40).token_count == 10
        shared = engine.generate(["x" * 32 + letter for letter in "abcd"], FOUR)
        assert [one.cached_tokens for one in shared] == [32, 32, 32, 32]


def test_a_full_queue_says_when_to_come_back():
    """Past `max_queue` a request is refused with `retry_after`, and the others are unharmed."""
    with Engine("toy", EngineConfig(parallel=1, max_queue=2)) as engine:
        streams = [engine.stream("x", SamplingParams(max_tokens=200)) for _ in range(3)]
        with (
            changes() as change,
            pytest.raises(QueueFullError, match=r"limit of 2 requests \(max_queue\)") as full,
        ):
            engine.stream("x", FOUR)
        assert full.value.retry_after > 0
        assert change.statuses("toy") == {"error": 1}
        assert [len(list(stream)) for stream in streams] == [200, 200, 200]


def test_shutdown_ends_what_runs_and_refuses_what_comes(engine):
    """After `shutdown`, waiting callers return, and new requests raise."""
    stream = engine.stream("x", ENDLESS)
    errors = []

    def follow():
        try:
            list(stream)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    engine.shutdown()
    engine.shutdown()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert stream.finish_reason == "cancelled"
    assert errors == []
    with pytest.raises(EngineClosedError, match="was shut down"):
        engine.generate("x", FOUR)


def test_a_missing_or_corrupt_file_is_a_clear_error(tmp_path):
    """No file, a folder, a file that is no GGUF, and half a GGUF: each says what is wrong."""
    missing = tmp_path / "none.gguf"
    with changes() as change, pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        Engine(missing)
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"not a model" * 100)
    half = tmp_path / "half.gguf"
    half.write_bytes(b"GGUF" + bytes(60))
    for path in (tmp_path, garbage, half):
        with changes() as change, pytest.raises((ValueError, OSError), match=path.name):
            Engine(path)
    assert change.sum("ryot_model_load_attempts_total", result="failed") == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the point of the test
def test_an_engine_says_clearly_that_it_does_not_survive_a_fork(engine):
    """In a forked child the engine raises with both pids, and metrics count on."""
    from ryot_metrics import RyotError, client

    counter = client.Counter("forked", "", registry=client.CollectorRegistry())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            counter.inc()
            engine.generate("x", FOUR)
            text = "no error"
        except RyotError as error:
            text = str(error)
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 1000).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    assert f"belongs to process {os.getpid()}, this is process {pid}" in text
    assert engine.generate("x", FOUR).token_count == 4


def test_an_engine_left_open_does_not_stop_the_interpreter():
    """A program that forgets `shutdown`, with a request running, still ends."""
    code = """
from ryot_metrics import Engine, SamplingParams
engine = Engine("toy")
stream = engine.stream("x", SamplingParams(max_tokens=3000))
next(stream)
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "end\n"
    assert done.stderr == ""


def test_ctrl_c_interrupts_a_waiting_caller():
    """SIGINT raises KeyboardInterrupt in `generate`, and the request ends as cancelled."""
    code = """
import os, signal, threading
from ryot_metrics import Engine, SamplingParams, client
engine = Engine("toy")
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    engine.generate("x", SamplingParams(max_tokens=4000))
except KeyboardInterrupt:
    engine.shutdown()
    labels = {"model": "toy", "status": "cancelled"}
    print(client.REGISTRY.get_sample_value("ryot_inference_requests_total", labels))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "1.0\n"


def test_seeds_make_draws_repeatable(engine):
    """The same seed gives the same answer, another seed another one."""

    def draw(seed):
        params = SamplingParams(max_tokens=30, temperature=5.0, seed=seed)
        return engine.generate("x", params).token_ids

    assert draw(7) == draw(7) != draw(8)


def test_the_engine_s_metrics_add_up(engine):
    """Requests, tokens, queue and batches on the page are what was asked for."""
    with changes() as change:
        engine.generate(["aa", "bbb"], FOUR, endpoint="/jobs")
        list(engine.stream("c", FOUR))
    labels = {"model": "toy"}
    assert change.statuses("toy") == {"success": 3}
    assert change.sum("ryot_inference_requests_total", endpoint="/jobs", **labels) == 2
    tokens = "ryot_tokens_generated_total"
    assert change.sum(tokens, token_type="completion", **labels) == 12
    assert change.sum(tokens, token_type="prompt", generation_mode="batch", **labels) == 5
    assert change.sum("ryot_ttft_latency_seconds_count", device="cpu", **labels) == 3
    assert change.sum("ryot_inference_inter_token_latency_seconds_count", **labels) == 9
    assert change.sum("ryot_inference_queue_wait_seconds_count", **labels) == 3
    assert change.sum("ryot_queue_depth", **labels) == 0
    steps = change.sum("ryot_batches_processed_total", **labels)
    assert steps == change.sum("ryot_batch_size_distribution_count", **labels) >= 8
    assert change.sum("ryot_inference_request_duration_seconds_count", **labels) == 3


def test_emptying_the_cache_is_no_want_of_memory() -> None:
    """`clear_cache` is counted once, as manual, and an empty cache is not counted at all."""
    prompt, params = "one prompt that is asked twice", SamplingParams(max_tokens=1)
    with Engine("toy", name="cleared") as engine, changes() as change:
        engine.generate(prompt, params)
        engine.clear_cache()
        engine.clear_cache()
        assert engine.generate(prompt, params).cached_tokens == 0
    evictions = "ryot_model_cache_evictions_total"
    assert change.sum(evictions, model="cleared", eviction_reason="manual") == 1
    assert change.sum(evictions, model="cleared") == 1
    assert change.sum("ryot_engine_prefix_cache_evictions_total", model="cleared") == 1
