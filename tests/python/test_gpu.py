"""GPUs on the page, against a driver's library that the test compiles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ryot_metrics.gpu import watch_gpus

SOURCE = Path(__file__).parents[1] / "core" / "fake_nvml.c"

PAGES = """
import logging, sys, time
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
from ryot_metrics.client import REGISTRY, generate_latest
from ryot_metrics.gpu import stop_watching_gpus, watch_gpus

def lines():
    page = generate_latest(REGISTRY).decode()
    return [line for line in page.splitlines() if line.startswith("ryot_gpu")]

def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, lines()
        time.sleep(0.005)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The folder of a library that answers like NVIDIA's."""
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libnvidia-ml.so.1"
    compiler = shutil.which("cc") or "g++"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", library, SOURCE]
    subprocess.run(command, check=True)
    return folder


def run(script, folder, **environment):
    """What a script prints where the loader looks into this folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": ":".join(sys.path),
        "LD_LIBRARY_PATH": str(folder),
        **environment,
    }
    command = [sys.executable, "-c", PAGES + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gpus_are_on_the_page_by_themselves(driver):
    """The first page starts the sampler; the loader finds the driver's library."""
    output = run("lines(); wait_for(lines); print(*lines(), sep='\\n')", driver)
    assert 'ryot_gpu_memory_percentage{device_id="0"} 25.0' in output
    assert 'ryot_gpu_power_watts{device_id="0"} 312.5' in output


def test_a_device_has_its_model_and_leaves_when_it_is_lost(driver):
    """Models are chosen by device; a lost device, and a stopped sampler, leave nothing behind."""
    output = run(
        """
watch_gpus({0: "llama"}, interval=0.01)
wait_for(lambda: any("llama" in line for line in lines()))
wait_for(lambda: not any('device_id="1"' in line for line in lines()))
print(*lines(), sep="\\n")
stop_watching_gpus()
wait_for(lambda: not lines())
""",
        driver,
    )
    assert 'ryot_gpu_temperature_celsius{device_id="0",model="llama"} 61.0' in output


def test_without_a_driver_the_families_are_absent_and_the_log_says_why(tmp_path):
    """Once, at level DEBUG."""
    output = run(
        """
import io
stream = io.StringIO()
logging.getLogger("ryot_metrics").addHandler(logging.StreamHandler(stream))
assert lines() == []
wait_for(stream.getvalue)
assert lines() == [] and lines() == []
print(stream.getvalue().count("no GPU families"))
""",
        tmp_path,
    )
    assert "no GPU families: " in output
    assert "libnvidia-ml.so.1" in output
    assert output.endswith("1\n")


def test_the_environment_switches_it_off(driver):
    """No thread is started by a page then."""
    output = run(
        "lines(); import os; print(os.listdir('/proc/self/task').__len__())",
        driver,
        RYOT_METRICS_GPU="0",
    )
    assert output == "1\n"


def test_settings_switch_it_off_and_on(driver):
    """What was read leaves the page, and comes back with the page after."""
    output = run(
        """
from ryot_metrics import configure
wait_for(lines)
configure(gpu=False)
wait_for(lambda: not lines())
configure(gpu=True, gpu_interval=0.01)
wait_for(lambda: 'device_id="0"' in str(lines()) and 'device_id="1"' not in str(lines()))
print("lost at the second reading")
""",
        driver,
        RYOT_METRICS_GPU_INTERVAL="3600",
    )
    assert output.endswith("lost at the second reading\n")


def test_children_have_a_sampler_of_their_own(driver):
    """A fork in the middle of a reading leaves the child no lock, no thread and no old numbers."""
    output = run(
        """
import os, signal
watch_gpus("parent", interval=1e-5)
wait_for(lines)
for _ in range(50):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        watch_gpus("child")
        wait_for(lambda: "child" in str(lines()) and "parent" not in str(lines()))
        stop_watching_gpus()
        assert lines() == []
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop_watching_gpus()
assert lines() == [], "what was read while it was switched off"
print("read in each")
""",
        driver,
    )
    assert output.endswith("read in each\n")


@pytest.mark.parametrize("interval", [0, -1, float("nan"), 3601])
def test_an_interval_has_limits(interval):
    """The error names the value and the limits."""
    with pytest.raises(ValueError, match=r"interval is .* it must be above 0, 3600 at most"):
        watch_gpus(interval=interval)
