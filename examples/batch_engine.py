"""Answer many prompts at once, in the process, and stream one of them.

Run: python examples/batch_engine.py [MODEL]

MODEL is a GGUF file, `repo:file` of Hugging Face, or a short name; `smollm2-135m` (98 MB) is
fetched once. The default, `toy`, is a scripted model that needs no file.
"""

import sys
import time

from ryot_metrics import Engine, EngineConfig, SamplingParams

model = sys.argv[1] if len(sys.argv) > 1 else "toy"
prompts = [f"The capital of {country} is" for country in ("France", "Italy", "Japan", "Peru")]

with Engine(model, EngineConfig(parallel=4)) as engine:
    started = time.perf_counter()
    answers = engine.generate(prompts, SamplingParams(max_tokens=12, temperature=0))
    seconds = time.perf_counter() - started
    for prompt, answer in zip(prompts, answers, strict=True):
        print(f"{prompt}{answer.text!r} ({answer.finish_reason})")
    tokens = sum(answer.token_count for answer in answers)
    print(f"{tokens} tokens, {tokens / seconds:.0f} tokens/s")

    for chunk in engine.stream("Once upon a time", SamplingParams(max_tokens=16, seed=1)):
        print(chunk, end="", flush=True)
    print()
