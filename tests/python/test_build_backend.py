"""The build backend: which instructions llama.cpp is compiled with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "build_backend" / "ryot_build.py"
AVX512 = "avx512f avx512cd avx512vl avx512dq avx512bw"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The backend, for a machine whose two processors the tests describe."""
    spec = importlib.util.spec_from_file_location("ryot_build", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_keep", lambda *_: tmp_path)
    for option in (*module.INSTRUCTIONS, "RYOT_BUILD_PORTABLE"):
        monkeypatch.delenv(option, raising=False)
    monkeypatch.setattr(module, "CPU_INFO", tmp_path / "cpuinfo")
    write(module, f"fma avx2 {AVX512}", f"avx2 fma {AVX512} avx512_vnni")
    return module


def write(backend: ModuleType, *flags: str) -> None:
    """Says what each processor has."""
    text = "".join(f"processor : {at}\nflags : {has}\n\n" for at, has in enumerate(flags))
    backend.CPU_INFO.write_text(text)


def chosen(backend: ModuleType) -> set[str]:
    """The options that are on; all have a value."""
    env = backend.environment()
    assert {env[option] for option in backend.INSTRUCTIONS} <= {"ON", "OFF"}
    return {option for option in backend.INSTRUCTIONS if env[option] == "ON"}


def test_what_all_processors_have_is_used(backend: ModuleType) -> None:
    assert chosen(backend) == {"GGML_FMA", "GGML_AVX2", "GGML_AVX512"}
    write(backend, f"avx2 {AVX512}", "avx2 avx512f")
    assert chosen(backend) == {"GGML_AVX2"}


def test_a_portable_build_has_x86_64_v3(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = {f"GGML_{name}" for name in ("SSE42", "AVX", "F16C", "FMA", "BMI2", "AVX2")}
    monkeypatch.setenv("RYOT_BUILD_PORTABLE", "1")
    assert chosen(backend) == everywhere
    monkeypatch.setenv("RYOT_BUILD_PORTABLE", "0")
    assert chosen(backend) != everywhere
    backend.CPU_INFO.unlink()
    assert chosen(backend) == everywhere


def test_the_caller_decides(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_AVX512", "OFF")
    assert chosen(backend) == {"GGML_FMA", "GGML_AVX2"}


def test_a_cache_for_other_instructions_is_forgotten(backend: ModuleType, tmp_path: Path) -> None:
    env = backend.environment()
    same = "".join(f"{option}:BOOL={env[option]}\n" for option in backend.INSTRUCTIONS)
    caches = {}
    for name, text in {"same": same, "other": same.replace("512:BOOL=ON", "512:BOOL=OFF")}.items():
        folder = tmp_path / f"release/build/llama-cpp-sys-2-{name}/out/build"
        folder.mkdir(parents=True)
        caches[name] = folder / "CMakeCache.txt"
        caches[name].write_text(text)
    backend.environment()
    assert [name for name, cache in caches.items() if cache.exists()] == ["same"]
