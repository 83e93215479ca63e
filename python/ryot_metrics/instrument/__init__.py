"""Measures the calls of libraries that a service already uses, by one line each.

`openai`, `httpx`, `llama_cpp` and `transformers` take a client or a model of that library, measure
its calls from then on and give it back; `uninstrument` takes the measuring away. Nothing is
imported before it is asked for, and nothing is required.

Each call is one request, or a part of the tracked request around it; an instrumented library that
calls another one counts once. Completion tokens come from the answer's `usage` where there is one,
else from the pieces of the stream. Time that the consumer of a stream takes is not counted as
generation. A stream that is closed or dropped before its end counts as cancelled.
"""

from ryot_metrics.instrument._httpx import httpx
from ryot_metrics.instrument._llama_cpp import llama_cpp
from ryot_metrics.instrument._openai import openai
from ryot_metrics.instrument._patch import uninstrument
from ryot_metrics.instrument._transformers import transformers

__all__ = ["httpx", "llama_cpp", "openai", "transformers", "uninstrument"]
