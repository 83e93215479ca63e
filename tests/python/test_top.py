"""The terminal view: its readings, how it looks, and its two forms for scripts."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta

import httpx
import pytest
from rich.console import Console

from ryot_metrics.cli import main
from ryot_metrics.top.reader import Reader
from ryot_metrics.top.run import page_url, run
from ryot_metrics.top.view import render

BUCKET = 'ryot_ttft_latency_seconds_bucket{{model="m",le="{}"}} {}\n'
NOON = datetime(2030, 1, 1, 12)


def page(tokens, *, started=1):
    """A page of a service that has produced this many tokens, one request for each ten."""
    return (
        f"process_start_time_seconds {started}\n"
        f'ryot_tokens_generated_total{{model="m",token_type="completion"}} {tokens}\n'
        f'ryot_inference_requests_total{{model="m",status="success"}} {tokens // 10}\n'
        f'ryot_queue_depth{{model="m"}} 4\n'
        f'ryot_kv_cache_size_bytes{{model="m"}} {3 * 2**20}\n'
        f'ryot_gpu_utilization_percent{{model="m",device_id="0",kernel_type="all"}} 73\n'
        f'ryot_gpu_memory_usage_bytes{{model="m",device_id="0",memory_type="used"}} {2**31}\n'
        + BUCKET.format("0.1", tokens // 10)
        + BUCKET.format("+Inf", tokens // 10)
    )


def reader_of(answers):
    """A reader that gets these pages and errors, two seconds apart."""
    times = iter(range(0, 2 * len(answers), 2))
    queue = iter(answers)
    looks = iter(NOON + timedelta(seconds=2 * look) for look in range(len(answers)))

    def fetch():
        answer = next(queue)
        if isinstance(answer, OSError):
            raise answer
        return answer

    return Reader(fetch, lambda: float(next(times)), lambda: next(looks))


def test_rates_come_with_the_second_page():
    """The first look has no figures; the next has those of the two seconds between them."""
    reader = reader_of([page(100), page(180)])
    first, second = reader.read(), reader.read()
    assert (first.figures, first.problem) == (None, None)
    assert second.figures.tokens_per_second == 40
    assert second.figures.ttft.p50 == pytest.approx(0.05)


def test_outage_and_return():
    """A service that is down shows since when; back again, rates do not span the outage."""
    down = ConnectionRefusedError("connection refused")
    reader = reader_of([page(100), down, down, page(20, started=2), page(30, started=2)])
    readings = [reader.read() for _ in range(5)]
    assert readings[1].problem == "unreachable since 12:00:02: connection refused"
    assert readings[2].problem == readings[1].problem
    assert (readings[3].figures, readings[3].problem) == (None, None)
    assert readings[4].figures.requests_per_second == {"success": 0.5}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<html>hello</html>", "not a page of metrics: "),
        ("up 1\n", "no family of a language model"),
        ("", "no family of a language model"),
    ],
)
def test_other_pages(text, problem):
    """What is no page of a language model's service says so."""
    reading = reader_of([text]).read()
    assert reading.problem.startswith(problem)


def shown(readings):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render("http://a.example/metrics", readings))
    return console.export_text().splitlines()


def row(lines, title):
    """The cells of a row that two blanks part."""
    (line,) = (line for line in lines if line.startswith(title))
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_view_shows_every_figure():
    """Quantiles, rates and levels stand beside their history."""
    reader = reader_of([page(0), page(0), page(80), page(400)])
    lines = shown([reader.read() for _ in range(4)])
    assert lines[0] == "http://a.example/metrics  12:00:06"
    assert row(lines, "TTFT") == ["TTFT", "50.0 ms", "95.0 ms", "99.0 ms", "██"]
    assert row(lines, "inter-token") == ["inter-token", "-", "-", "-"]
    assert row(lines, "tokens/s") == ["tokens/s", "160", "▁▃█"]
    assert row(lines, "requests/s") == ["requests/s", "16", "16.0 success", "▁▃█"]
    assert row(lines, "queue    ")[:2] == ["queue", "4"]
    assert row(lines, "KV cache")[:2] == ["KV cache", "3.0 MiB"]
    assert row(lines, "GPU 0")[:3] == ["GPU 0", "73 %", "2.0 GiB in use"]


