"""The engine on a real language model, and on a small GGUF file of random weights."""

import asyncio
import json
import statistics
import threading
import time

import jsonschema
import openai
import pytest

import tiny
from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.models import resolve


@pytest.fixture(scope="module")
def smollm():
    with Engine(resolve("smollm2-135m"), name="smollm2-135m") as engine:
        yield engine


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    """A llama of two layers with random weights and a vocabulary of single bytes."""
    return tiny.write_model(tmp_path_factory.mktemp("models") / "random.gguf")


def test_random_bytes_stream_out_as_valid_text(random_model):
    """Tokens that are single random bytes make valid UTF-8, and nothing is lost."""
    with Engine(random_model) as engine:
        assert engine.name == "random"
        assert engine.model_info["architecture"] == "llama"
        for seed in range(5):
            params = SamplingParams(max_tokens=200, temperature=3.0, seed=seed, ignore_eos=True)
            chunks = list(engine.stream("x", params))
            ids = [chunk.token_id for chunk in chunks if chunk.token_id is not None]
            raw = bytes(token - 3 for token in ids if token >= 3)
            assert "".join(map(str, chunks)) == raw.decode(errors="replace")
            assert len(ids) == 200


def test_the_model_s_own_context_is_a_limit(random_model):
    """A prompt longer than the model was trained for is refused; the answer ends at the limit."""
    with Engine(random_model, EngineConfig(ctx_size=4096)) as engine:
        with pytest.raises(ValueError, match=r"300 tokens; .* leaves room for 255"):
            engine.generate([5] * 300)
        answer = engine.generate([5] * 200, SamplingParams(max_tokens=900, ignore_eos=True))
    assert (answer.token_count, answer.finish_reason) == (56, "length")


def test_a_truncated_file_is_a_clear_error(random_model, tmp_path):
    """Half of a real model file is refused with its path, and the process goes on."""
    half = tmp_path / "half.gguf"
    half.write_bytes(random_model.read_bytes()[:50_000])
    with pytest.raises(ValueError, match=r"cannot load the model .*half\.gguf"):
        Engine(half)


def test_an_answer_depends_on_the_first_line_of_a_long_prompt(smollm):
    """A prompt of many chunks is answered from all of its tokens."""
    config = EngineConfig(batch_size=32, prefill_chunk=32, parallel=2)
    filler = " The weather was mild, the streets were quiet and the shops were closed." * 8
    with Engine(resolve("smollm2-135m"), config) as engine:
        for name in ("Peter", "Alice"):
            prompt = f"My name is {name}.{filler} Hello! My name is"
            assert len(engine.tokenize(prompt)) > 4 * 32
            answer = engine.generate(prompt, SamplingParams(max_tokens=2, temperature=0))
            assert name in answer.text


def test_a_stop_string_ends_the_answer(smollm):
    """The text stops before the stop string, also where it spans tokens."""
    params = SamplingParams(max_tokens=64, temperature=0)
    whole = smollm.generate("The capital of France is", params)
    stop = whole.text[10:18]
    params = SamplingParams(max_tokens=64, temperature=0, stop=[stop])
    stopped = smollm.generate("The capital of France is", params)
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]


def test_python_keeps_its_beat_while_eight_streams_decode(smollm):
    """A thread that ticks at 1 kHz is late by at most 5 ms, 99 times of 100."""
    late = []
    stop = threading.Event()

    def tick():
        next_tick = time.perf_counter()
        while not stop.is_set():
            next_tick += 0.001
            if (rest := next_tick - time.perf_counter()) > 0:
                time.sleep(rest)
            late.append(time.perf_counter() - next_tick)
            next_tick = max(next_tick, time.perf_counter() - 0.001)

    async def follow(index):
        params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
        return [chunk async for chunk in smollm.stream(f"Story {index}:", params)]

    async def main():
        return await asyncio.gather(*(follow(index) for index in range(8)))

    # The GIL, if the engine held it, would be held for whole steps: tens of milliseconds. The
    # machine may be busy, so the best of three rounds counts.
    percentiles = []
    for _ in range(3):
        late.clear()
        stop.clear()
        thread = threading.Thread(target=tick)
        thread.start()
        answers = asyncio.run(main())
        stop.set()
        thread.join()
        assert [len(answer) for answer in answers] == [40] * 8
        assert len(late) > 200
        percentiles.append(statistics.quantiles(late, n=100)[98])
    assert min(percentiles) <= 0.005, percentiles


