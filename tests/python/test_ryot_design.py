"""The code of the Ryot metric design and of its metrics module's documentation runs as written.

Where a line of theirs cannot work, its test says which one and what replaces it.
"""

import asyncio
import sys
import types

import httpx
import prometheus_client
import pytest
from fastapi import FastAPI

import ryot_metrics.client
from page import changes

# --- the metric design, part 7: integration points

APPLICATION = """
from prometheus_client import Counter, Histogram, Gauge
import time

# Initialize metrics
inference_requests = Counter(
    'ryot_inference_requests_total',
    'Total inference requests',
    ['model', 'status', 'endpoint']
)

inference_latency = Histogram(
    'ryot_inference_latency_seconds',
    'Inference latency',
    ['model', 'batch_size'],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
)

tokens_generated = Counter(
    'ryot_tokens_generated_total',
    'Tokens generated',
    ['model', 'token_type']
)

gpu_memory = Gauge(
    'ryot_gpu_memory_bytes',
    'GPU memory usage',
    ['model', 'memory_type']
)

# Usage in inference function
def inference_handler(prompt: str, model: str, batch_size: int) -> str:
    start_time = time.time()

    try:
        # Inference logic
        result = run_inference(prompt, model, batch_size)

        # Record metrics
        latency = time.time() - start_time
        inference_latency.labels(
            model=model,
            batch_size=f"batch_{batch_size}"
        ).observe(latency)

        inference_requests.labels(
            model=model,
            status="success",
            endpoint="generate"
        ).inc()

        # Token metrics
        tokens_generated.labels(
            model=model,
            token_type="completion"
        ).inc(len(result.tokens))

        return result

    except Exception as e:
        inference_requests.labels(
            model=model,
            status="error",
            endpoint="generate"
        ).inc()
        raise
"""

MIDDLEWARE = '''
from fastapi import FastAPI, Request
from functools import wraps
import time

app = FastAPI()

@app.middleware("http")
async def metrics_middleware(request: Request, call_next):
    """Automatic metrics collection for all endpoints"""
    start_time = time.time()

    response = await call_next(request)

    latency = time.time() - start_time

    # Record HTTP-level metrics
    if request.url.path.startswith("/v1/inference"):
        # Extract model from request body or params
        model = request.query_params.get("model", "unknown")
        batch_size = request.query_params.get("batch_size", "1")

        inference_latency.labels(
            model=model,
            batch_size=batch_size
        ).observe(latency)

        inference_requests.labels(
            model=model,
            status="success" if response.status_code < 400 else "error",
            endpoint="generate"
        ).inc()

    return response
'''

GPU = '''
import pynvml

def update_gpu_metrics():
    """Update GPU-specific metrics (called periodically)"""
    pynvml.nvmlInit()

    for device_id in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(device_id)

        # Memory stats
        mem_info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        gpu_memory.labels(
            model="current",
            memory_type="used"
        ).set(mem_info.used)

        # Utilization
        util = pynvml.nvmlDeviceGetUtilizationRates(handle)
        gpu_utilization.labels(
            device_id=str(device_id)
        ).set(util.gpu)

# Schedule this to run every 5 seconds
scheduler.add_job(update_gpu_metrics, 'interval', seconds=5)
'''

IMPORT = "from prometheus_client import Counter, Histogram, Gauge"
OURS = IMPORT.replace("prometheus_client", "ryot_metrics.client")
# The package fills families of these names itself: a service's own stand in a registry of its own.
OWN_REGISTRY = f"""{OURS}
from functools import partial
Counter, Histogram, Gauge = (partial(it, registry=registry) for it in (Counter, Histogram, Gauge))
"""


class Scheduler:
    """Keeps the jobs that it is given."""

    def __init__(self):
        self.jobs = []

    def add_job(self, job, trigger, seconds):
        self.jobs.append((job, trigger, seconds))


def run_inference(prompt, model, batch_size):
    if not prompt:
        raise ValueError("no prompt")
    return types.SimpleNamespace(tokens=prompt.split())


@pytest.fixture(params=["prometheus_client", "ryot_metrics.client"])
def service(request):
    """The application's code under either client: its names, and how to read a sample."""
    ours = request.param == "ryot_metrics.client"
    if ours:
        registry = ryot_metrics.client.CollectorRegistry()
        text = APPLICATION.replace(IMPORT, OWN_REGISTRY)
    else:
        registry, text = prometheus_client.REGISTRY, APPLICATION
    names = {"registry": registry, "run_inference": run_inference, "scheduler": Scheduler()}
    exec(text, names)
    yield names
    made = ("inference_requests", "inference_latency", "tokens_generated", "gpu_memory")
    for name in (*made, "gpu_utilization"):
        if name in names:
            registry.unregister(names[name])


