"""The examples and the README's code run as they are written."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ryot_metrics import catalogue

ROOT = Path(__file__).parents[2]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert done.stderr == ""
    return done.stdout


def test_decorators():
    """The decorators' example counts one request for each call."""
    output = run("examples/decorators.py")
    assert "HELLO" in output
    assert output.count("} 1.0") == 3


def test_context():
    """The context's example prints its tokens, gaps and queue wait."""
    lines = run("examples/context.py").splitlines()
    assert lines[1] == "5 tokens, success"
    assert [line.split()[1] for line in lines[2:]] == ["4.0", "1.0", "5.0"]


def test_batch_engine():
    """The engine's example answers four prompts and streams one."""
    output = run("examples/batch_engine.py")
    assert output.count("(length)") == 4
    assert "48 tokens" in output


def test_pipeline():
    """The pipeline's example has three requests of two stages, whose tokens and bytes are shown."""
    output = run("examples/pipeline.py")
    assert "| e2e_requests                |" in output
    assert output.count("[StageRequestStats") == output.count("[TransferEdgeStats") == 3


@pytest.mark.asyncio
async def test_fastapi_app():
    """The service's example streams, and shows the request on its page."""
    app = runpy.run_path(str(ROOT / "examples" / "fastapi_app.py"))["app"]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/generate", json={"prompt": "to be or"})
        assert answer.text == "or be to "
        page = await client.get("/metrics")
    assert page.status_code == 200
    labels = '{endpoint="/generate",model="reverse",status="success"}'
    assert f"ryot_inference_requests_total{labels} 1.0" in page.text


README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
assert len(README_BLOCKS) > 3


@pytest.mark.parametrize("block", README_BLOCKS, ids=range(len(README_BLOCKS)))
def test_readme_blocks(block):
    """Each block of Python in the README runs."""
    run("-c", block)


def test_every_family_in_the_documents_exists():
    """Each `ryot_*` name in README and examples is on the page's list of families."""
    known = {name for family in catalogue.families() for name in family.samples}
    known.add("ryot_metrics_callback_age_seconds")
    files = [ROOT / "README.md", *(ROOT / "examples").glob("*.py")]
    named = {
        name for path in files for name in re.findall(r"\bryot_[a-z_]+[a-z]\b", path.read_text())
    }
    assert named - {"ryot_metrics"} - known == set()
    assert len(named) > 10


def test_the_readme_s_table_is_the_catalogue():
    """The table of families in the README is what `ryot-metrics catalogue` prints."""
    assert catalogue.markdown() in (ROOT / "README.md").read_text()
    assert run("-m", "ryot_metrics", "catalogue") == catalogue.markdown()
