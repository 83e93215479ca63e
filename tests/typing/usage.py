"""User code that mypy strict and pyright must accept; it is checked, not run."""

from collections.abc import AsyncIterator
from decimal import Decimal

import httpx
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI

from ryot_metrics import (
    CostModel,
    Engine,
    EngineConfig,
    InferenceContext,
    SamplingParams,
    Settings,
    configure,
    instrument,
    mount_dashboard,
    mount_metrics,
    record_batch_processed,
    record_prompt_reuse,
    register_error_type,
    set_cost_model,
    track_inference_request,
    track_token_generation,
    update_gpu_metrics,
)
from ryot_metrics.client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    make_wsgi_app,
    start_http_server,
)
from ryot_metrics.gpu import watch_gpus
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware
from ryot_metrics.testing import Metrics, isolated

registry = CollectorRegistry(labels={"zone": "a"})
c = Counter("c", "C", ["x"], registry=registry)
c.labels("1").inc(2, {"trace": "a"})
g = Gauge("g", "G", registry=registry)
g.set_function(lambda: 3.0)
h = Histogram("h", "H", buckets=(1, 2.5), registry=registry)
h.observe_many([1.0, 2.0])


@h.time()
def f(a: int) -> str:
    return str(a)


@track_inference_request(model="m")
async def complete(prompt: str) -> str:
    with h.time() as timer:
        pass
    print(timer.duration)
    return prompt


@track_token_generation
async def stream(prompt: str) -> AsyncIterator[str]:
    with InferenceContext("m") as ctx:
        ctx.token()
        yield prompt


x: str = f(3)
page: bytes = generate_latest(registry)
with Engine("toy", EngineConfig(parallel=2)) as engine:
    one: str = engine.generate("a", SamplingParams(max_tokens=3)).text
    many: list[str] = [a.text for a in engine.generate(["a", "b"])]
    for chunk in engine.stream("x"):
        t: str = chunk.text
server, thread = start_http_server(0, "127.0.0.1", REGISTRY)
server.shutdown()
app = FastAPI()
app.add_middleware(InferenceMiddleware, paths=["/v1/*"], model=lambda scope: None)
application = InferenceWSGIMiddleware(make_wsgi_app(), model_header="x-model")
update_gpu_metrics("m", gpu_id="GPU-1", used_bytes=1 << 30, reserved_bytes=2e9, utilization=50)
record_batch_processed("m", 8, request_type="batch")
record_prompt_reuse("m", [1, 2, 3])


class Service:
    @track_inference_request("m", prompt_tokens=len, token_count=len, request_type="batch")
    def batch(self, prompts: list[str]) -> list[str]:
        return prompts

    @track_inference_request(model_arg="model", endpoint=lambda: "/answer", batch_size=2)
    async def answer(self, model: str) -> int:
        async with InferenceContext(model, endpoint="/a", mode="streaming", batch_size=2) as ctx:
            ctx.set_status("timeout")
        status: str | None = ctx.status
        return len(status or "")


answers: list[str] = Service().batch(["a"])


def price(model: str, prompt: int, completion: int) -> tuple[Decimal, str]:
    return Decimal(prompt) / 1000, "0.002"


set_cost_model("m", CostModel.tiered([(1000, "0.002"), (None, 0.001)], [(None, 0.5)]))
set_cost_model("*", CostModel.dynamic(price))
register_error_type(KeyError, "invalid_prompt", severity="info")
register_error_type("vendor.Overloaded", "timeout")
settings: Settings = configure(profile="vllm", disabled=["ryot_gpu_*"])
mount_metrics(app, profile="otel")
mount_dashboard(app)
client: OpenAI = instrument.openai(OpenAI())
async_client: AsyncOpenAI = instrument.openai(AsyncOpenAI())
http_client: httpx.Client = instrument.httpx(httpx.Client())
instrument.uninstrument(instrument.openai())
watch_gpus({0: "m"}, interval=1)


def test_of_a_service(ryot_metrics: Metrics) -> None:
    ryot_metrics.clock.advance(ms=20)
    ryot_metrics.assert_metric("ryot_queue_depth", {"model": "m"}, absent=True)
    with isolated() as metrics:
        metrics.assert_metric("ryot_inference_requests_total", delta=0)
