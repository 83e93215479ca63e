"""Embeddings of the engine, on the toy model, whose vectors are a pure function of all tokens."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
from numpy.testing import assert_allclose

from page import changes
from ryot_metrics import (
    Engine,
    EngineClosedError,
    EngineConfig,
    InferenceContext,
    SamplingParams,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODEL = "toy-embed"
TEXTS = ["one", "two", "a text of two batches", "one more"]
REQUESTS = "ryot_inference_requests_total"
TOKENS = "ryot_tokens_generated_total"


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A toy with a name of its own and a small batch, so that a text is cut."""
    with Engine("toy", EngineConfig(ctx_size=64, batch_size=16), name=MODEL) as engine:
        yield engine


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_vector_is_that_of_its_text_alone(engine: Engine, pooling: Any) -> None:
    """Neighbours, their order and the cut into batches change nothing; rows follow the texts."""
    vectors = engine.embed(TEXTS, pooling=pooling)
    assert (vectors.shape, vectors.dtype) == ((4, 16), np.float32)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert_allclose(engine.embed(text, pooling=pooling), [vector], rtol=1e-6)
    order = [2, 0, 3, 1]
    swapped = engine.embed([TEXTS[index] for index in order], pooling=pooling)
    assert_allclose(swapped, vectors[order], rtol=1e-6)
    assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_pooling_and_length(engine: Engine) -> None:
    """`cls` and `last` are the ends, `mean` the mean over all prefixes' last tokens."""
    raw = {p: engine.embed("abc", pooling=p, normalize=False) for p in ("mean", "last", "cls")}
    prefixes = engine.embed(["a", "ab", "abc"], pooling="last", normalize=False)
    assert_allclose(raw["last"][0], prefixes[2])
    assert_allclose(raw["cls"][0], prefixes[0])
    assert_allclose(raw["mean"][0], prefixes.mean(axis=0), rtol=1e-6)
    unit = engine.embed("abc")[0]
    assert_allclose(unit, raw["mean"][0] / np.linalg.norm(raw["mean"][0]), rtol=1e-6)


def test_tokens_and_arrays(engine: Engine) -> None:
    """Token ids, and numpy arrays of them, are what their text is."""
    of_text = engine.embed(["hi", "you"])
    ids = [engine.tokenize("hi"), engine.tokenize("you")]
    assert_allclose(engine.embed(ids), of_text)
    assert_allclose(engine.embed([np.array(one) for one in ids]), of_text)
    assert_allclose(engine.embed(np.array(ids[0])), of_text[:1])


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "the list of prompts has 0 entries"),
        (["ok", ""], {}, "prompt has 0 tokens; at least 1 is needed"),
        ("x" * 65, {}, "65 tokens.* 64"),
        ([["x"]], {}, "cannot be interpreted as an integer"),
        ([[300]], {}, "token 300; it must be from 0 to 256"),
        ("x", {"pooling": "max"}, 'pooling is "max"; it must be one of mean, last, cls'),
    ],
)
def test_what_cannot_be_embedded(
    engine: Engine, prompts: Any, options: dict[str, Any], message: str
) -> None:
    """A clear error that names value and limit; nothing is computed."""
    with changes() as change, pytest.raises((ValueError, TypeError), match=message):
        engine.embed(prompts, **options)
    assert change.statuses(MODEL).get("success", 0) == 0


def test_the_whole_context_fits(engine: Engine) -> None:
    """A text may have as many tokens as the context, since no answer follows."""
    assert engine.embed("x" * 64).shape == (1, 16)