def test_a_chat_over_http_uses_the_model_s_template(smollm, live):
    """The unchanged `openai` client chats with the model, streaming or not, and usage adds up."""
    with openai.OpenAI(base_url=f"{live(smollm)}/v1", api_key="none", max_retries=0) as client:
        question = {"role": "user", "content": "What is the capital of France? Answer in one word."}
        arguments = {"model": "smollm2-135m", "messages": [question], "temperature": 0}
        whole = client.chat.completions.create(**arguments, max_tokens=24)
        assert "Paris" in whole.choices[0].message.content
        template = (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            f"Face<|im_end|>\n<|im_start|>user\n{question['content']}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        assert whole.usage.prompt_tokens == len(smollm.tokenize(template, add_special=False))
        stream = client.chat.completions.create(
            **arguments, max_tokens=24, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    usage = chunks[-1].usage
    assert usage.total_tokens == whole.usage.total_tokens
    assert usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens - 8  # asked before
    tokens = [chunk for chunk in chunks if chunk.choices and not chunk.choices[0].finish_reason]
    assert len(tokens) == whole.usage.completion_tokens
    json.dumps([chunk.model_dump() for chunk in chunks])


def test_forms_of_an_answer_over_http(smollm, live):
    """The `openai` client's `response_format` binds what the model writes, streamed and whole."""
    ask = {"messages": [{"role": "user", "content": "Hi! What is your name?"}], "temperature": 0}
    ask |= {"model": "smollm2-135m", "max_tokens": 100, "seed": 3}
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [7, 8]}},
        "required": ["name", "age"],
    }
    with openai.OpenAI(base_url=f"{live(smollm)}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        form = {"type": "json_schema", "json_schema": {"name": "cat", "schema": schema}}
        (choice,) = create(**ask, response_format=form).choices
        jsonschema.validate(json.loads(choice.message.content), schema)
        assert choice.finish_reason == "stop"
        chunks = create(**ask, response_format=form, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == choice.message.content
        answer = create(**ask, response_format={"type": "json_object"})
        assert answer.choices[0].message.content.startswith("{")
        extra = {"grammar": "root ::= [0-9]{4}", "mirostat": 2, "dry_multiplier": 0.8}
        answer = client.completions.create(model="", prompt="The year", n=3, extra_body=extra)
        for one in answer.choices:
            assert one.text.isdigit()
            assert len(one.text) == 4


SCHEMAS = [
    {"enum": ["é", 1, None, {"a": [True]}]},
    {"type": "string", "maxLength": 8},
    {"type": "string", "format": "date-time"},
    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False},
    {
        "properties": {
            "id": {"type": "integer", "exclusiveMinimum": 0},
            "name": {"type": ["string", "null"], "maxLength": 4},
            "next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]},
        },
        "required": ["id"],
        "additionalProperties": False,
        "$defs": {"leaf": {"type": "object", "properties": {"value": {"const": "x"}}}},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_random_weights_under_a_schema_write_json_that_fits(random_model, schema):
    """Random tokens, masked, make JSON that `jsonschema` accepts, whenever they come to an end."""
    # Tokens that are single bytes beyond ASCII would make characters of too many bytes, which are
    # several characters to whoever reads them.
    ascii_only = {3 + byte: -100.0 for byte in range(128, 256)}
    with Engine(random_model) as engine:
        params = SamplingParams(
            max_tokens=250, temperature=2.0, seed=1, json_schema=schema, logit_bias=ascii_only
        )
        answers = engine.generate("x", params, n=12)
    complete = [answer for answer in answers if answer.finish_reason == "stop"]
    assert len(complete) >= 6
    checker = jsonschema.Draft202012Validator(schema)
    for answer in complete:
        checker.validate(json.loads(answer.text))


def test_a_schema_and_a_grammar_bind_one_answer_and_not_its_neighbours(smollm):
    """Beside a bound answer, one without a grammar is what it is alone."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
    }
    plain = SamplingParams(max_tokens=12, temperature=0)
    alone = smollm.generate("The capital of France is", plain)
    bound = smollm.stream(
        "Describe Paris as JSON:",
        SamplingParams(max_tokens=100, temperature=0, json_schema=json.dumps(schema)),
    )
    assert smollm.generate("The capital of France is", plain).text == alone.text
    jsonschema.validate(json.loads("".join(map(str, bound))), schema)
    assert bound.finish_reason == "stop"
    choice = SamplingParams(max_tokens=16, temperature=3.0, grammar='root ::= "yes" | "no, never"')
    answers = smollm.generate("Is it raining?", choice, n=8)
    assert {answer.text for answer in answers} <= {"yes", "no, never"}
    assert {answer.finish_reason for answer in answers} == {"stop"}


def test_mirostat_and_dry_answer_repeatably(smollm):
    """A seed repeats mirostat's answer; DRY ends a repetition that greedy falls into."""
    for version in (1, 2):
        params = SamplingParams(max_tokens=20, seed=4, mirostat=version, mirostat_tau=3.0)
        assert smollm.generate("Once", params).text == smollm.generate("Once", params).text
    prompt = "one two three one two three one two three one two three one two"
    greedy = smollm.generate(prompt, SamplingParams(max_tokens=12, temperature=0))
    dry = SamplingParams(max_tokens=12, temperature=0, dry_multiplier=4.0)
    assert "one two three" in greedy.text
    assert "one two three" not in smollm.generate(prompt, dry).text


def test_a_broken_grammar_is_refused_and_nobody_else_suffers(smollm):
    """Each reason names the place; the engine goes on."""
    for arguments, text in [
        ({"grammar": "root ::= missing"}, "the grammar has no rule `missing`"),
        ({"grammar": 'root ::= "a"{3,2}'}, "line 1 of the grammar: a repetition's end"),
        ({"grammar": "root ::= " + "(" * 10_000}, "nested deeper than 64"),
        ({"grammar": ""}, "the grammar has no rule `root`"),
        ({"json_schema": {"type": "integer", "multipleOf": 3}}, "`multipleOf` at # of the JSON"),
        ({"json_schema": "{"}, "the JSON schema is no JSON"),
        ({"json_schema": {}, "grammar": 'root ::= "a"'}, "grammar and json_schema are given"),
        ({"grammar": 'root ::= "a"', "ignore_eos": True}, "ignore_eos is true; it must be false"),
    ]:
        with pytest.raises(ValueError, match=text):
            SamplingParams(**arguments)
    assert smollm.generate("Hello", SamplingParams(max_tokens=2)).token_count == 2


def test_embeddings_know_what_texts_mean(smollm):
    """Texts of one meaning are nearer than others; alone and together the vectors are the same."""
    texts = ["A cat sleeps on the sofa.", "On the couch, a kitten naps.", "The bank raised rates."]
    vectors = smollm.embed(texts)
    assert vectors.shape == (3, 576)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > max(cosines[0, 2], cosines[1, 2])
    for text, vector in zip(texts, vectors, strict=True):
        assert smollm.embed(text)[0] @ vector >= 0.999
