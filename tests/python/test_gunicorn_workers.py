"""gunicorn with uvicorn workers under load that share a mapping, while a Prometheus scrapes."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from test_prometheus import query, scraping, wait_for
from test_workers import DEADLINE_SECONDS, page_of

SERVICE = """
import os
from ryot_metrics import InferenceContext
from ryot_metrics.client import Counter, Gauge, Histogram, make_asgi_app
jobs = Counter("jobs", "Jobs begun.", ["queue"])
mail = jobs.labels("mail")
sizes = Histogram("sizes", "Sizes.", buckets=(1, 2))
workers = Gauge("workers", "Workers.", multiprocess_mode="livesum")
workers.set(1)
metrics = make_asgi_app()
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/metrics":
        return await metrics(scope, receive, send)
    mail.inc()
    sizes.observe(1.5)
    with InferenceContext("m"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
COMMAND = [
    "-m", "gunicorn", "workers_service:app", "-k", "uvicorn_worker.UvicornWorker", "-w", "4",
    "--max-requests", "200", "--max-requests-jitter", "50", "--log-level", "critical",
]  # fmt: skip


def load(port, answers, stop):
    """Asks until it is told to stop; notes which worker answered, or None where one was killed."""
    with httpx.Client(timeout=DEADLINE_SECONDS) as client:
        while not stop.is_set():
            try:
                answer = client.get(f"http://127.0.0.1:{port}/")
                answers.append(int(answer.text))
            except httpx.HTTPError:
                answers.append(None)  # it was counted, or not


def test_no_counter_goes_down_while_workers_are_killed_and_recycled(tmp_path):
    """4 workers, recycled and killed under load: each scrape has what was answered before it."""
    mapping = tmp_path / "mapping"
    (tmp_path / "workers_service.py").write_text(SERVICE)
    env = {**os.environ, "RYOT_METRICS_SHARED": str(mapping), "RYOT_METRICS_GPU": "off"}
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        port, fd = listening.getsockname()[1], listening.fileno()
        command = [sys.executable, *COMMAND, "-b", f"fd://{fd}"]
        server = subprocess.Popen(command, cwd=tmp_path, env=env, pass_fds=[fd])
    answers, killed, stop = [], set(), threading.Event()
    threads = [threading.Thread(target=load, args=(port, answers, stop)) for _ in range(3)]
    try:
        with scraping(tmp_path, f"127.0.0.1:{port}") as prometheus:
            for thread in threads:
                thread.start()
            wait_for(prometheus, "jobs_total > 200")
            for _ in range(6):
                worker = random.choice([pid for pid in answers[-20:] if pid] or [0])
                if worker and Path(f"/proc/{worker}").exists():
                    os.kill(worker, signal.SIGKILL)
                    killed.add(worker)
                time.sleep(0.5)  # the load goes on meanwhile
            wait_for(prometheus, "jobs_total > 1500")
            stop.set()
            for thread in threads:
                thread.join()
            for name in ("jobs_total", "sizes_count", "ryot_inference_requests_total"):
                for result in query(prometheus, f"resets({name}[10m])"):
                    assert float(result["value"][1]) == 0, result
            wait_for(prometheus, "workers == 4")
    finally:
        stop.set()
        server.terminate()
        server.wait(timeout=DEADLINE_SECONDS)
    page = page_of(mapping)
    requests = ("ryot_inference_requests_total", ("model", "m"), ("status", "success"))
    for total in (page["jobs_total", ("queue", "mail")], page["sizes_count",], page[requests]):
        assert len(answers) - answers.count(None) <= total <= len(answers)
    assert page["workers",] == 0
    assert len(killed) > 2
    assert len(set(answers)) > 6
