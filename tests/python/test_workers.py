"""Worker processes that share a mapping: forked, spawned, killed, and a page of all of them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import prometheus_client.multiprocess
import pytest
from prometheus_client import CollectorRegistry as OracleRegistry
from prometheus_client import generate_latest as oracle_page
from prometheus_client.parser import text_string_to_metric_families

from ryot_metrics import client
from ryot_metrics.client.multiprocess import MultiProcessCollector

PRELUDE = """
import os, signal, sys, time
from ryot_metrics import client, configure
from ryot_metrics.client import Counter, Gauge, Histogram, Info, Enum, Summary
def page():
    return client.generate_latest(client.REGISTRY).decode()
"""
DEADLINE_SECONDS = 60


@pytest.fixture
def mapping(tmp_path):
    """The path of a mapping."""
    return tmp_path / "mapping"


def environment(mapping):
    return {**os.environ, "RYOT_METRICS_SHARED": str(mapping), "RYOT_METRICS_GPU": "off"}


def start(mapping, code, *arguments, **options):
    """Starts a process with the mapping."""
    command = [sys.executable, "-c", PRELUDE + code, *map(str, arguments)]
    env = environment(mapping)
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options
    )


def run(mapping, code, *arguments):
    """Runs a process to its end; gives what it printed."""
    process = start(mapping, code, *arguments, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, errors
    return output


def samples(page):
    """What a page says, as the official parser reads it."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def page_of(mapping):
    """The page of a process that only reads."""
    return samples(run(mapping, "print(page())"))


FORK = """
jobs = Counter("jobs", "", ["queue"])
sizes = Histogram("sizes", "", buckets=(1, 2))
busy = Gauge("busy", "", multiprocess_mode="livesum")
each = Gauge("each", "", ["x"])
mail = jobs.labels("mail")
mail.inc()
each.labels("a").set(1)
children = []
for number in range(3):
    if not (pid := os.fork()):
        mail.inc(10)
        jobs.labels(str(number)).inc()
        sizes.observe(number)
        busy.inc()
        each.labels("a").set(5)
        signal.pause()
    children.append(pid)
while page().count('x="a"} 5.0') < 3:
    time.sleep(0.01)
print(page(), end="")
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def test_forked_workers_write_one_page(mapping):
    """Children go on with the parent's objects; counters add up, each has gauges of its own."""
    found = samples(run(mapping, FORK))
    jobs = {key[1][1]: value for key, value in found.items() if key[0] == "jobs_total"}
    assert jobs == {"mail": 31, "0": 1, "1": 1, "2": 1}
    assert found["sizes_count",] == 3
    assert found["sizes_bucket", ("le", "1.0")] == 2
    assert found["busy",] == 3
    values = sorted(value for key, value in found.items() if key[0] == "each")
    assert values == [1, 5, 5, 5]
    later = page_of(mapping)
    assert later["jobs_total", ("queue", "mail")] == 31
    assert later["busy",] == 0


def test_a_process_that_made_nothing_has_the_page_of_all(mapping):
    """Types, labels and texts come from the mapping: a reader needs none of the code."""
    run(
        mapping,
        """
Info("build", "The build.").info({"version": "1.2"})
Enum("task", "Task.", states=["idle", "busy"]).state("busy")
Summary("size", "Sizes.").observe(2.5)
Histogram("native", "", buckets=None, native_factor=1.1).observe(3)
""",
    )
    found = page_of(mapping)
    assert found["build_info", ("version", "1.2")] == 1
    assert found["task", ("task", "busy")] == 1
    assert (found["size_count",], found["size_sum",]) == (1, 2.5)
    assert found["native_count",] == 1


