"""Errors by the exception's class, its name, a function, or its text."""

import asyncio
import concurrent.futures
import sys

import pytest

from ryot_metrics import errors, register_error_type, track_inference_request
from ryot_metrics.errors import classify
from ryot_metrics.testing import isolated


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is forgotten."""
    monkeypatch.setattr(errors, "_classes", dict(errors._classes))
    monkeypatch.setattr(errors, "_predicates", [])


def named(dotted, base=Exception):
    """An exception class as another package defines it."""
    module, _, name = dotted.rpartition(".")
    return type(name, (base,), {"__module__": module})


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (MemoryError(), "error", "oom"),
        (named("torch.cuda.OutOfMemoryError", RuntimeError)(), "error", "oom"),
        (named("torch.OutOfMemoryError", RuntimeError)("CUDA out of memory."), "error", "oom"),
        (named("numpy._core._exceptions._ArrayMemoryError", MemoryError)(), "error", "oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "error", "oom"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error", "cuda_error"),
        (named("torch.AcceleratorError", RuntimeError)(), "error", "cuda_error"),
        (TimeoutError(), "timeout", "timeout"),
        (concurrent.futures.TimeoutError(), "timeout", "timeout"),
        (
            named("requests.exceptions.ReadTimeout", named("requests.exceptions.Timeout"))(),
            "timeout",
            "timeout",
        ),
        (ValueError("too long"), "error", "invalid_prompt"),
        (
            named("pydantic_core._pydantic_core.ValidationError", ValueError)(),
            "error",
            "invalid_prompt",
        ),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "error", "tokenization_error"),
        (FileNotFoundError("model.gguf"), "error", "model_not_found"),
        (KeyError("x"), "error", "inference_error"),
        (asyncio.CancelledError(), "cancelled", None),
        (named("trio.Cancelled", BaseException)(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
    ],
)
def test_known_exceptions(error, status, error_type):
    """Python's own and those of packages that are not imported, with their subclasses."""
    assert classify(error)[:2] == (status, error_type)
    subclass = type("Sub", (type(error),), {})
    if type(error).__init__ is subclass.__init__ and not isinstance(error, UnicodeError):
        assert classify(subclass(*error.args))[:2] == (status, error_type)


def test_real_libraries_time_out_by_name():
    """The own classes of httpx and openai are found under the names that stand here."""
    import httpx
    import openai

    request = httpx.Request("GET", "http://localhost")
    assert classify(httpx.ReadTimeout("slow")).status == "timeout"
    assert classify(openai.APITimeoutError(request)).status == "timeout"
    response = httpx.Response(400, request=request)
    refused = openai.BadRequestError("no", response=response, body=None)
    assert classify(refused).error_type == "invalid_prompt"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 has exception groups")
def test_a_group_counts_as_its_first_error():
    """A task group's exceptions are looked into; one of cancellations only is cancelled."""
    group = ExceptionGroup("tasks", [ValueError("x"), MemoryError()])  # noqa: F821
    assert classify(group).error_type == "invalid_prompt"
    group = BaseExceptionGroup("tasks", [asyncio.CancelledError()])  # noqa: F821
    assert classify(group).status == "cancelled"


def test_the_nearest_registered_class_decides():
    """A subclass of a registered class counts as it, unless it is registered itself."""

    class OverloadError(Exception):
        pass

    class WorseError(OverloadError):
        pass

    register_error_type(OverloadError, "timeout", severity="info")
    assert classify(WorseError()) == ("timeout", "timeout", "info")
    register_error_type(WorseError, "oom")
    assert classify(WorseError()) == ("error", "oom", None)
    assert classify(OverloadError()) == ("timeout", "timeout", "info")


def test_a_name_or_a_function_registers_too():
    """A dotted name needs no import; a function is asked before all classes."""
    register_error_type("vendor.Busy", "timeout")
    assert classify(named("vendor.Busy")()).status == "timeout"
    register_error_type(lambda error: getattr(error, "code", 0) == 499, "cancelled")
    gone = ValueError("client closed the request")
    gone.code = 499
    assert classify(gone).status == "cancelled"
    register_error_type(lambda error: 1 / 0, "oom")
    assert classify(ValueError()).error_type == "invalid_prompt"


def test_severity_is_a_label():
    """A registered severity is on the page instead of the error type's own."""
    register_error_type(LookupError, "inference_error", severity="warning")

    @track_inference_request(model="m")
    def fail():
        raise KeyError

    with isolated() as metrics:
        with pytest.raises(KeyError):
            fail()
        labels = {"model": "m", "error_type": "inference_error", "severity": "warning"}
        metrics.assert_metric("ryot_inference_errors_total", labels, delta=1)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((ValueError, "oops"), ValueError, "error_type is 'oops'; it must be one of oom, timeout"),
        ((ValueError, "oom", "bad"), ValueError, "severity is 'bad'; it must be one of critical"),
        ((int, "oom"), TypeError, "no class of exceptions"),
        ((3, "oom"), TypeError, "exception is 3"),
    ],
)
def test_nonsense_is_refused(arguments, error, text):
    """Error types and severities are closed vocabularies."""
    exception, error_type, *severity = arguments
    with pytest.raises(error, match=text):
        register_error_type(exception, error_type, severity=severity[0] if severity else None)