def test_each_text_is_a_request_without_an_answer(engine: Engine) -> None:
    """Requests and prompt tokens count, completion tokens do not; a refused call is one error."""
    with changes() as change:
        engine.embed(TEXTS, endpoint="/embed")
        engine.embed("alone", endpoint="/embed")
    assert change.statuses(MODEL) == {"success": 5}
    assert change.sum(REQUESTS, model=MODEL, endpoint="/embed") == 5
    prompt = sum(map(len, [*TEXTS, "alone"]))
    assert change.sum(TOKENS, model=MODEL, token_type="prompt") == prompt
    assert change.sum(TOKENS, model=MODEL, token_type="completion") == 0
    assert change.sum("ryot_active_inference_requests", model=MODEL) == 0
    assert change.sum("ryot_queue_depth", model=MODEL) == 0
    with changes() as change, pytest.raises(ValueError, match="0 tokens"):
        engine.embed(["", "x"])
    assert change.statuses(MODEL) == {"error": 1}


def test_they_are_parts_of_the_request_around_them(engine: Engine) -> None:
    """Inside a tracked block they are measured as its parts: one request, all prompt tokens."""
    with changes() as change, InferenceContext(model="rag"):
        engine.embed(["one", "two"])
    assert change.statuses("rag") == {"success": 1}
    assert change.statuses(MODEL) == {}
    assert change.sum(TOKENS, model="rag", token_type="prompt") == 6


def test_answers_go_on_meanwhile(engine: Engine) -> None:
    """Threads that embed and threads that generate disturb nobody's result."""
    params = SamplingParams(max_tokens=20, temperature=0)
    expected = (engine.embed(TEXTS), engine.generate("hello", params).text)
    wrong: list[Any] = []

    def work() -> None:
        for _ in range(5):
            text = engine.generate("hello", params).text
            if not np.allclose(engine.embed(TEXTS), expected[0]) or text != expected[1]:
                wrong.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert engine.stats()["running"] == 0


def test_after_shutdown() -> None:
    """A closed engine refuses, as it refuses any request."""
    engine = Engine("toy")
    engine.shutdown()
    with pytest.raises(EngineClosedError):
        engine.embed("x")


def test_numpy_is_imported_when_it_is_needed() -> None:
    """Neither the package nor an engine imports numpy; without it, `embed` says what is missing."""
    code = """if True:
        import sys
        from ryot_metrics import Engine
        with Engine("toy") as engine:
            assert "numpy" not in sys.modules
            sys.modules["numpy"] = None
            try:
                engine.embed("x")
            except ModuleNotFoundError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'Engine.embed needs numpy: pip install "ryot-metrics[serve]"' in done.stdout


def test_the_openai_client(engine: Engine, live: Callable[[Any], str]) -> None:
    """The unchanged client reads both encodings, usage and errors; each input is a request."""
    expected = engine.embed(TEXTS)
    with openai.OpenAI(base_url=f"{live(engine)}/v1", api_key="none", max_retries=0) as client:
        with changes() as change:
            default = client.embeddings.create(model=MODEL, input=TEXTS)  # asks for base64
        floats = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
        ids = [engine.tokenize(text) for text in TEXTS]
        tokens = client.embeddings.create(model=MODEL, input=ids)
        one = client.embeddings.create(model=MODEL, input=TEXTS[0])
        for answer in (default, floats, tokens):
            assert [item.index for item in answer.data] == [0, 1, 2, 3]
            assert_allclose([item.embedding for item in answer.data], expected, rtol=1e-6)
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS))
        assert_allclose(one.data[0].embedding, expected[0], rtol=1e-6)
        assert change.sum(REQUESTS, model=MODEL, endpoint="/v1/embeddings") == 4
        with changes() as change:
            with pytest.raises(openai.BadRequestError, match="input is empty"):
                client.embeddings.create(model=MODEL, input=[])
            with pytest.raises(openai.BadRequestError, match="pooling"):
                client.embeddings.create(model=MODEL, input="x", extra_body={"pooling": "max"})
            with pytest.raises(openai.BadRequestError, match="65 tokens"):
                client.embeddings.create(model=MODEL, input="x" * 65)
        assert change.statuses(MODEL) == {"error": 3}
        last = client.embeddings.create(model=MODEL, input="abc", extra_body={"pooling": "last"})
        assert_allclose(last.data[0].embedding, engine.embed("abc", pooling="last")[0], rtol=1e-6)
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="other", input="x")