LLM = """
from ryot_metrics import InferenceContext
with InferenceContext("m"):
    pass
held = InferenceContext("m")
held.__enter__()
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_recorders_of_workers_are_one(mapping):
    """Requests of two workers add up; those that were open in a killed one are open no more."""
    workers = [start(mapping, LLM) for _ in range(2)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    requests = ("ryot_inference_requests_total", ("model", "m"), ("status", "success"))
    active = ("ryot_active_inference_requests", ("model", "m"), ("request_type", "standard"))
    page = page_of(mapping)
    assert (page[requests], page[active]) == (2, 2)
    workers[0].kill()
    workers[0].communicate()
    page = page_of(mapping)
    assert (page[requests], page[active]) == (2, 1)
    workers[1].communicate("")


MODES = """
import os, sys
if sys.argv[1] == "oracle":
    from prometheus_client import Gauge
else:
    from ryot_metrics.client import Gauge
for mode in sys.argv[2].split(","):
    Gauge(f"g_{mode}", "", ["x"], multiprocess_mode=mode).labels("1").set(float(sys.argv[3]))
print(os.getpid(), flush=True)
sys.stdin.read()
"""
WORDS = ["all", "sum", "min", "max", "mostrecent"]
WORDS += [f"live{word}" for word in WORDS]


def test_gauges_are_merged_as_prometheus_client_does(mapping, tmp_path):
    """All ten modes, with two live workers and one that died."""
    directory = tmp_path / "db"
    directory.mkdir()
    pages = []
    for which in ("oracle", "ours"):
        env = {**environment(mapping), "PROMETHEUS_MULTIPROC_DIR": str(directory)}
        workers = []
        for value in (3, 5, 4):
            command = [sys.executable, "-c", MODES, which, ",".join(WORDS), str(value)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers.append(subprocess.Popen(command, env=env, **pipes))
            workers[-1].stdout.readline()
        workers[1].kill()
        workers[1].communicate()
        if which == "oracle":
            registry = OracleRegistry()
            prometheus_client.multiprocess.MultiProcessCollector(registry, str(directory))
            prometheus_client.multiprocess.mark_process_dead(workers[1].pid, str(directory))
            page = samples(oracle_page(registry).decode())
        else:
            page = page_of(mapping)
        number = {str(worker.pid): f"worker {at}" for at, worker in enumerate(workers)}
        pages.append({
            (name, *((key, number.get(text, text)) for key, text in labels)): value
            for (name, *labels), value in page.items()
            if name.startswith("g_")
        })  # fmt: skip
        for worker in (workers[0], workers[2]):
            worker.communicate("")
    assert pages[0] == pages[1]
    assert len(pages[0]) == 8 + 3 + 2


REMOVE = """
jobs = Counter("jobs", "", ["queue"])
jobs.labels("a").inc()
print("ready", flush=True)
sys.stdin.readline()
jobs.labels("a").inc(100)
print(page(), end="")
"""


def test_a_worker_sees_that_another_one_removed_a_series(mapping):
    """Its next lookup begins anew, although its call site has always named the same labels."""
    worker = start(mapping, REMOVE)
    assert worker.stdout.readline() == "ready\n"
    run(mapping, 'jobs = Counter("jobs", "", ["queue"]); jobs.labels("a").inc(); jobs.remove("a")')
    page, _ = worker.communicate("\n", timeout=DEADLINE_SECONDS)
    assert samples(page)["jobs_total", ("queue", "a")] == 100


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"hello", "was cut off"),
        (b"x" * (1 << 20), "it is no mapping"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(mapping, content, text):
    """With a sentence that names it; from the environment, as a warning."""
    mapping.write_bytes(content)
    code = f"""
try:
    configure(shared={str(mapping)!r})
except ValueError as error:
    print(error)
"""
    sentence = run(mapping, code)
    assert text in sentence
    assert str(mapping) in sentence
    assert mapping.read_bytes() == content


def test_sharing_comes_before_the_first_write(tmp_path):
    """After a write it is refused, and nothing has changed; before, metrics may exist already."""
    code = f"""
os.environ.pop("RYOT_METRICS_SHARED")
jobs = Counter("late", "")
jobs.inc()
try:
    configure(shared={str(tmp_path / "one")!r}, series_limit=5)
except ValueError as error:
    print(error)
