"""LoRA adapters: on the toy, over HTTP, and on small GGUF files against merged weights."""

import openai
import pytest

import tiny
from ryot_metrics import Engine, EngineConfig, SamplingParams

FOUR = SamplingParams(max_tokens=4, temperature=0)
TWENTY = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, logprobs=20)
TOLERANCE = 0.005
"""How far apart log-probabilities may be that are the same: what else is in a batch, and in which
order a sum is taken, changes the last bits of a logit."""
PROMPTS = ["hello, world", "hello, moon", "x", "a longer prompt that fills several blocks"]


@pytest.fixture
def adapted():
    with Engine("toy", adapters={"formal": "a.gguf", "pirate": "b.gguf"}) as engine:
        yield engine


def test_a_request_names_its_adapter(adapted):
    """Adapters differ from each other and from the bare model, alone and side by side."""
    assert adapted.adapters == ("formal", "pirate")
    names = [None, "formal", "pirate"]
    alone = {name: adapted.generate("hello", FOUR, adapter=name).token_ids for name in names}
    assert len({tuple(answer) for answer in alone.values()}) == 3
    with Engine("toy") as bare:
        assert bare.generate("hello", FOUR).token_ids == alone[None]
    streams = [(name, adapted.stream("hello", FOUR, adapter=name)) for name in names * 4]
    for name, stream in streams:
        assert [chunk.token_id for chunk in stream] == alone[name]


def test_a_cached_prompt_is_its_adapter_s_own(adapted):
    """A prompt that one adapter has computed is computed anew for the next, then found."""
    prompt = "a prompt of more than a block"
    for name in (None, "formal", "pirate"):
        found = [adapted.generate(prompt, FOUR, adapter=name).cached_tokens for _ in range(2)]
        assert found == [0, 28], name


def test_an_unknown_adapter_is_named_with_the_known(adapted, engine):
    """The error says which there are; the engine goes on."""
    with pytest.raises(ValueError, match='adapter is "poet"; the model has: formal, pirate'):
        adapted.generate("hello", FOUR, adapter="poet")
    with pytest.raises(ValueError, match='adapter is "poet"; the model has: none'):
        engine.generate("hello", FOUR, adapter="poet")
    assert adapted.generate("hello", FOUR).token_count == 4
    with pytest.raises(ValueError, match='adapter 0 is named ""; each needs a name of its own'):
        Engine("toy", adapters={"": "a.gguf"})
    with pytest.raises(ValueError, match="there are 65 adapters; there must be at most 64"):
        Engine("toy", adapters={str(index): "a.gguf" for index in range(65)})


def test_an_adapter_is_a_model_over_http(adapted, live):
    """The `openai` client lists adapters with their parent, asks by name; others are 404."""
    with openai.OpenAI(base_url=f"{live(adapted)}/v1", api_key="none", max_retries=0) as client:
        models = {model.id: model for model in client.models.list()}
        assert list(models) == ["toy", "formal", "pirate"]
        assert [models[name].parent for name in models] == [None, "toy", "toy"]
        assert client.models.retrieve("pirate").id == "pirate"
        texts = {}
        for name in models:
            ask = {"model": name, "prompt": "hello", "max_tokens": 6, "temperature": 0}
            whole = client.completions.create(**ask)
            chunks = list(client.completions.create(**ask, stream=True))
            assert {whole.model, *(chunk.model for chunk in chunks)} == {name}
            texts[name] = whole.choices[0].text
            assert "".join(chunk.choices[0].text for chunk in chunks) == texts[name]
        assert len(set(texts.values())) == 3
        chat = client.chat.completions.create(
            model="pirate", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
        )
        assert chat.model == "pirate"
        with pytest.raises(openai.NotFoundError, match="'toy', 'formal', 'pirate'"):
            client.completions.create(model="poet", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="adapter 'pirate' has no embeddings"):
            client.embeddings.create(model="pirate", input="hello")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, two adapters, and the model with each of them, or half of one, in its weights."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny.weights()
    paths = {None: tiny.write_model(folder / "model.gguf", model)}
    for seed, name, scale in ((1, "one", 1.0), (2, "two", 1.0), (1, "half", 0.5)):
        lora = tiny.adapter(seed)
        paths[name] = tiny.write_adapter(folder / f"{name}.gguf", lora)
        paths[f"merged {name}"] = tiny.write_model(
            folder / f"merged-{name}.gguf", tiny.merged(model, lora, scale)
        )
    return paths


def agreed(found, expected):
    """How many tokens two answers have in common, each as likely in both; all, or up to a tie."""
    for place, (own, other) in enumerate(zip(found, expected, strict=True)):
        if own.drawn.token_id != other.drawn.token_id:
            likely = {one.token_id: one.logprob for one in other.top}
            assert other.drawn.logprob - likely[own.drawn.token_id] <= 2 * TOLERANCE, place
            return place
        assert own.drawn.logprob == pytest.approx(other.drawn.logprob, abs=TOLERANCE), place
    return len(found)


def test_an_adapter_answers_as_its_merged_weights(files):
    """Side by side in one engine, each answers as a model of its own with these weights does."""

    def alone(path):
        with Engine(path, EngineConfig(parallel=1, prefix_cache=False)) as engine:
            return [engine.generate(prompt, TWENTY).logprobs for prompt in PROMPTS]

    loras = {"one": files["one"], "two": files["two"], "half": (files["one"], 0.5)}
    names = [None, *loras]
    expected = {name: alone(files[name and f"merged {name}"]) for name in names}
    texts = [[one.drawn.token_id for answer in expected[name] for one in answer] for name in names]
    assert len(set(map(tuple, texts))) == len(names)  # so that it can be told who answered
    compared = []
    with Engine(files[None], EngineConfig(ctx_size=1024), adapters=loras) as engine:
        for _ in range(2):  # the second time from the cache
            streams = [
                (name, index, engine.stream(prompt, TWENTY, adapter=name))
                for index, prompt in enumerate(PROMPTS)
                for name in names
            ]
            for name, index, stream in streams:
                found = [chunk.logprobs for chunk in stream if chunk.logprobs is not None]
                compared.append(agreed(found, expected[name][index]))
    assert sum(compared) >= 0.9 * 20 * len(compared)


def test_what_is_no_adapter_for_a_model_is_refused(files, tmp_path):
    """A missing file, a model, and an adapter of another shape are errors with their path."""
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        Engine(files[None], adapters={"a": tmp_path / "none.gguf"})
    wide = {name: tensor.repeat(2, axis=-1) for name, tensor in tiny.adapter(1).items()}
    for path in (files[None], tiny.write_adapter(tmp_path / "wide.gguf", wide)):
        with pytest.raises(ValueError, match=rf'{path.name}.*refuses it as the adapter "a"'):
            Engine(files[None], adapters={"a": path})
