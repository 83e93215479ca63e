"""The live page in a real browser: what it shows, what it asks, and what it survives."""

from __future__ import annotations

import math
import os
import random
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI, Response
from playwright.sync_api import expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ryot_metrics import InferenceContext
from ryot_metrics.dashboard import mount_dashboard
from ryot_metrics.live import Figures, Snapshot
from ryot_metrics.scrape import serve_metrics
from ryot_metrics.serve import create_app
from ryot_metrics.serve.run import bind, in_background

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

INTERVAL = 0.2
HISTOGRAMS = {
    "Time to first token": ("ryot_ttft_latency_seconds", "ttft"),
    "Inter-token latency": ("ryot_inference_inter_token_latency_seconds", "inter_token"),
    "Request latency": ("ryot_inference_latency_seconds", "latency"),
    "Queue wait": ("ryot_inference_queue_wait_seconds", "queue_wait"),
}
START = "process_start_time_seconds"
HOSTILE = [
    "<img src=x onerror=globalThis.broken=1>",
    '"}</script><script>globalThis.broken=1</script>',
    "__proto__",
    'a\\"b\\\\c\nd} 7',
    "ünï\u2028cödé",
]


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("chromium is not installed")
    pytest.skip("chromium is not installed (Debian's package chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; of a module, because its loop must not run beside asyncio's tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A function that opens a page; it must leave no error and ask no other server."""
    opened: list[Page] = []
    errors: list[str] = []
    asked: set[str] = set()

    def visit(url: str, *, frozen: bool = False, **options: Any) -> Page:
        page = browser.new_context(**options).new_page()
        if frozen:
            page.clock.install()
            page.clock.pause_at("2030-01-01")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        asked.add(urlsplit(url).netloc)
        page.goto(url)
        opened.append(page)
        return page

    yield visit
    for page in opened:
        page.context.close()
    refused = ("Failed to load resource: net::ERR_CONNECTION_REFUSED", "503 (Service Unavailable)")
    assert [error for error in errors if not any(words in error for words in refused)] == []
    assert len(asked - {""}) <= 1  # data: URLs have no server


class Scripted:
    """A service whose metrics page says what the test wants."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.status = 200
        self.asked = 0
        self.app = FastAPI()

        @self.app.get("/metrics")
        async def metrics() -> Response:
            self.asked += 1
            return Response(self.text, self.status, media_type="text/plain; version=0.0.4")

        mount_dashboard(self.app, interval=INTERVAL)

    @contextmanager
    def running(self, port: int = 0) -> Iterator[str]:
        with bind("127.0.0.1", port) as listening, in_background(self.app, listening) as url:
            yield url


@pytest.fixture
def scripted() -> Iterator[tuple[Scripted, str]]:
    """The service and the address of its page."""
    service = Scripted()
    with service.running() as url:
        yield service, f"{url}/dashboard"


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Load:
    """Pages of a service whose counters grow by chance."""

    BOUNDS = (0.01, 0.1, 1.0, math.inf)

    def __init__(self, seed: int, models: list[str]) -> None:
        self.random = random.Random(seed)
        self.models = models
        self.counters: dict[str, float] = {}

    def grow(self) -> None:
        for model in map(escaped, self.models):
            for name, _ in HISTOGRAMS.values():
                count = 0
                for bound in self.BOUNDS:
                    count += self.random.choice([0, 0, 3, 40])
                    le = "+Inf" if bound == math.inf else bound
                    self._add(f'{name}_bucket{{model="{model}",le="{le}"}}', count)
            for status in ("success", "error", "cancelled"):
                name = f'ryot_inference_requests_total{{model="{model}",status="{status}"}}'
                self._add(name, self.random.randint(0, 9))
            name = f'ryot_tokens_generated_total{{model="{model}",token_type="completion"}}'
            self._add(name, self.random.randint(0, 999))

    def reset(self) -> None:
        self.counters.clear()

    def page(self) -> str:
        gauges = [
            f'ryot_active_inference_requests{{model="{escaped(model)}"}} {index + 1}'
            for index, model in enumerate(self.models)
        ]
        lines = [f"{series} {value}" for series, value in self.counters.items()] + gauges
        return "# TYPE x counter\n" + "\n".join(lines) + "\n"

    def _add(self, series: str, amount: float) -> None:
        self.counters[series] = self.counters.get(series, 0) + amount


COMPUTED = """
(texts) => {
  const pages = new Pages(1000);
  texts.forEach((text, index) => pages.add(text, index * 2, index === 0));
  const last = texts.length - 1;
  const rate = (name, group) => {
    const grown = pages.increase(0, last, name, { group });
    return Number.isNaN(grown) ? null : grown / (2 * last);
  };
  const quantiles = (name) => [0.5, 0.95, 0.99].map((q) => {
    const value = pages.quantile(q, 0, last, `${name}_bucket`);
    return Number.isNaN(value) ? null : value;
  });
  return {
    ttft: quantiles("ryot_ttft_latency_seconds"),
    latency: quantiles("ryot_inference_latency_seconds"),
    tokens: rate("ryot_tokens_generated_total", "completion"),
    success: rate("ryot_inference_requests_total", "success"),
    active: pages.level(last, "ryot_active_inference_requests"),
  };
}
"""


def test_arithmetic_is_pythons(scripted: Any, visit: Any) -> None:
    """On 40 random pairs of pages, some after a restart, the page computes what `live` does."""
    page = visit(scripted[1])
    for seed in range(40):
        load = Load(seed, ["a", *HOSTILE][: 1 + seed % 5])
        load.grow()
        before = load.page()
        if seed % 4 == 0:
            load.reset()
        load.grow()
        after = load.page()
        computed = page.evaluate(COMPUTED, [before, after])
        figures = Figures.between(Snapshot.parse(before, 0), Snapshot.parse(after, 2))
        for field in ("ttft", "latency"):
            quantiles = getattr(figures, field)
            expected = [quantiles.p50, quantiles.p95, quantiles.p99]
            assert computed[field] == pytest.approx(expected), (seed, field)
        assert computed["tokens"] == pytest.approx(figures.tokens_per_second)
        assert computed["success"] == pytest.approx(figures.requests_per_second["success"])
        assert computed["active"] == figures.active


def test_growth_over_a_restart(scripted: Any, visit: Any) -> None:
    """What was counted before a restart and after it is in the growth, once."""
    name = 'ryot_tokens_generated_total{token_type="completion"}'
    texts = [f"{name} {count}\n" for count in (100, 130, 20, 25)]
    computed = visit(scripted[1]).evaluate(COMPUTED, texts)
    assert computed["tokens"] == (30 + 20 + 5) / 6


def test_restart_by_its_time(scripted: Any, visit: Any) -> None:
    """A service that started anew and counts more than before has grown by all that it counts."""
    name = 'ryot_tokens_generated_total{token_type="completion"}'
    starts = ((1, 100), (2, 130))
    texts = [f"{START} {start}\n{name} {count}\n" for start, count in starts]
    assert visit(scripted[1]).evaluate(COMPUTED, texts)["tokens"] == 130 / 2


def test_parser_is_prometheus_clients(scripted: Any, visit: Any) -> None:
    """Series with hostile label values are read as prometheus_client's parser reads them."""
    load = Load(1, HOSTILE)
    load.grow()
    text = load.page() + 'x{a="1"} NaN\nx{a="2"} -Inf 1700000000000\ny 1e-3\n'
    read = visit(scripted[1]).evaluate(
        """(text) => [...lines(text)].map(([series, value]) => {
          const { name, labels } = parseSeries(series);
          return [name, [...labels].sort(), String(value)];
        })""",
        text,
    )
    samples = [sample for family in parse_text(text) for sample in family.samples]
    assert [(name, dict(labels)) for name, labels, _ in read] == [
        (sample.name, sample.labels) for sample in samples
    ]
    for (_, _, value), sample in zip(read, samples, strict=True):
        shown = float(value.replace("Infinity", "inf"))
        assert shown == sample.value or (math.isnan(shown) and math.isnan(sample.value))


def shown(page: Page, card: str) -> dict[str, float]:
    """The values in the legend of a chart, by series."""
    items = page.locator(f"[data-card='{card}'] .legend li").all()
    outputs = [(item.inner_text(), item.locator("output")) for item in items]
    return {
        text.removesuffix(output.inner_text()).strip(): float(
            output.get_attribute("data-value") or "nan"
        )
        for text, output in outputs
    }


def read(page: Page, count: int) -> None:
    """Waits until the page has drawn so many readings of the metrics page."""
    while page.evaluate("pages.snapshots.length") < count:
        pass


def read_again(page: Page) -> None:
    """Waits until the page has drawn what the metrics page says from now on."""
    read(page, page.evaluate("pages.snapshots.length") + 2)  # one may be on its way


def test_shows_what_the_service_did(engine: Any, visit: Any) -> None:
    """After a load over HTTP, the shown quantiles and rates are those of the metrics page."""
    app = create_app(engine)
    mount_dashboard(app, "/quick/charts", interval=INTERVAL)
    with (
        bind("127.0.0.1", 0) as listening,
        in_background(app, listening) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        page = visit(f"{url}/quick/charts")
        expect(page.locator("#state")).to_have_text("live")
        before = Snapshot.parse(client.get("/metrics").text, 0)
        for size in (4, 30, 60):
            body = {"prompt": "word " * size, "max_tokens": size, "stream": True}
            assert client.post("/v1/completions", json=body).status_code == 200
        read_again(page)
        after = Snapshot.parse(client.get("/metrics").text, 1)
    figures = Figures.between(before, after)
    for card, (_, field) in HISTOGRAMS.items():
        expected = asdict(getattr(figures, field))
        assert None not in expected.values()
        assert shown(page, card) == pytest.approx(expected), card
    tokens, requests = shown(page, "Tokens")["completion"], shown(page, "Requests")["success"]
    assert tokens / requests == pytest.approx(figures.tokens_per_second / 3)
    assert shown(page, "Batch size")["mean"] == pytest.approx(figures.batch_size_mean)
    assert shown(page, "In progress") == {"active": figures.active, "queued": figures.queue_depth}


DEVICES = """\
ryot_gpu_memory_usage_bytes{model="a",memory_type="used",device_id="0"} 3221225472
ryot_gpu_memory_usage_bytes{model="a",memory_type="peak",device_id="0"} 9e9
ryot_gpu_memory_usage_bytes{model="b",memory_type="used",device_id="0"} 1073741824
ryot_gpu_utilization_percent{model="a",device_id="0",kernel_type="all"} 70
ryot_gpu_utilization_percent{model="b",device_id="0",kernel_type="all"} 70
ryot_kv_cache_size_bytes{model="a"} 1048576
ryot_kv_cache_queries_total{model="a"} %d
ryot_kv_cache_hits_total{model="a"} %d
"""


def test_devices_and_cache(scripted: Any, visit: Any) -> None:
    """Memory adds up over models, utilisation does not; the hit ratio is of what grew."""
    service, url = scripted
    service.text = DEVICES % (100, 100)
    page = visit(url)
    expect(page.locator("#absent")).to_be_empty()
    service.text = DEVICES % (180, 120)
    read_again(page)
    assert shown(page, "KV cache hits") == {"hits": 25}
    assert shown(page, "KV cache size") == {"size": 1048576}
    assert shown(page, "GPU memory") == {"GPU 0": 2**32}
    assert shown(page, "GPU utilisation") == {"GPU 0": 70}
    assert "GPU 0 4\u00a0GiB" in page.locator("[data-card='GPU memory'] .legend").inner_text()


ENGINE = """\
ryot_engine_queued_sessions{model="a",class="interactive"} 2
ryot_engine_queued_sessions{model="a",class="background"} 5
ryot_engine_queued_sessions{model="b",class="background"} 1
ryot_engine_slo_violations_total{model="a",slo="ttft",class="interactive"} 7
ryot_engine_slo_violations_total{model="a",slo="tbt",class="interactive"} 0
ryot_engine_prefix_cache_queries_total{model="a"} %d
ryot_engine_prefix_cache_hits_total{model="a"} %d
ryot_engine_prefix_cache_resident_bytes{model="a",location="device"} 1024
ryot_engine_prefix_cache_resident_bytes{model="a",location="host"} 2048
"""


def test_an_engine_has_its_own_charts(scripted: Any, visit: Any) -> None:
    """Its queue by class, late tokens by promise, and its prefix cache; no service misses them."""
    service, url = scripted
    service.text = ENGINE % (100, 100)
    page = visit(url)
    expect(page.locator("[data-card='Engine queue']")).to_be_visible()
    service.text = ENGINE % (200, 175)
    read_again(page)
    assert shown(page, "Engine queue") == {"interactive": 2, "background": 6}
    assert shown(page, "Prefix cache hits") == {"hits": 75}
    assert shown(page, "Prefix cache size") == {"device": 1024, "host": 2048}
    assert shown(page, "Late tokens") == {"ttft": 0, "tbt": 0}
    service.text = ENGINE.replace("} 7", "} 9") % (200, 175)
    read_again(page)
    grown = """(group) => pages.increase(0, pages.snapshots.length - 1,
      "ryot_engine_slo_violations_total", { group })"""
    assert (page.evaluate(grown, "ttft"), page.evaluate(grown, "tbt")) == (2, 0)
    assert "Engine" not in page.locator("#absent").inner_text()


def test_the_native_server_s_page_reads_its_metrics(visit: Any) -> None:
    """Charts from a thread that needs no interpreter: what was recorded is shown."""
    with serve_metrics(0) as server:
        page = visit(server.url.replace("/metrics", "/dashboard"))
        expect(page.locator("#state")).to_have_text("live")
        before = shown(page, "In progress").get("active", math.nan)
        before = 0 if math.isnan(before) else before
        with InferenceContext(model="native page"):
            page.reload()
            expect(page.locator("#state")).to_have_text("live")
            assert shown(page, "In progress")["active"] == before + 1


def test_empty(scripted: Any, visit: Any) -> None:
    """A service without requests has charts that say so, and none for what it does not report."""
    page = visit(scripted[1])
    cards = page.locator(".card:visible")
    expect(cards).to_have_count(8)
    assert {card.locator(".empty").inner_text() for card in cards.all()} == {"no requests yet"}
    absent = "Not reported: KV cache hits, KV cache size, GPU memory, GPU utilisation."
    expect(page.locator("#absent")).to_have_text(absent)


def test_one_model_of_many(scripted: Any, visit: Any) -> None:
    """A model can be chosen by its name, whatever the name is; nothing of a name is run."""
    service, url = scripted
    load = Load(7, HOSTILE)
    load.grow()
    service.text = load.page()
    page = visit(url)
    expect(page.locator("#model option")).to_have_count(len(HOSTILE) + 1)
    names = [option.get_attribute("value") for option in page.locator("#model option").all()]
    assert set(names) == {"", *HOSTILE}
    for index, name in enumerate(HOSTILE):
        page.select_option("#model", name)
        assert shown(page, "In progress")["active"] == index + 1
    assert page.evaluate("globalThis.broken") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1


def test_hostile_devices(scripted: Any, visit: Any) -> None:
    """A device's name is text in its legend too."""
    service, url = scripted
    service.text = "".join(
        f'ryot_gpu_utilization_percent{{device_id="{escaped(name)}"}} 5\n' for name in HOSTILE
    )
    page = visit(url)
    expect(page.locator("[data-card='GPU utilisation'] .legend li")).to_have_count(len(HOSTILE))
    assert page.evaluate("globalThis.broken") is None
    assert page.locator("img").count() == 0


def test_many_models_are_counted_together(scripted: Any, visit: Any) -> None:
    """Past 50 models the page counts the others as one, and the sum is still the sum."""
    service, url = scripted
    service.text = Load(1, [f"m{index}" for index in range(120)]).page()
    page = visit(url)
    expect(page.locator("#model option")).to_have_count(51)
    assert shown(page, "In progress")["active"] == 120 * 121 / 2


def test_reconnects(visit: Any) -> None:
    """A service that went away is told in a banner; when it is back, the charts go on."""
    service = Scripted('ryot_queue_depth{model="a"} 3\n')
    with service.running() as url:
        page = visit(f"{url}/dashboard")
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#banner")).to_be_visible()
    expect(page.locator("#banner")).to_contain_text("Reconnecting… /metrics does not answer.")
    assert shown(page, "In progress")["queued"] == 3
    service.text = 'ryot_queue_depth{model="a"} 5\n'
    with service.running(urlsplit(url).port or 0):
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#state")).to_have_text("live")
        assert shown(page, "In progress")["queued"] == 5
        gaps = page.evaluate("pages.snapshots.map(({ gap }) => gap)")
    assert gaps.count(True) == 2  # the first page, and the first after the break


def test_refusal_names_the_status(visit: Any) -> None:
    """A metrics page that answers with an error is a failure with its status."""
    service = Scripted()
    service.status = 503
    with service.running() as url:
        banner = visit(f"{url}/dashboard").locator("#banner")
        expect(banner).to_contain_text("/metrics answers 503.")
        service.status = 200
        expect(banner).to_be_hidden()


HIDE = """
(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


def test_hidden_tab_asks_nothing(scripted: Any, visit: Any) -> None:
    """A tab that is not looked at stops to read; looked at again, it reads at once."""
    service, url = scripted
    page = visit(url, frozen=True)
    read(page, 1)
    page.clock.run_for(INTERVAL * 1000)
    read(page, 2)
    page.evaluate(HIDE, True)
    page.clock.run_for(60_000)
    assert service.asked == 2
    page.evaluate(HIDE, False)
    read(page, 3)
    assert service.asked == 3


def test_cursor(scripted: Any, visit: Any) -> None:
    """The pointer and the arrow keys show earlier values, in all charts at once."""
    service, url = scripted
    service.text = "ryot_queue_depth 1\nryot_active_inference_requests 2\n"
    page = visit(url)
    expect(page.locator("#state")).to_have_text("live")
    service.text = "ryot_queue_depth 8\nryot_active_inference_requests 9\n"
    read_again(page)
    page.select_option("#span", "60")
    chart = page.locator("[data-card='In progress'] svg")
    chart.hover(position={"x": 60, "y": 60})
    assert shown(page, "In progress") == {"active": 2, "queued": 1}
    expect(page.locator(".cursor")).to_have_count(8)
    page.mouse.move(0, 0)
    expect(page.locator(".cursor")).to_have_count(0)
    assert shown(page, "In progress") == {"active": 9, "queued": 8}
    chart.focus()
    for _ in range(60):
        chart.press("ArrowLeft")
    assert shown(page, "In progress") == {"active": 2, "queued": 1}
    assert "queued 1" in (chart.get_attribute("aria-label") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_accessible_and_no_wider_than_the_screen(
    scripted: Any, visit: Any, scheme: str, width: int
) -> None:
    """axe-core finds nothing (contrast too), and nothing has to be scrolled sideways."""
    service, url = scripted
    load = Load(3, ["a", "the-longest-name-of-a-model-that-anybody-thought-of" * 2])
    load.grow()
    service.text = load.page() + DEVICES % (5, 1)
    page = visit(url, color_scheme=scheme, viewport={"width": width, "height": 800})
    expect(page.locator("#state")).to_have_text("live")
    load.grow()
    service.text = load.page() + DEVICES % (9, 3)
    read_again(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 245, 247)", "dark": "rgb(14, 17, 22)"}[scheme]


def test_theme_button(scripted: Any, visit: Any) -> None:
    """The button changes the colours, and the choice outlives a reload."""
    page = visit(scripted[1], color_scheme="light")
    button = page.get_by_role("button", name="Switch to dark colours")
    button.click()
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
    expect(page.get_by_role("button", name="Switch to light colours")).to_be_visible()


def test_behind_a_prefix(visit: Any) -> None:
    """Under a prefix that the app does not know, the page finds the metrics beside it."""
    service, outer = Scripted("ryot_queue_depth 4\n"), FastAPI()
    outer.mount("/prefix", service.app)
    service.app = outer
    with service.running() as url:
        page = visit(f"{url}/prefix/dashboard")
        expect(page.locator("#state")).to_have_text("live")
        assert shown(page, "In progress")["queued"] == 4