from ryot_metrics.config import settings
print(settings().shared == "", settings().series_limit, os.path.exists({str(tmp_path / "one")!r}))
"""
    lines = run("", code).splitlines()
    assert lines[0] == "shared: late was written before; share before the first write"
    assert lines[1] == "True 10000 False"


TORTURE = """
import mmap, random, struct
journal = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
place, operations = 32 * int(sys.argv[2]), int(sys.argv[3])
total = Counter("total", "")
some = Counter("some", "", ["x"])
sizes = Histogram("sizes", "", buckets=(1, 2, 3))
level = Gauge("level", "", multiprocess_mode="livesum")
level.set(1)
children = [some.labels(str(number)) for number in range(20)]
def note(at, value):
    journal[place + at : place + at + 8] = struct.pack("q", value)
(done,) = struct.unpack("q", journal[place + 24 : place + 32])
for step in range(done, operations):
    note(0, step + 1)
    total.inc()
    note(8, step + 1)
    children[step % 20].inc()
    note(16, step + 1)
    sizes.observe(step % 5)
    note(24, step + 1)
    if step % 100 == 0:
        some.labels(f"{os.getpid()}-{step}").inc(0)
        page() if step % 1000 == 0 else None
    if step % 150 == 0:
        some.remove(f"{os.getpid()}-{step}")
"""


# The full form has a million: RYOT_TEST_OPERATIONS=1000000, with --timeout 0.
OPERATIONS = int(os.environ.get("RYOT_TEST_OPERATIONS", "20000"))


def test_killed_workers_lose_nothing(mapping, tmp_path):
    """8 processes are killed at any instant and started again; the totals are their journals'.

    A journal says which step was begun and which of its three calls were done. A worker that starts
    again does its unfinished step again, whole: what a kill left between is counted once more.
    """
    processes, kills = 8, 0
    journal = tmp_path / "journal"
    journal.write_bytes(bytes(32 * processes))
    chance = random.Random(1)
    begin = lambda number: start(mapping, TORTURE, journal, number, OPERATIONS)  # noqa: E731
    workers = [begin(number) for number in range(processes)]
    while any(worker.poll() is None for worker in workers):
        time.sleep(chance.random() / 10)
        number = chance.randrange(processes)
        if workers[number].poll() is None and kills < 40:
            workers[number].send_signal(signal.SIGKILL)
            workers[number].communicate()
            workers[number] = begin(number)
            kills += 1
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    page = page_of(mapping)
    some = sum(v for k, v in page.items() if k[0] == "some_total" and len(k[1][1]) < 3)
    # A killed step is done again, so each kill may count one more than the operations.
    for value in (page["total_total",], some, page["sizes_count",]):
        assert processes * OPERATIONS <= value <= processes * OPERATIONS + kills
    assert page["sizes_count",] == page["sizes_bucket", ("le", "+Inf")]
    assert page["level",] == 0
    assert kills > 5


def test_files_of_prometheus_client_are_read_as_it_reads_them(tmp_path):
    """Counters, summaries, histograms and gauges of two processes; a damaged file costs itself."""
    code = """
import sys
from prometheus_client import Counter, Gauge, Histogram, Summary
value = float(sys.argv[1])
Counter("c", "Help.", ["x"]).labels("é").inc(value)
Summary("s", "").observe(value)
Histogram("h", "", ["x"], buckets=(1, 2, 10)).labels("1").observe(value)
for mode in "all sum min max mostrecent livesum".split():
    Gauge(f"g_{mode}", "", multiprocess_mode=mode).set(value)
