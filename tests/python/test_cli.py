"""The command line: values reach the engine, errors are one line, signals end it cleanly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ryot_metrics import EngineConfig, _serve
from ryot_metrics._extra import serve_extra
from ryot_metrics.cli import main
from ryot_metrics.serve.run import address, bind

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-c", "import sys; from ryot_metrics.cli import main; sys.exit(main())"]


class StoppedError(ValueError):
    """Raised in place of loading a model."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the engine, which is then not started."""
    asked: dict[str, Any] = {}

    def engine(model: str, config: EngineConfig, **others: Any) -> None:
        asked.update(model=model, config=config, **others)
        raise StoppedError("enough")

    monkeypatch.setattr(_serve, "Engine", engine)
    return asked


def test_options_reach_the_engine(asked: dict[str, Any]) -> None:
    """llama-server's short forms set the engine's configuration."""
    line = "serve --port 0 -m toy -a mine -c 512 -np 3 -b 64 --prefill-chunk 16 -t 2 -ngl 1"
    line += " --lora formal=a=b.gguf --lora mine:half=org/repo:file.gguf:0.5"
    assert main([*line.split(), "--max-queue", "7", "--no-kv-unified"]) == 2
    assert (asked["model"], asked["name"]) == ("toy", "mine")
    assert asked["adapters"] == {"formal": "a=b.gguf", "half": ("org/repo:file.gguf", 0.5)}
    config = asked["config"]
    assert (config.ctx_size, config.parallel, config.batch_size) == (512, 3, 64)
    assert (config.prefill_chunk, config.threads, config.max_queue) == (16, 2, 7)
    assert (config.gpu_layers, config.kv_unified, config.prefix_cache) == (1, False, True)


def test_defaults_are_the_engines(asked: dict[str, Any]) -> None:
    """Without options the default model runs with the engine's own defaults."""
    main(["serve", "--port", "0"])
    assert (asked["model"], asked["name"]) == ("smollm2-135m", None)
    default = EngineConfig()
    for _, option, _ in _serve.ENGINE_OPTIONS:
        name = option.removeprefix("--").replace("-", "_")
        assert getattr(asked["config"], name) == getattr(default, name)


def test_each_model_of_several_has_its_own_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """`MODEL:NAME=PATH` says whose an adapter is, also where one name begins another."""
    added: dict[str, Any] = {}

    class Pool(_serve.ModelPool):
        def add(self, model: Any, *_: Any, name: Any = None, adapters: Any = None) -> None:
            added[name] = adapters
            if len(added) == 2:
                raise StoppedError("enough")

    monkeypatch.setattr(_serve, "ModelPool", Pool)
    line = "serve --port 0 -m toy -m toy -a x -a x:y --lora x:a=1 --lora x:y:a=2:-3 --lora x:b=3"
    assert main(line.split()) == 2
    assert added == {"x": {"a": "1", "b": "3"}, "x:y": {"a": ("2", -3.0)}}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("serve --port 0 -m missing.gguf", ["'missing.gguf'", "smollm2-135m"]),
        ("serve --port 0 -m toy -c 0", ["ctx_size", "0"]),
        ("serve --port 65536 -m toy", ["65536", "65,535"]),
        ("serve --port 0 -m toy --max-body-bytes 0", ["max_body_bytes", "0", "1"]),
        ("serve --port 0 -m toy -m toy", ["'toy'", "already"]),
        ("serve --port 0 -m toy -a x -a y", ["2 --alias for 1 --model"]),
        ("serve --port 0 -m toy -m toy -a x --lora a=b", ["'a=b'", "2 models", "x: or toy:"]),
        ("serve --port 0 -m toy --lora a=b:101", ['"a"', "101", "-100 to 100"]),
        ("serve --port 0 -m toy --lora a=b:nan", ['"a"', "NaN", "-100 to 100"]),
        ("serve --port 0 -m toy --memory-limit 9 --uds x", ["--uds", "one model"]),
        ("serve --port 0 -m toy --memory-limit 9", ["'toy' takes", "memory_limit"]),
        ("serve --port 0 -m toy --lora x", ["--lora", "'x'", "NAME=PATH"]),
        ("serve --port 0 -m toy --lora a=b --lora a=c", ["'a=c'", "a name of its own"]),
        ("pull missing.gguf", ["'missing.gguf'", "smollm2-135m"]),
    ],
)
def test_error_is_one_line(line: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is refused is one line on standard error with the value, and status 2."""
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("ryot-metrics: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words)


def test_the_readme_s_options_are_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's table of options names each that `serve --help` does, and no other."""
    with pytest.raises(SystemExit, match="0"):
        main(["serve", "--help"])
    offered = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.split("| option | meaning | default |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(--[a-z][a-z-]+)`", table)) | {"--model"} == offered


@pytest.mark.parametrize("command", ["serve -m toy", "demo --backend toy"])
def test_port_in_use(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use is told before anything is loaded."""
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main([*command.split(), "--port", str(port)]) == 2
    assert f"port {port} on 127.0.0.1 is in use" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` is the installed package's."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.strip() == version("ryot-metrics")


def test_ipv6_address() -> None:
    """An IPv6 host is bound, and written in brackets."""
    try:
        listening = bind("::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        assert address(listening) == f"http://[::1]:{listening.getsockname()[1]}"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_a_signal(stop: signal.Signals) -> None:
    """The process serves, says where, and ends without a traceback when it is told to."""
    with subprocess.Popen(
        [*COMMAND, "serve", "-m", "toy", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.split(" at ")[1].split("/v1,")[0]
        health = httpx.get(f"{url}/health", timeout=10, trust_env=False)
        assert health.json() == {"status": "ok"}
        process.send_signal(stop)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_missing_extra_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the serve extra the error says how to install it."""
    for name in [name for name in sys.modules if name.startswith("ryot_metrics.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", "-m", "toy", "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert 'the HTTP service needs fastapi: pip install "ryot-metrics[serve]"' in error


def test_own_missing_module_is_not_an_extra() -> None:
    """A broken installation of the package itself is not blamed on the extra."""
    with pytest.raises(ModuleNotFoundError) as error, serve_extra("this"):
        raise ModuleNotFoundError("No module named 'x'", name="ryot_metrics._ryot_metrics")
    assert "pip install" not in str(error.value)


class Hub(BaseHTTPRequestHandler):
    """The part of Hugging Face's protocol that fetching one file needs."""

    content = b"GGUF from the hub"

    def do_HEAD(self) -> None:
        """The file's size and identity."""
        self.send_response(200)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        """The file."""
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_pull_from_the_hub(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """`pull repo:file` prints only the path, and needs the hub once."""
    port = hub.server_address[1]

    def pull(endpoint: str) -> subprocess.CompletedProcess[str]:
        own = {"RYOT_METRICS_CACHE": str(tmp_path), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        return subprocess.run(
            [*COMMAND, "pull", "org/name:file.gguf"],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=True,
        )

    path = pull(f"http://127.0.0.1:{port}").stdout.removesuffix("\n")
    assert Path(path).read_bytes() == Hub.content
    assert path.startswith(str(tmp_path))
    assert pull("http://127.0.0.1:9").stdout.removesuffix("\n") == path


@pytest.mark.parametrize("command", ["rules", "config", "catalogue"])
def test_output_that_nobody_reads(command: str) -> None:
    """A reader that goes, as `head` does, ends the command without a word, whatever its length."""
    process = subprocess.Popen(
        [*COMMAND, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()  # before a word is written: the interpreter has not started
    _, complaint = process.communicate()
    assert (process.returncode, complaint) == (141, "")
