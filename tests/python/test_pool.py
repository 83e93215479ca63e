"""Several models in one process: toys whose size is their host cache, and small GGUF files."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

import tiny
from page import changes
from ryot_metrics import (
    Engine,
    EngineClosedError,
    EngineConfig,
    MemoryLimitError,
    ModelBusyError,
    ModelPool,
    SamplingParams,
)
from ryot_metrics import (
    pool as pool_module,
)
from ryot_metrics.serve import create_app

TWO = SamplingParams(max_tokens=2, temperature=0)
ENDLESS = SamplingParams(max_tokens=3000)
EVICTIONS = "ryot_model_cache_evictions_total"
LOADS = "ryot_model_load_attempts_total"


class Clock:
    """Time that stands still."""

    now = 0.0

    def __call__(self):
        self.now += 0.001
        return self.now


@pytest.fixture
def clock():
    return Clock()


def toys(count, **options):
    """A pool of toys of 100 bytes each, named by the alphabet."""
    pool = ModelPool(**options)
    for index in range(count):
        pool.add("toy", EngineConfig(host_cache_bytes=100), name="abcdefgh"[index])
    return pool


def ask(pool, name):
    with pool.use(name) as engine:
        return engine.generate("hello", TWO)


def test_models_are_loaded_on_first_use_and_answer_side_by_side():
    """Nothing is loaded before it is asked for, once each, and counted under its own name."""
    with changes() as change, toys(3) as pool:
        assert (pool.names, pool.loaded()) == (("a", "b", "c"), {})
        assert ask(pool, "b").token_count == ask(pool, "a").token_count == 2
        ask(pool, "b")
        assert pool.loaded() == {"a": 100, "b": 100}
    loads = [change.sum(LOADS, model=name, result="success") for name in "abc"]
    assert loads == [1, 1, 0]
    assert change.sum("ryot_model_loading_time_seconds_count", model="a") == 1
    assert change.sum("ryot_inference_requests_total", model="b", status="success") == 2
    assert change.sum(EVICTIONS) == 0


def test_the_least_recently_used_makes_room(clock):
    """Past the limit, of those that are idle the one goes whose use is longest ago."""
    with changes() as change, toys(4, memory_limit=250, clock=clock) as pool:
        for name in "abac":  # c needs b's place
            ask(pool, name)
        assert list(pool.loaded()) == ["a", "c"]
        with pool.use("a"):
            ask(pool, "d")  # a is the older, but in use
            assert list(pool.loaded()) == ["a", "d"]
        assert ask(pool, "b").token_count == 2
        assert list(pool.loaded()) == ["a", "b"]  # a was used until after d
    by_name = [
        change.sum(EVICTIONS, model=name, eviction_reason="memory_pressure") for name in "abcd"
    ]
    assert by_name == [0, 1, 1, 1]
    assert change.sum(LOADS, model="b", load_type="warm_start") == 2


def test_what_is_in_use_is_never_unloaded():
    """With requests everywhere a further model is refused by name and limit, and nothing ends."""
    with toys(3, memory_limit=200) as pool:
        with pool.use("a") as engine:
            stream = engine.stream("x", ENDLESS)
            next(stream)
        with pool.use("b"), changes() as change:
            with pytest.raises(MemoryLimitError, match=r"'c' takes 100 bytes.* 200 .*use: a, b"):
                ask(pool, "c")
            with pytest.raises(ModelBusyError, match="the model 'a' answers requests"):
                pool.unload("a")
            assert list(pool.loaded()) == ["a", "b"]
        assert change.sum(LOADS, model="c") == change.sum(LOADS, model="c", result="refused") == 1
        assert next(stream).token_id is not None
        stream.cancel()
        assert len(list(stream)) < 3000
        assert ask(pool, "c").token_count == 2
    assert change.sum(EVICTIONS) == 0
    with toys(1, memory_limit=99) as pool, pytest.raises(MemoryLimitError, match="in use: none"):
        ask(pool, "a")


def test_idle_models_go_after_their_time(clock):
    """A model without requests for so long is unloaded; one that is in use begins anew."""
    with changes() as change, toys(2, idle_seconds=3600, clock=clock) as pool:
        ask(pool, "a")
        with pool.use("b"):
            clock.now += 3599
            pool.sweep()
            assert list(pool.loaded()) == ["a", "b"]
            clock.now += 2
            pool.sweep()
        clock.now += 3599
        pool.sweep()
        assert list(pool.loaded()) == ["b"]
        clock.now += 2
        pool.sweep()
        assert pool.loaded() == {}
        assert ask(pool, "a").token_count == 2
    assert change.sum(EVICTIONS, eviction_reason="timeout") == 2


def test_a_model_can_be_unloaded_by_hand():
    """`unload` says whether there was anything to unload, and counts as manual."""
    with changes() as change, toys(1) as pool:
        assert pool.unload("a") is False
        ask(pool, "a")
        assert pool.unload("a") is True
        assert pool.loaded() == {}
        with pytest.raises(ValueError, match="model is 'z'; the pool has: a"):
            pool.unload("z")
    assert change.sum(EVICTIONS, model="a", eviction_reason="manual") == 1


def test_many_threads_share_one_load(monkeypatch):
    """Eight threads that want the same two models at once make two loads, never two at a time."""
    at_once, most, made = 0, 0, []
    start = threading.Barrier(8)

    def engine(*arguments, **options):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        made.append(Engine(*arguments, **options))
        at_once -= 1
        return made[-1]

    monkeypatch.setattr(pool_module, "Engine", engine)

    def work(index):
        start.wait()
        return ask(pool, "ab"[index % 2]).token_count

    with toys(2) as pool, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [2] * 8
    assert (len(made), most) == (2, 1)


@pytest.fixture
def slow(monkeypatch):
    """What lets the model `b` be loaded, which takes until then."""
    gate = threading.Event()

    def engine(*arguments, name, **options):
        assert name != "b" or gate.wait(60)
        return Engine(*arguments, name=name, **options)

    monkeypatch.setattr(pool_module, "Engine", engine)
    yield gate
    gate.set()


@pytest.mark.asyncio
async def test_who_waits_for_a_model_holds_up_no_other(slow, monkeypatch):
    """With more requests for one that loads than there are threads, all of another go on."""
    arrived = asyncio.Queue()
    lease = ModelPool.lease

    def counted(pool, name):
        arrived.put_nowait(name)
        return lease(pool, name)

    monkeypatch.setattr(ModelPool, "lease", counted)
    with toys(2) as pool:
        transport = httpx.ASGITransport(create_app(pool))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            def post(model, path="/v1/completions"):
                body = {"model": model, "prompt": "x", "input": "x", "max_tokens": 2}
                return asyncio.create_task(client.post(path, json=body))

            async def answered(tasks):
                answers = await asyncio.wait_for(asyncio.gather(*tasks), 60)
                return {answer.status_code for answer in answers}

            paths = ["/v1/completions", "/tokenize", "/v1/embeddings"]
            assert await answered([post("a")]) == {200}
            waiting = [post("b", path) for path in paths for _ in range(40)]
            for _ in range(1 + len(waiting)):
                await asyncio.wait_for(arrived.get(), 60)
            assert await answered([post("a", path) for path in paths]) == {200}
            assert not any(task.done() for task in waiting)
            slow.set()
            assert await answered(waiting) == {200}


@pytest.mark.asyncio
async def test_who_hangs_up_waits_for_no_model(slow):
    """A client that goes while its model loads is no user of it; the model is loaded for others."""
    said = [{"type": "http.request", "body": json.dumps({"model": "b", "prompt": "x"}).encode()}]
    statuses = []

    async def receive():
        return said.pop() if said else {"type": "http.disconnect"}

    async def send(message):
        statuses.append(message.get("status"))

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b""}
    with toys(2) as pool:
        await asyncio.wait_for(create_app(pool)({**scope, "headers": headers}, receive, send), 60)
        assert statuses[0] == 499
        slow.set()
        lease = pool.lease("b")
        lease.wait()
        with pytest.raises(ModelBusyError):
            pool.unload("b")
        lease.close()
        lease.close()
        assert pool.unload("b") is True


def test_random_use_keeps_to_the_limit():
    """Whatever is asked for by four threads, loaded models fit the limit and all get answers."""
    with toys(6, memory_limit=400) as pool, ThreadPoolExecutor(4) as threads:

        def work(index):
            answer = ask(pool, "abcdef"[(index * index + index // 7) % 6])
            return answer.token_count, sum(pool.loaded().values()) <= 400

        assert set(threads.map(work, range(120))) == {(2, True)}


def test_a_load_that_fails_harms_nobody(tmp_path):
    """Half a file fails for all who wait for it, counts as failed, and the others go on."""
    whole = tiny.write_model(tmp_path / "whole.gguf")
    half = tmp_path / "half.gguf"
    half.write_bytes(whole.read_bytes()[:50_000])
    with changes() as change, ModelPool() as pool:
        pool.add(whole)
        pool.add(half)
        with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
            pool.add(tmp_path / "none.gguf")
        with pytest.raises(ValueError, match="has a model 'whole' already"):
            pool.add(whole)
        with pool.use("whole") as engine:
            stream = engine.stream("x", SamplingParams(max_tokens=50, ignore_eos=True))
            for _ in range(2):
                with pytest.raises(ValueError, match=r"cannot load the model .*half\.gguf"):
                    ask(pool, "half")
            assert len([chunk for chunk in stream if chunk.token_id is not None]) == 50
            size = pool.loaded()["whole"]
        half.write_bytes(whole.read_bytes())  # the download is complete
        assert ask(pool, "half").token_count == 2
        assert pool.loaded() == {"whole": size, "half": size}
        weights = whole.stat().st_size
        assert size > weights + EngineConfig().host_cache_bytes
    assert change.sum(LOADS, model="half", result="failed") == 2
    assert change.sum(LOADS, model="half", result="success") == 1


def test_the_context_counts_before_it_is_taken(tmp_path):
    """A model whose weights fit and whose KV cells do not is refused; what is loaded stays."""
    path = tiny.write_model(tmp_path / "model.gguf")
    with ModelPool(memory_limit=path.stat().st_size + 2_000_000) as pool:
        pool.add(path, EngineConfig(ctx_size=1024, host_cache_bytes=0), name="small")
        pool.add(path, EngineConfig(ctx_size=1 << 20, host_cache_bytes=0), name="large")
        ask(pool, "small")
        assert pool.loaded()["small"] > path.stat().st_size
        refused = pytest.raises(MemoryLimitError, match="the model 'large' takes")
        with refused, changes() as change:
            ask(pool, "large")
        assert change.sum(LOADS) == change.sum(LOADS, model="large", result="refused") == 1
        assert change.sum("ryot_model_loading_time_seconds_count") == 0
        assert ask(pool, "small").token_count == 2


def test_adapters_count_too(tmp_path):
    """A model takes its adapters' bytes more, and is refused where only they do not fit."""
    path = tiny.write_model(tmp_path / "model.gguf")
    lora = tiny.write_adapter(tmp_path / "lora.gguf", tiny.adapter(1))
    config = EngineConfig(ctx_size=1024, host_cache_bytes=0)
    with ModelPool() as pool:
        pool.add(path, config, name="bare")
        pool.add(path, config, name="adapted", adapters={"lora": lora})
        assert ask(pool, "bare").token_count == ask(pool, "adapted").token_count == 2
        taken = pool.loaded()
    assert taken["adapted"] - taken["bare"] == lora.stat().st_size > 0
    with ModelPool(memory_limit=taken["bare"]) as pool:
        pool.add(path, config, name="bare")
        pool.add(path, config, name="adapted", adapters={"lora": lora})
        with pytest.raises(MemoryLimitError, match="the model 'adapted' takes"):
            ask(pool, "adapted")
        assert ask(pool, "bare").token_count == 2


