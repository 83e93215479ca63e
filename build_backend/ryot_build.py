"""PEP 517 backend: maturin, with the C++ build tools taken from PyPI.

llama.cpp is compiled by CMake and its bindings are generated with libclang. Both come as
build requirements, so that a fresh machine needs no system package beyond a C++17 compiler.

pip builds in a temporary environment, while cargo's target directory stays: a path into that
environment would make cargo compile llama.cpp again each time, and would leave a CMake cache
that names a deleted `ninja`. So the tools are copied into the target directory once, and every
build, whoever starts it, sees the same paths.

llama.cpp is compiled for the processor of the machine that builds. For a wheel that goes elsewhere,
`RYOT_BUILD_PORTABLE=1` makes a module for any x86-64-v3 processor (Intel's since 2013, AMD's since
2015).

Run a command in the same environment: `python build_backend/ryot_build.py cargo test`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

INSTRUCTIONS = {
    "GGML_SSE42": {"sse4_2"},
    "GGML_AVX": {"avx"},
    "GGML_F16C": {"f16c"},
    "GGML_FMA": {"fma"},
    "GGML_BMI2": {"bmi2"},
    "GGML_AVX2": {"avx2"},
    "GGML_AVX_VNNI": {"avx_vnni"},
    "GGML_AVX512": {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
    "GGML_AVX512_VBMI": {"avx512vbmi"},
    "GGML_AVX512_VNNI": {"avx512_vnni"},
    "GGML_AVX512_BF16": {"avx512_bf16"},
}
"""ggml's options for x86-64, and what Linux calls the instructions that each needs."""
PORTABLE = {"sse4_2", "avx", "f16c", "fma", "bmi2", "avx2"}
"""The instructions of x86-64-v3 among these."""
CPU_INFO = Path("/proc/cpuinfo")


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
    # The build script always watches this variable, but the options below only once it saw them.
    env.setdefault("LLAMA_LIB_PROFILE", "Release")
    present = _instructions(env)
    for option, needed in INSTRUCTIONS.items():
        env.setdefault(option, "ON" if needed <= present else "OFF")
    _forget_other_options(env)
    return env


def _instructions(env: Mapping[str, str]) -> set[str]:
    """The instructions that llama.cpp may use, as far as `INSTRUCTIONS` knows them."""
    if env.get("RYOT_BUILD_PORTABLE", "") not in ("", "0"):
        return PORTABLE
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:  # not Linux
        return PORTABLE
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    # Cores may differ: what all of them have.
    return set.intersection(*map(set, flags)) if flags else PORTABLE


def _forget_other_options(env: Mapping[str, str]) -> None:
    """Removes the caches of CMake that were made for other instructions.

    The build script does not configure anew where there is a cache, whatever the options.
    """
    for cache in target_dir().glob("**/build/llama-cpp-sys-2-*/out/build/CMakeCache.txt"):
        entries = dict(re.findall(r"^(GGML_\w+):BOOL=(\w+)$", cache.read_text(), re.MULTILINE))
        if any(entries.get(option) != env[option] for option in INSTRUCTIONS):
            cache.unlink()


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