def test_the_application_s_code(service):
    """Part 7.1 runs unchanged: a success and an error are counted, and the answer's tokens."""
    handler = service["inference_handler"]
    assert handler("to be or", "bitnet-7b", 8).tokens == ["to", "be", "or"]
    with pytest.raises(ValueError, match="no prompt"):
        handler("", "bitnet-7b", 8)
    value = service["registry"].get_sample_value
    labels = {"model": "bitnet-7b", "endpoint": "generate"}
    for status in ("success", "error"):
        assert value("ryot_inference_requests_total", {**labels, "status": status}) == 1
    tokens = {"model": "bitnet-7b", "token_type": "completion"}
    assert value("ryot_tokens_generated_total", tokens) == 3
    latency = {"model": "bitnet-7b", "batch_size": "batch_8"}
    assert value("ryot_inference_latency_seconds_count", latency) == 1


def test_its_names_are_taken_in_our_default_registry():
    """With our client, `Counter('ryot_inference_requests_total', …)` needs `registry=`.

    The package fills a family of that name by itself; a second one would be the same thing twice.
    """
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        exec(APPLICATION.replace(IMPORT, OURS), {})


@pytest.mark.asyncio
async def test_the_middleware(service):
    """Part 7.2 runs unchanged under FastAPI: statuses by the answer's code, other paths ignored."""
    exec(MIDDLEWARE, service)
    app = service["app"]

    @app.get("/v1/inference/generate")
    def generate(prompt: str, model: str, batch_size: int):
        return service["inference_handler"](prompt, model, batch_size).tokens

    @app.get("/health")
    def health():
        return "ok"

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        query = {"model": "llama-13b", "batch_size": 4}
        path = "/v1/inference/generate"
        answer = await http.get(path, params={**query, "prompt": "to be"})
        assert answer.json() == ["to", "be"]
        assert (await http.get(path, params=query)).status_code == 422
        await http.get("/health")
    value = service["registry"].get_sample_value
    labels = {"model": "llama-13b", "endpoint": "generate"}
    requests = "ryot_inference_requests_total"
    # Handler and middleware both count the success: written by hand, one request is two.
    assert value(requests, {**labels, "status": "success"}) == 2
    assert value(requests, {**labels, "status": "error"}) == 1
    latency = {"model": "llama-13b", "batch_size": "4"}
    assert value("ryot_inference_latency_seconds_count", latency) == 2


def test_gpu_monitoring(service, monkeypatch):
    """Part 7.3 reads a stand-in of `pynvml`; `gpu_utilization` is nowhere defined, so define it."""
    pynvml = types.ModuleType("pynvml")
    pynvml.nvmlInit = lambda: None
    pynvml.nvmlDeviceGetCount = lambda: 2
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
    pynvml.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=1000 + handle)
    pynvml.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=50 + handle)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    exec(GPU, service)
    ((job, trigger, seconds),) = service["scheduler"].jobs
    assert (trigger, seconds) == ("interval", 5)
    with pytest.raises(NameError, match="gpu_utilization"):
        job()
    service["gpu_utilization"] = service["Gauge"](
        "ryot_gpu_utilization_percent", "GPU utilization", ["device_id"]
    )
    job()
    value = service["registry"].get_sample_value
    assert value("ryot_gpu_utilization_percent", {"device_id": "1"}) == 51
    # Both devices write one series; its label set lacks the device.
    assert value("ryot_gpu_memory_bytes", {"model": "current", "memory_type": "used"}) == 1001


# --- the metrics module's documentation

DECORATORS = """
from ryot.monitoring.metrics import track_inference_request, track_token_generation

@track_inference_request(model='gpt4')
async def generate_completion(prompt: str):
    result = await llm_client.complete(prompt)
    return result

@track_token_generation(model='gpt4')
async def stream_tokens(prompt: str):
    async for token in llm_client.stream(prompt):
        yield token
"""

CONTEXT = """
from ryot.monitoring.metrics import InferenceContext

async def generate_with_context(prompt: str, model: str = 'gpt4'):
    with InferenceContext(model=model) as ctx:
        ctx.set_token_count(0)

        async for token in llm_client.stream(prompt):
            ctx.set_token_count(ctx.token_count + 1)
            ctx.record_inter_token_latency(...)

            yield token
"""

