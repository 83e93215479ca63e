"""User code that mypy strict and pyright must accept; it is checked, not run."""

from collections.abc import AsyncIterator

from fastapi import FastAPI

from ryot_metrics import (
    Engine,
    EngineConfig,
    InferenceContext,
    SamplingParams,
    record_batch_processed,
    record_prompt_reuse,
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
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware

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
