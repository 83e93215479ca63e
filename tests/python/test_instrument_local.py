"""Models in the process, instrumented: `llama_cpp.Llama` and `transformers`.

Neither fits a test machine, so these are stand-ins with their signatures and the way in which
their methods call each other.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
from types import SimpleNamespace

import numpy
import pytest

from calls import left
from page import changes
from ryot_metrics import InferenceContext, instrument


@pytest.mark.parametrize("name", ["httpx", "openai", "llama_cpp", "transformers"])
@pytest.mark.parametrize("target", [3, SimpleNamespace(close=print)])
def test_what_cannot_be_measured_is_refused(name, target):
    """Nothing of it would be measured, and nobody would notice."""
    with pytest.raises(TypeError, match="cannot be measured; it must be a"):
        getattr(instrument, name)(target)


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Llama:
    """As `llama_cpp.Llama`: a chat is a completion, called at once or when its stream is read."""

    def __init__(self, texts=("a", "b"), error=None, lazy=False):
        self.model_path = "/models/tiny.Q4_K_M.gguf"
        self.texts = texts
        self.error = error
        self.lazy = lazy

    def create_completion(self, prompt, suffix=None, max_tokens=16, stream=False, model=None):
        """Creates a completion."""
        chunks = self._chunks()
        if stream:
            return chunks
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": USAGE}

    def _chunks(self):
        for text in self.texts:
            yield {"choices": [{"text": text, "finish_reason": None}]}
        if self.error is not None:
            raise self.error
        yield {"choices": [{"text": "", "finish_reason": "stop"}]}

    def __call__(self, prompt, stream=False):
        return self.create_completion(prompt=prompt, stream=stream)

    def create_chat_completion(self, messages, functions=None, stream=False):
        if not stream:
            answer = self.create_completion("prompt")
            message = {"role": "assistant", "content": answer["choices"][0]["text"]}
            return {**answer, "choices": [{"message": message}]}
        if self.lazy:
            return self._chat()
        return map(self._delta, self.create_completion("prompt", stream=True))

    def _chat(self):
        yield {"choices": [{"delta": {"role": "assistant"}, "finish_reason": None}]}
        yield from map(self._delta, self.create_completion("prompt", stream=True))

    def _delta(self, chunk):
        choice = chunk["choices"][0]
        delta = {"content": choice["text"]} if choice["text"] else {}
        return {"choices": [{"delta": delta, "finish_reason": choice["finish_reason"]}]}

    def create_embedding(self, input, model=None):  # noqa: A002
        return {"data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def test_llama_answers():
    """Each method is one request under its name, with the model's file as the model."""
    llama = instrument.llama_cpp(Llama())
    assert llama.create_completion("p")["choices"][0]["text"] == "ab"
    assert llama("p")["usage"] == USAGE
    assert llama.create_chat_completion([])["choices"][0]["message"]["content"] == "ab"
    llama.create_embedding("p")
    counts = {"latency": 4, "prompt": 13, "completion": 6, "tokens": 6}
    names = {"completion": 2, "chat_completion": 1, "embedding": 1}
    requests = {f"success create_{name}": count for name, count in names.items()}
    assert left("tiny.Q4_K_M") == {**requests, **counts}


@pytest.mark.parametrize("lazy", [False, True])
def test_llama_streams(lazy):
    """A streamed chat is one request, whenever it calls the completion; a chunk is a token."""
    llama = instrument.llama_cpp(Llama(lazy=lazy), model=f"llama-{lazy}")
    chunks = list(llama.create_chat_completion([], None, True))
    assert len(chunks) == 3 + lazy
    counts = {"latency": 1, "ttft": 1, "gaps": 1, "completion": 2, "tokens": 2}
    assert left(f"llama-{lazy}") == {"success create_chat_completion": 1, **counts}


@pytest.mark.parametrize(
    ("texts", "error", "outcome"),
    [
        ("a", ValueError("Requested tokens (9) exceed context window of 8"), "partial"),
        ("", RuntimeError("llama_decode returned -1"), "error"),
        ("a", MemoryError(), "partial"),
    ],
)
def test_llama_streams_that_break(texts, error, outcome):
    """The exception passes unchanged; after the first token the status is partial."""
    model = f"llama-{type(error).__name__}"
    llama = instrument.llama_cpp(Llama(texts, error), model=model)
    with changes() as change:
        with pytest.raises(type(error)) as raised:
            list(llama.create_completion("p", stream=True))
        assert raised.value is error
    assert change.statuses(model) == {outcome: 1}
    assert left(model).get("completion", 0) == len(texts)


@pytest.mark.parametrize("end", ["close", "drop", "never read"])
def test_llama_streams_that_are_left(end):
    """Closed, dropped or never read, a stream is cancelled."""
    model = f"llama-{end}"
    stream = instrument.llama_cpp(Llama(), model=model).create_completion("p", stream=True)
    if end != "never read":
        next(stream)
    if end == "close":
        stream.close()
    del stream
    gc.collect()
    tokens = {} if end == "never read" else {"ttft": 1, "completion": 1}
    assert left(model) == {"cancelled create_completion": 1, "latency": 1, **tokens}


