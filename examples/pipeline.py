"""A pipeline of two stages on one engine, generate and then summarise, and its four tables.

Run: python examples/pipeline.py [MODEL]

MODEL is a GGUF file, `repo:file` of Hugging Face, or a short name; `smollm2-135m` (98 MB) is
fetched once. The default, `toy`, is a scripted model that needs no file.
"""

import json
import sys
from queue import SimpleQueue
from threading import Thread

from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.pipeline import PipelineEvents, PipelineStats, StageScope

TOPICS = ("the sea", "a lighthouse", "bees")
SAMPLING = SamplingParams(max_tokens=48, temperature=0.7, seed=1)

model = sys.argv[1] if len(sys.argv) > 1 else "toy"
stats = PipelineStats(["generate", "summarise"], model=model)
drafts: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
summaries: SimpleQueue[tuple[str, str, str]] = SimpleQueue()


def ask(engine: Engine, prompt: str, stage: StageScope) -> str:
    """An answer of the engine, whose tokens are the stage's."""
    answer = engine.generate(prompt, SAMPLING)
    stage.num_tokens_in, stage.num_tokens_out = answer.prompt_tokens, answer.token_count
    return answer.text


def summarise(engine: Engine) -> None:
    """The second stage, as if it were another process: it has no tables, and sends its events."""
    events = PipelineEvents()
    while (draft := drafts.get()) is not None:
        topic, message = draft
        with events.receiving(topic, "generate", "summarise"):
            text = json.loads(message)
        with events.stage(topic, "summarise") as stage:
            summary = ask(engine, f"{text}\n\nIn one sentence:", stage)
        summaries.put((topic, summary, events.to_wire(topic)))


with Engine(model, EngineConfig(parallel=4)) as engine:
    second = Thread(target=summarise, args=(engine,))
    second.start()
    for topic in TOPICS:
        stats.request_started(topic)
        with stats.stage(topic, "generate") as stage:
            text = ask(engine, f"A short text about {topic}.\n\n", stage)
        with stats.sending(topic, "generate", "summarise") as sent:
            message = json.dumps(text).encode()
            sent.size_bytes = len(message)
        drafts.put((topic, message))
    drafts.put(None)
    for _ in TOPICS:
        topic, summary, lines = summaries.get()
        stats.feed(lines)
        stats.request_finished(topic)
        print(f"{topic}: {' '.join(summary.split())!r}")
    second.join()

print(stats.tables().text())