GPU_UPDATE = """
from ryot.monitoring.metrics import update_gpu_metrics

# After each inference
update_gpu_metrics(
    model='gpt4',
    gpu_id=0,
    used_bytes=gpu_stats.used_memory,
    reserved_bytes=gpu_stats.reserved_memory,
    utilization=gpu_stats.utilization_percent
)
"""

INTEGRATION = """
from prometheus_client import make_asgi_app
from ryot.monitoring.metrics import system_info, model_info

system_info.info({'version': '1.0.0', 'engine': 'ryot'})
model_info.info({'models': 'gpt4, claude, llama'})

# Mount metrics endpoint
metrics_app = make_asgi_app()
app.mount("/metrics", metrics_app)
"""


class Client:
    """A language model's client that answers with the prompt's words."""

    async def complete(self, prompt):
        await asyncio.sleep(0)
        return prompt.upper()

    async def stream(self, prompt):
        for word in prompt.split():
            await asyncio.sleep(0)
            yield word


@pytest.mark.asyncio
async def test_the_decorators():
    """The decorators on a coroutine and on an async generator: two requests, three tokens."""
    names = {"llm_client": Client()}
    exec(DECORATORS, names)
    with changes() as change:
        assert await names["generate_completion"]("hello") == "HELLO"
        assert [word async for word in names["stream_tokens"]("to be or")] == ["to", "be", "or"]
    assert change.statuses("gpt4") == {"success": 2}
    assert change.sum("ryot_tokens_generated_total", model="gpt4") == 3
    assert change.sum("ryot_inference_ttft_seconds_count", model="gpt4") == 1
    assert change.sum("ryot_inference_inter_token_latency_seconds_count", model="gpt4") == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(("latency", "told", "dropped"), [("(...)", 0, 3), ("(0.01)", 0.03, 0)])
async def test_the_context_manager(latency, told, dropped):
    """Its loop counts three tokens as three, and three latencies where it tells them.

    `ctx.record_inter_token_latency(...)` has a literal `...` where seconds belong: as written it
    runs, and what is no number is dropped and counted; a number in its place is recorded.
    """
    names = {"llm_client": Client()}
    exec(CONTEXT.replace("(...)", latency), names)
    with changes() as change:
        words = [word async for word in names["generate_with_context"]("to be or")]
    assert words == ["to", "be", "or"]
    assert change.statuses("gpt4") == {"success": 1}
    assert change.sum("ryot_tokens_generated_total", model="gpt4") == 3
    assert change.sum("ryot_tokens_per_request_sum", model="gpt4") == 3
    assert change.sum("ryot_inference_inter_token_latency_seconds_sum", model="gpt4") == told
    assert change.sum("ryot_metrics_dropped_total", reason="invalid_value") == dropped


def test_the_gpu_update():
    """One call gives memory used and reserved, utilisation, and their ratio."""
    stats = types.SimpleNamespace(
        used_memory=6 << 30, reserved_memory=8 << 30, utilization_percent=91
    )
    exec(GPU_UPDATE, {"gpu_stats": stats})
    value = ryot_metrics.client.REGISTRY.get_sample_value
    labels = {"model": "gpt4", "device_id": "0"}
    memory = {**labels, "memory_type": "used"}
    assert value("ryot_gpu_memory_usage_bytes", memory) == 6 << 30
    assert value("ryot_gpu_memory_reserved_bytes", labels) == 8 << 30
    assert value("ryot_gpu_utilization_percent", {**labels, "kernel_type": "all"}) == 91
    assert value("ryot_memory_efficiency_ratio", labels) == 0.75


@pytest.mark.asyncio
@pytest.mark.parametrize("package", ["prometheus_client", "ryot_metrics.client"])
async def test_the_integration(package):
    """The mounted page has our families if `make_asgi_app` is ours.

    With `from prometheus_client import make_asgi_app` the page is that package's own, which has no
    family of ours. Either way a mounted app answers `/metrics` by a redirect to `/metrics/`.
    """
    app = FastAPI()
    exec(INTEGRATION.replace("prometheus_client", package), {"app": app})
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        assert (await http.get("/metrics")).status_code == 307
        page = (await http.get("/metrics", follow_redirects=True)).text
    info = 'ryot_system_info{engine="ryot",version="1.0.0"} 1.0'
    assert (info in page) == (package == "ryot_metrics.client")