def test_llama_as_it_was():
    """Signatures stay; instrumenting twice counts once; undone, nothing is left of it."""
    llama = Llama()
    before = inspect.signature(llama.create_completion)
    instrument.llama_cpp(instrument.llama_cpp(llama, model="llama-twice"), model="llama-twice")
    assert inspect.signature(llama.create_completion) == before
    assert llama.create_completion.__doc__ == "Creates a completion."
    llama("p")
    instrument.uninstrument(llama)
    llama("p")
    assert left("llama-twice")["success create_completion"] == 1
    assert set(vars(llama)) == set(vars(Llama()))


class Model:
    """As a model of `transformers`, whose tensors here are numpy's."""

    name_or_path = "org/tiny"

    def __init__(self, new=4, error=None, encoder_decoder=False):
        self.config = SimpleNamespace(is_encoder_decoder=encoder_decoder)
        self.new = new
        self.error = error

    def generate(self, inputs=None, generation_config=None, streamer=None, **kwargs):
        prompt = kwargs.get("input_ids") if inputs is None else inputs
        if self.config.is_encoder_decoder or prompt is None:
            start = int(self.config.is_encoder_decoder)
            rows = (kwargs["inputs_embeds"] if prompt is None else prompt).shape[0]
            prompt = numpy.zeros((rows, start), int)
        if streamer is not None:
            streamer.put(prompt)
        for _ in range(self.new):
            if streamer is not None:
                streamer.put(numpy.zeros(prompt.shape[0], int))
        if self.error is not None:
            raise self.error
        if streamer is not None:
            streamer.end()
        sequences = numpy.concatenate([prompt, numpy.zeros((prompt.shape[0], self.new), int)], 1)
        return SimpleNamespace(sequences=sequences) if generation_config else sequences


class Streamer:
    """Notes what it is given."""

    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(value.shape)

    def end(self):
        self.seen.append("end")


def tokens(rows, columns):
    return numpy.ones((rows, columns), int)


@pytest.mark.parametrize(
    ("arguments", "prompt", "completion"),
    [
        ({"inputs": tokens(1, 5)}, 5, 4),
        ({"input_ids": tokens(3, 5), "generation_config": "dict"}, 15, 12),
        ({"inputs_embeds": numpy.zeros((2, 5, 8))}, 10, 8),
    ],
    ids=["one", "batch", "embeddings"],
)
def test_generate(arguments, prompt, completion, request):
    """The tokens of prompt and completion come from the shapes, over the whole batch."""
    model = request.node.name
    result = instrument.transformers(Model(), name=model).generate(**arguments)
    assert getattr(result, "sequences", result).shape[1] >= 4
    counts = {"prompt": prompt, "completion": completion, "tokens": completion}
    assert left(model) == {"success generate": 1, "latency": 1, **counts}


def test_generate_knows_its_batch_size():
    """The latency has the class of the batch size, the mode is that of a batch."""
    model = instrument.transformers(Model())
    with changes() as change:
        model.generate(tokens(3, 5))
    labels = {"model": "org/tiny", "batch_size": "2-4", "generation_mode": "batch"}
    assert change.sum("ryot_inference_latency_seconds_count", **labels) == 1


def test_generate_of_an_encoder_and_decoder():
    """The prompt is the encoder's; the token that starts the decoder was not generated."""
    instrument.transformers(Model(encoder_decoder=True), name="t5").generate(tokens(1, 5))
    counts = {"prompt": 5, "completion": 4, "tokens": 4}
    assert left("t5") == {"success generate": 1, "latency": 1, **counts}


def test_generate_with_a_streamer():
    """The streamer gets all that it would get, and each token after the prompt is timed."""
    streamer = Streamer()
    model = instrument.transformers(Model(), name="streamer")
    model.generate(tokens(1, 5), None, streamer)
    assert streamer.seen == [(1, 5), (1,), (1,), (1,), (1,), "end"]
    counts = {"ttft": 1, "gaps": 3, "prompt": 5, "completion": 4, "tokens": 4}
    assert left("streamer") == {"success generate": 1, "latency": 1, **counts}


def test_generate_that_breaks():
    """An error after the first streamed token is partial; one without a streamer is an error."""
    error = RuntimeError("CUDA out of memory")
    model = instrument.transformers(Model(new=2, error=error), name="breaks")
    with pytest.raises(RuntimeError, match="CUDA"):
        model.generate(tokens(1, 5), streamer=Streamer())
    with pytest.raises(RuntimeError, match="CUDA"):
        model.generate(tokens(1, 5))
    found = left("breaks")
    assert found["partial generate oom"] == found["error generate oom"] == 1


def unpickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, unpickled])
def test_a_copy_of_a_model_is_not_measured(duplicate):
    """A deep or pickled copy generates by itself, from its own weights, and counts nothing."""
    name = f"copied-{duplicate.__name__}"
    model = instrument.transformers(Model(new=4), name=name)
    other = duplicate(model)
    other.new = 2
    assert other.generate(tokens(1, 5)).shape == (1, 7)
    assert left(name) == {}
    assert model.generate(tokens(1, 5)).shape == (1, 9)
    assert left(name)["completion"] == 4


def test_generate_as_it_was():
    """Twice counts once, inside of a tracked request it is part of it; undone, nothing is left."""
    model = Model()
    instrument.transformers(instrument.transformers(model, name="twice"), name="twice")
    with InferenceContext(model="around"):
        model.generate(tokens(1, 5))
    instrument.uninstrument(model)
    model.generate(tokens(1, 5))
    assert "generate" not in vars(model)
    assert left("twice") == {}
    counts = {"prompt": 5, "completion": 4, "tokens": 4}
    assert left("around") == {"success": 1, "latency": 1, **counts}
