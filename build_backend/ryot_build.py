"""PEP 517 backend: maturin, with the C++ build tools taken from PyPI.

llama.cpp is compiled by CMake and its bindings are generated with libclang. Both come as
build requirements, so that a fresh machine needs no system package beyond a C++17 compiler.

pip builds in a temporary environment, while cargo's target directory stays: a path into that
environment would make cargo compile llama.cpp again each time, and would leave a CMake cache
that names a deleted `ninja`. So the tools are copied into the target directory once, and every
build, whoever starts it, sees the same paths.

Run a command in the same environment: `python build_backend/ryot_build.py cargo test`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def target_dir() -> Path:
    """Cargo's target directory: `CARGO_TARGET_DIR`, else `target/` in the checkout."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def _package_dir(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(
            f"the build needs the Python package {package!r}: "
            "install the [build-system] requirements of pyproject.toml"
        )
    return Path(spec.origin).parent


def _keep(distribution: str, source: Path) -> Path:
    """Copies `source` (a file or a folder) below the target directory, once per version."""
    version = importlib.metadata.version(distribution)
    kept = target_dir() / "build-tools" / f"{distribution}-{version}" / source.name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
        if source.is_dir():
            shutil.copytree(source, partial)
        else:
            shutil.copy2(source, partial)
        try:
            partial.rename(kept)
        except OSError:  # another build was faster
            shutil.rmtree(partial, ignore_errors=True)
    return kept


def _ninja() -> Path:
    files = importlib.metadata.files("ninja") or []
    for file in files:
        if file.name in ("ninja", "ninja.exe"):
            return Path(str(file.locate())).resolve()
    raise SystemExit("the installed 'ninja' distribution holds no executable")


def environment() -> dict[str, str]:
    """The variables of every build: those of the caller win."""
    libclang = _keep("libclang", _package_dir("clang") / "native")
    cmake = _keep("cmake", _package_dir("cmake") / "data") / "bin"
    ninja = _keep("ninja", _ninja()).parent
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(ninja), str(cmake), env["PATH"]])
    env.setdefault("CMAKE_GENERATOR", "Ninja")
    env.setdefault("LIBCLANG_PATH", str(libclang))
    if include := _gcc_file("include"):  # the libclang wheel has no stddef.h of its own
        env.setdefault("BINDGEN_EXTRA_CLANG_ARGS", f"-I{include}")
    return env


def _gcc_file(name: str) -> Path | None:
    """Where gcc has a file of its own, if there is a gcc."""
    if shutil.which("gcc") is None:
        return None
    command = ["gcc", f"-print-file-name={name}"]
    path = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return path.resolve() if path.is_absolute() else None


def _carry_openmp() -> None:
    """Puts gcc's OpenMP runtime beside the extension module, for machines that have no gcc."""
    if library := _gcc_file("libgomp.so.1"):
        shutil.copy2(library, ROOT / "python" / "ryot_metrics" / "libgomp.so.1")


def __getattr__(hook: str) -> Any:
    """Every PEP 517 hook is maturin's, called under `environment()`."""
    import maturin

    os.environ.update(environment())
    if hook == "build_wheel":
        _carry_openmp()
    return getattr(maturin, hook)


if __name__ == "__main__":
    raise SystemExit(subprocess.call(sys.argv[1:], env=environment()))