def test_a_pool_is_served_over_http(tmp_path, live):
    """`model` routes, /v1/models lists all, and what cannot be loaded is one request's error."""
    whole = tiny.write_model(tmp_path / "tiny.gguf")
    half = tmp_path / "half.gguf"
    half.write_bytes(whole.read_bytes()[:50_000])
    small = EngineConfig(host_cache_bytes=100)
    with ModelPool(memory_limit=10_000_000) as pool:
        pool.add("toy", small)
        pool.add(whole, small)
        pool.add(half, small)
        pool.add("toy", EngineConfig(host_cache_bytes=10_000_000), name="large")
        url = f"{live(pool)}/v1"
        with (
            changes() as change,
            openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
        ):
            create = client.completions.create
            assert [model.id for model in client.models.list()] == ["toy", "tiny", "half", "large"]
            assert pool.loaded() == {}
            answers = [create(model=name, prompt="x", max_tokens=3) for name in ("toy", "tiny")]
            assert [answer.model for answer in answers] == ["toy", "tiny"]
            assert client.models.retrieve("tiny").max_model_len == 256
            with pytest.raises(openai.NotFoundError, match="'toy', 'tiny', 'half', 'large'"):
                create(model="none", prompt="x")
            with pytest.raises(openai.InternalServerError, match="cannot load the model") as failed:
                create(model="half", prompt="x")
            assert (failed.value.status_code, failed.value.code) == (500, "model_load_failed")
            in_use = pytest.raises(openai.InternalServerError, match="in use: tiny")
            with pool.use("tiny"), in_use as refused:
                create(model="large", prompt="x")
            assert (refused.value.status_code, refused.value.code) == (503, "memory_limit")
            assert refused.value.response.headers["retry-after"] == "1"
            assert len(client.embeddings.create(model="toy", input="x").data) == 1
    requests = "ryot_inference_requests_total"
    assert change.sum(requests, model="half", error_type="inference_error") == 1
    assert change.sum(requests, model="large", error_type="oom") == 1


def test_a_closed_pool_ends_everything():
    """`close` cancels what runs, and refuses what comes; limits are checked at once."""
    pool = toys(2)
    with pool.use("a") as engine:
        stream = engine.stream("x", ENDLESS)
        next(stream)
        pool.close()
        pool.close()
        list(stream)
    assert stream.finish_reason == "cancelled"
    for name in "ab":
        with pytest.raises(EngineClosedError, match="the pool of models was closed"):
            ask(pool, name)
    for options in ({"memory_limit": 0}, {"idle_seconds": -1.0}):
        with pytest.raises(ValueError, match=r"it must be above 0"):
            ModelPool(**options)