"""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for value in ("1.5", "7"):
        subprocess.run([sys.executable, "-c", code, value], env=env, check=True)
    theirs, ours = OracleRegistry(), client.CollectorRegistry()
    prometheus_client.multiprocess.MultiProcessCollector(theirs, str(tmp_path))
    MultiProcessCollector(ours, tmp_path)
    found = samples(client.generate_latest(ours).decode())
    assert found == samples(oracle_page(theirs).decode())
    assert found["c_total", ("x", "é")] == 8.5
    (tmp_path / "counter_1.db").write_bytes(b"\x10\x27\0\0 bad")
    assert samples(client.generate_latest(ours).decode()) == found


def test_the_exporter_serves_a_mapping_and_files(mapping, tmp_path):
    """One page of the workers' mapping, and of what a service still writes for its own library."""
    import httpx

    directory = tmp_path / "db"
    directory.mkdir()
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    code = "from prometheus_client import Counter; Counter('old', '').inc(3)"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    command = ["-m", "ryot_metrics", "exporter", mapping, "--db", directory, "--port", "0"]
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=-1, text=True)
    try:
        url = process.stdout.readline().strip()
        run(mapping, 'Counter("new", "").inc(4)')
        page = samples(httpx.get(url).text)
        assert (page["old_total",], page["new_total",]) == (3, 4)
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_a_name_is_a_file_in_shared_memory():
    """A bare name needs no path, and the file is its owner's alone."""
    name = f"ryot-test-{os.getpid()}"
    path = Path("/dev/shm", name)
    try:
        run(name, 'Counter("a", "").inc()')
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        path.unlink(missing_ok=True)


def test_a_full_disk_costs_no_count(tmp_path):
    """Without room in the file a worker counts for itself, and says so in its log."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    code = """
import logging
logging.basicConfig(stream=sys.stdout)
jobs = Counter("jobs", "", ["x"])
for number in range(30_000):
    jobs.labels(f"{number}-" + "x" * 100).inc()
text = page()
print(text.count("jobs_total{"))
print(text.split("ryot_metrics_unshared_series ")[-1].split()[0])
"""
    script = f"""
mount -t tmpfs -o size=1500k none {tmp_path}
RYOT_METRICS_SHARED={tmp_path}/full exec {sys.executable} -c '{PRELUDE}{code}'
"""
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "jobs counts in this process alone for now: cannot make room for" in done.stdout
    *_, shown, alone = done.stdout.splitlines()
    assert shown == "30000"
    assert 20_000 < float(alone) < 30_000


def test_a_stopped_holder_of_the_lock_holds_nobody_up(mapping):
    """New series count in their own process, a gauge says how many, and join the rest later."""
    code = """
import fcntl
configure(shared_wait=0.1)
jobs = Counter("jobs", "", ["x"])
jobs.labels("before").inc()
with open(os.environ["RYOT_METRICS_SHARED"]) as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    for number in range(100):
        jobs.labels(str(number)).inc()
    print("ryot_metrics_unshared_series 100.0" in page())
print(page().count("jobs_total{"), "ryot_metrics_unshared_series 0.0" in page())
"""
    assert run(mapping, code).split() == ["True", "101", "True"]
    assert page_of(mapping)["jobs_total", ("x", "99")] == 1


# The full form has a million, as test_killed_workers_lose_nothing has.
SHORT_LIVED = int(os.environ.get("RYOT_TEST_SHORT_LIVED", "100000"))


def test_short_lived_label_sets_need_the_memory_of_those_at_a_time(mapping):
    """Series with a time to live leave the file, though two processes meet each."""
    reader = """
while sys.stdin.readline():
    print(page().count("jobs_total{"), flush=True)
"""
    code = f"""
jobs = Counter("jobs", "", ["x"], idle_ttl=0.02)
for number in range({SHORT_LIVED}):
    jobs.labels(str(number)).inc()
    if number % 20_000 == 0:
        print(number, flush=True)
"""
    pages = start(mapping, reader)
    writer = start(mapping, code)
    for _ in writer.stdout:
        pages.stdin.write("\n")
        pages.stdin.flush()
        pages.stdout.readline()
    writer.communicate()
    assert writer.returncode == 0
    pages.communicate()
    assert mapping.stat().st_size <= 8 << 20


def test_the_journal_of_settings_names_where_sharing_came_from(mapping):
    """`shared` is a setting as others are."""
    code = """
import json
from ryot_metrics.config import settings
print(json.dumps([settings().shared, settings().sources["shared"]]))
"""
    assert json.loads(run(mapping, code)) == [str(mapping), "environment"]