def test_view_shows_an_engine():
    """Its queue by class, late tokens and prefix cache have rows where the page has them."""
    text = (
        'ryot_engine_queued_sessions{{model="m",class="interactive"}} 2\n'
        'ryot_engine_queued_sessions{{model="m",class="background"}} 1\n'
        'ryot_engine_slo_violations_total{{model="m",slo="tbt",class="interactive"}} {0}\n'
        'ryot_engine_prefix_cache_queries_total{{model="m"}} {0}00\n'
        'ryot_engine_prefix_cache_hits_total{{model="m"}} {0}0\n'
        'ryot_engine_prefix_cache_resident_bytes{{model="m",location="host"}} 2048\n'
    ).format
    reader = reader_of([page(0) + text(1), page(80) + text(9)])
    lines = shown([reader.read() for _ in range(2)])
    assert row(lines, "engine queue")[:3] == ["engine queue", "3", "2 interactive, 1 background"]
    assert row(lines, "late tokens/s")[:3] == ["late tokens/s", "4", "4 tbt"]
    assert row(lines, "prefix cache")[:3] == ["prefix cache", "10 %", "2.0 KiB host"]
    without = shown([reader.read() for reader in [reader_of([page(0), page(8)])] for _ in "ab"])
    assert not [line for line in without if line.startswith(("engine", "late", "prefix"))]


def test_view_shows_a_problem():
    """With the service down there is the reason, and no old number."""
    reader = reader_of([page(0), page(80), ConnectionRefusedError("refused")])
    lines = shown([reader.read() for _ in range(3)])
    assert lines[1:] == ["unreachable since 12:00:04: refused"]


@pytest.fixture
def chat(live_server):
    """A function that lets the toy service answer a request, whatever it is called with."""

    def complete(*_):
        body = {"model": "toy", "prompt": "hello", "max_tokens": 5}
        httpx.post(f"{live_server}/v1/completions", json=body, timeout=30).raise_for_status()

    complete()
    return complete


def test_once_as_json(live_server, chat):
    """`--once --json` gives one object, with the request that came between its two pages."""
    out = io.StringIO()
    run(live_server, once=True, as_json=True, console=Console(file=out), wait=chat)
    (line,) = out.getvalue().splitlines()
    found = json.loads(line)
    assert found["problem"] is None
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(5)
    assert found["requests_per_second"]["success"] * found["seconds"] == pytest.approx(1)
    assert 0 < found["ttft"]["p50"] <= found["ttft"]["p99"]
    assert found["batch_size_mean"] == 1
    assert "gpus" in found


def test_once_in_the_shell(live_server, chat, capsys):
    """`ryot-metrics top URL --once` prints the view once, without control characters."""
    assert main(["top", live_server, "--once", "--interval", "0.1"]) == 0
    out = capsys.readouterr().out
    assert f"{live_server}/metrics" in out
    assert "TTFT" in out
    assert "\x1b" not in out


def test_json_goes_on_through_an_outage(live_server, chat):
    """Without `--once`, there is a line per interval until Ctrl-C, problems included."""
    out, looks = io.StringIO(), iter(range(2))

    def wait(_):
        if next(looks, None) is None:
            raise KeyboardInterrupt
        chat()

    run(live_server, as_json=True, console=Console(file=out), wait=wait)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["problem"] for line in lines] == [None, None]
    out.truncate(0)
    run("127.0.0.1:1", as_json=True, console=Console(file=out), wait=lambda _: wait(_))
    assert "unreachable since" in out.getvalue()


def test_live_view_is_drawn_anew(live_server, chat):
    """On a terminal each look draws the whole screen again, until Ctrl-C."""
    out, looks = io.StringIO(), iter(range(2))

    def wait(_):
        if next(looks, None) is None:
            raise KeyboardInterrupt
        chat()

    console = Console(file=out, force_terminal=True, width=100, height=30)
    run(live_server, console=console, wait=wait)
    text = out.getvalue()
    assert "come with the second page" in text
    assert text.count("inter-token") >= 2
    assert text.endswith("\x1b[?25h\x1b[?1049l")  # cursor and screen are back


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localhost:1", "--once"], "http://localhost:1/metrics: unreachable since "),
        (["ftp://a.example", "--once"], "URL is 'ftp://a.example'; it must be http://"),
        (["localhost:1", "--interval", "0"], "--interval is 0; at least 0.1 s"),
        (["localhost:1", "--interval", "nan"], "--interval is nan; at least 0.1 s"),
        (["localhost:1"], "the output is no terminal; use --once or --json"),
    ],
)
def test_refusals(arguments, message, capsys):
    """What cannot be shown is said in one line."""
    assert main(["top", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ryot-metrics: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_page_url_keeps_what_is_given():
    """A path or a query that somebody types is theirs."""
    assert page_url("http://[::1]:9464/") == "http://[::1]:9464/metrics"
    assert page_url("h:1/metrics?profile=vllm") == "http://h:1/metrics?profile=vllm"
