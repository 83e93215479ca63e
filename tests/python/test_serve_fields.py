"""Request fields beyond a prompt and its sampling: what each does to the answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fakes import ScriptedEngine
from ryot_metrics import Engine, EngineConfig, SamplingParams
from ryot_metrics.serve import create_app

pytestmark = pytest.mark.asyncio

USER = [{"role": "user", "content": "Hi"}]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"


async def post(engine: Any, path: str, **body: Any) -> httpx.Response:
    """One answer of a service over this engine."""
    transport = httpx.ASGITransport(create_app(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, json=body)


def events(response: httpx.Response) -> list[Any]:
    """The parsed events of a streamed answer."""
    *data, _, _ = response.text.split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in data]


@pytest.mark.parametrize("stream", [False, True])
async def test_n_answers(engine: Any, stream: bool) -> None:
    """Each prompt has `n` answers with different seeds; a prompt's tokens count once."""
    body = {"prompt": ["one", "three"], "n": 3, "max_tokens": 4, "seed": 1, "ignore_eos": True}
    body |= {"stream": stream, "stream_options": {"include_usage": True}}
    response = await post(engine, COMPLETIONS, **body)
    texts = [""] * 6
    if stream:
        *chunks, last = events(response)
        usage = last["usage"]
        for chunk in chunks:
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["text"]
    else:
        usage = response.json()["usage"]
        for choice in response.json()["choices"]:
            texts[choice["index"]] = choice["text"]
    assert all(texts)
    assert len(set(texts)) > 2  # not two answers, one for each prompt
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len("onethree"), 6 * 4)


async def test_n_chats() -> None:
    """A chat has `n` choices too; seeds follow the given one, and wrap at the last."""
    engine = ScriptedEngine(["a"])
    whole = (await post(engine, CHAT, messages=USER, n=2, seed=2**63 - 1)).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert [call["params"].seed for call in engine.submitted] == [2**63 - 1, -(2**63)]
    assert {call["mode"] for call in engine.submitted} == {"batch"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["one", list(b"one")])
async def test_echo(stream: bool, prompt: Any) -> None:
    """`echo` puts the prompt before its answer, once, also where it was token ids."""
    engine = ScriptedEngine(["a", "b"])
    response = await post(engine, COMPLETIONS, prompt=prompt, echo=True, stream=stream)
    if stream:
        texts = [chunk["choices"][0]["text"] for chunk in events(response)]
        assert texts == ["onea", "b", ""]
    else:
        assert response.json()["choices"][0]["text"] == "oneab"


async def test_terms_reach_the_engine() -> None:
    """Priority, promises and user arrive as the engine's terms; absent ones stay its own."""
    engine = ScriptedEngine(["a"])
    slo = {"ttft_ms": 250, "tbt_ms": 40.5}
    await post(engine, COMPLETIONS, prompt="p", priority="background", slo=slo, user="me")
    await post(engine, CHAT, messages=USER, priority=None, slo=None)
    assert [call["terms"] for call in engine.submitted] == [
        {"tenant": "me", "priority": "background", **slo},
        {"tenant": ""},
    ]


async def test_token_ids_of_a_completion(engine: Any) -> None:
    """`return_token_ids` reports tokens beside text, whole and streamed, as vLLM does."""
    body = {"prompt": "one", "max_tokens": 3, "temperature": 0, "ignore_eos": True}
    plain = (await post(engine, COMPLETIONS, **body)).json()["choices"][0]
    assert (plain["token_ids"], plain["prompt_token_ids"]) == (None, None)
    body["return_token_ids"] = True
    choice = (await post(engine, COMPLETIONS, **body)).json()["choices"][0]
    assert choice["prompt_token_ids"] == engine.tokenize("one")
    assert choice["text"] == engine.detokenize(choice["token_ids"])
    streamed = events(await post(engine, COMPLETIONS, **body, stream=True))
    chunks = [chunk["choices"][0] for chunk in streamed]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == choice["token_ids"]
    assert [chunk.get("prompt_token_ids") for chunk in chunks] == [
        choice["prompt_token_ids"],
        None,
        None,
        None,
    ]


async def test_token_ids_of_a_chat(engine: Any) -> None:
    """A chat's prompt tokens are those that /tokenize gives for the same messages."""
    tokens = (await post(engine, "/tokenize", messages=USER)).json()
    body = {"messages": USER, "max_tokens": 2, "ignore_eos": True, "return_token_ids": True}
    whole = (await post(engine, CHAT, **body)).json()
    assert whole["prompt_token_ids"] == tokens["tokens"]
    assert len(whole["choices"][0]["token_ids"]) == 2
    first, *others = events(await post(engine, CHAT, **body, stream=True))
    assert first["prompt_token_ids"] == tokens["tokens"]
    assert not any("prompt_token_ids" in chunk for chunk in others)
    assert all(len(chunk["choices"][0]["token_ids"]) == 1 for chunk in [first, *others[:-1]])


GREEDY = {"max_tokens": 3, "temperature": 0, "ignore_eos": True}


async def test_logprobs_of_a_completion(engine: Any) -> None:
    """Each token has its own and the likeliest's log-probabilities, and its place in the text."""
    body = {"prompt": "one", "logprobs": 2, **GREEDY}
    choice = (await post(engine, COMPLETIONS, **body)).json()["choices"][0]
    found = choice["logprobs"]
    assert "".join(found["tokens"]) == choice["text"]
    assert found["text_offset"] == [0, 1, 2]
    for token, logprob, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert top[token] == logprob == max(top.values()) <= 0
        assert len(top) == 2
    streamed = [
        chunk["choices"][0]["logprobs"]
        for chunk in events(await post(engine, COMPLETIONS, **body, stream=True))
    ]
    assert streamed.pop() is None
    for field, values in found.items():
        assert [value for place in streamed for value in place[field]] == values


async def test_logprobs_of_a_chat(engine: Any) -> None:
    """A chat has them with their bytes; `top_logprobs` says how many."""
    body = {"messages": USER, "logprobs": True, **GREEDY}
    plain = (await post(engine, CHAT, **body)).json()["choices"][0]
    assert [place["top_logprobs"] for place in plain["logprobs"]["content"]] == [[]] * 3
    body["top_logprobs"] = 2
    choice = (await post(engine, CHAT, **body)).json()["choices"][0]
    content = choice["logprobs"]["content"]
    written = bytes(byte for place in content for byte in place["bytes"])
    assert written.decode() == choice["message"]["content"]
    assert [len(place["top_logprobs"]) for place in content] == [2, 2, 2]
    streamed = events(await post(engine, CHAT, **body, stream=True))
    assert [chunk["choices"][0]["logprobs"] for chunk in streamed] == [
        *({"content": [place], "refusal": None} for place in content),
        None,
    ]


async def test_tokenize_and_back(engine: Any) -> None:
    """/tokenize and /detokenize have vLLM's fields, and undo each other."""
    longest = min(engine.config.ctx_size, engine.model_info["context_train"])
    asked = {"prompt": "hé!", "return_token_strs": True}
    there = (await post(engine, "/tokenize", **asked)).json()
    assert there == {
        "count": 4,
        "max_model_len": longest,
        "tokens": list("hé!".encode()),
        "token_strs": ["h", "\ufffd", "\ufffd", "!"],
    }
    assert (await post(engine, "/detokenize", tokens=there["tokens"])).json() == {"prompt": "hé!"}
    unknown = await post(engine, "/detokenize", tokens=[100_000])
    assert (unknown.status_code, "100000" in unknown.text) == (400, True)
    other = await post(engine, "/tokenize", prompt="p", model="other")
    assert other.json()["error"]["code"] == "model_not_found"


async def test_no_special_tokens() -> None:
    """`add_special_tokens: false` leaves the beginning of the sequence out."""
    engine = ScriptedEngine()
    counts = [
        (await post(engine, "/tokenize", prompt="ab", add_special_tokens=special)).json()["count"]
        for special in (True, False)
    ]
    assert counts == [3, 2]


TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
TEMPLATE = "{{ tools | tojson if tools else 'none' }}{{ messages[0].content }}"
CALL = [
    "Let me see. ",
    "<tool",
    '_call>{"name": "now", ',
    '"arguments": {"zone": "é"}}</tool_call>',
]


def with_tools(*texts: str, end: str = "stop", tail: str = "") -> ScriptedEngine:
    """An engine whose model's template reads tools."""
    engine = ScriptedEngine(texts, end=end, tail=tail)
    engine.model_info["chat_template"] = TEMPLATE
    return engine


async def test_tool_call() -> None:
    """A call that the model writes is a `tool_calls` entry, and no text."""
    engine = with_tools(*CALL)
    whole = (await post(engine, CHAT, messages=USER, tools=TOOLS)).json()
    (choice,) = whole["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me see. ", "tool_calls")
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "now")
    assert json.loads(call["function"]["arguments"]) == {"zone": "é"}
    assert b'"name": "now"' in bytes(engine.submitted[0]["prompt"])


async def test_streamed_tool_call() -> None:
    """Streamed, a call is one delta, as soon as it is closed; still one event per token."""
    engine = with_tools(*CALL)
    response = await post(engine, CHAT, messages=USER, tools=TOOLS, stream=True)
    choices = [chunk["choices"][0] for chunk in events(response)]
    assert [choice["delta"]["content"] for choice in choices] == ["Let me see. ", "", "", "", ""]
    calls = [choice["delta"].get("tool_calls") for choice in choices]
    assert calls[:3] == [None] * 3
    assert (calls[3][0]["index"], calls[3][0]["function"]["name"]) == (0, "now")
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("texts", "tail"),
    [
        (["<tool_call>", "{broken}", "</tool_call>"], ""),
        (["<tool_call>", '{"name": "now"}'], ""),
        (["a <", "b"], " <tool_call"),
        (['<tool_call>["now"]</tool_call>'], ""),
    ],
)
async def test_what_is_no_call_stays_text(stream: bool, texts: list[str], tail: str) -> None:
    """Broken and unfinished calls are text of the answer: nothing is lost."""
    engine = with_tools(*texts, tail=tail)
    response = await post(engine, CHAT, messages=USER, tools=TOOLS, stream=stream)
    if stream:
        choices = [chunk["choices"][0] for chunk in events(response)]
        text = "".join(choice["delta"]["content"] for choice in choices)
        reason = choices[-1]["finish_reason"]
    else:
        (choice,) = response.json()["choices"]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    assert (text, reason) == ("".join(texts) + tail, "stop")


async def test_calls_are_text_where_no_tool_was_offered() -> None:
    """Without tools, or with `tool_choice: none`, nothing is read into an answer."""
    engine = with_tools(*CALL)
    for body in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        whole = (await post(engine, CHAT, messages=USER, **body)).json()
        message = whole["choices"][0]["message"]
        assert (message["content"], message["tool_calls"]) == ("".join(CALL), None)
        assert bytes(engine.submitted[-1]["prompt"]) == b"noneHi"


async def test_a_template_without_tools(engine: Any) -> None:
    """Tools that the model would never see are refused, and counted by nobody else."""
    response = await post(engine, CHAT, messages=USER, tools=TOOLS)
    assert response.status_code == 400
    assert "the model's chat template reads none" in response.json()["error"]["message"]


CITY = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "size": {"enum": [1, 2]}},
    "required": ["name", "size"],
}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}


@pytest.mark.parametrize(
    ("fields", "schema"),
    [
        ({"response_format": {"type": "json_object"}}, {"type": "object"}),
        ({"response_format": {"type": "json_object", "schema": CITY}}, CITY),
        ({"response_format": SCHEMA_FORMAT}, CITY),
        ({"response_format": {"type": "text"}, "json_schema": CITY}, CITY),
        ({"response_format": {"type": "text"}}, None),
        ({"grammar": ""}, None),
    ],
)
async def test_each_format_is_a_schema_of_the_engine(fields: Any, schema: Any) -> None:
    """Every form of an answer reaches the engine as the schema that it means, or as none."""
    engine = ScriptedEngine(["a"])
    await post(engine, CHAT, messages=USER, **fields)
    expected = SamplingParams(json_schema=schema).grammar
    assert engine.submitted[0]["params"].grammar == expected


async def test_how_to_draw_reaches_the_engine() -> None:
    """A grammar, mirostat and DRY are called as the engine's parameters are."""
    engine = ScriptedEngine(["a"])
    grammar = 'root ::= "a"'
    dry = {"dry_multiplier": 0.5, "dry_base": 2, "dry_allowed_length": 3}
    dry |= {"dry_penalty_last_n": 64, "dry_sequence_breakers": ["\n"]}
    mirostat = {"mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2}
    response = await post(engine, COMPLETIONS, prompt="p", grammar=grammar, **mirostat, **dry)
    assert response.status_code == 200
    params = engine.submitted[0]["params"]
    assert (params.grammar, params.mirostat, params.dry_multiplier) == (grammar, 2, 0.5)


MULTIPLE = {"type": "json_schema", "json_schema": {"schema": {"type": "integer", "multipleOf": 3}}}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"response_format": SCHEMA_FORMAT}, "the model toy cannot use a grammar"),
        ({"mirostat": 1}, "the model toy cannot use mirostat"),
        ({"dry_multiplier": 1}, "the model toy cannot use DRY"),
        ({"response_format": {"type": "xml"}}, "'xml'"),
        ({"response_format": {"type": "json_schema"}}, "response_format: Field required"),
        (
            {"response_format": SCHEMA_FORMAT, "json_schema": CITY},
            "response_format and json_schema",
        ),
        ({"json_schema": CITY, "grammar": "root ::= [a]"}, "grammar and json_schema are given"),
        ({"response_format": MULTIPLE}, "`multipleOf` at # of the JSON schema is not supported"),
        ({"grammar": "root ::= ("}, "line 1 of the grammar"),
        ({"mirostat": 3}, "mirostat: Input should be less than or equal to 2"),
        ({"dry_penalty_last_n": -1}, "dry_penalty_last_n: Input should be greater"),
        ({"dry_base": 0.5, "dry_multiplier": 1}, "dry_base is 0.5; it must be from 1 to 10"),
        ({"guided_json": CITY}, "guided_json: "),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_form_that_cannot_be_had(engine: Any, fields: Any, text: str, stream: bool) -> None:
    """What the model cannot follow is a 400 that says why, never an answer in another form."""
    response = await post(engine, CHAT, messages=USER, stream=stream, **fields)
    assert response.status_code == 400
    assert text in response.json()["error"]["message"]
    assert engine.stats()["running"] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_promise_that_cannot_be_kept_is_a_429(stream: bool) -> None:
    """With `overload="reject"`, such a request is refused with `Retry-After`, streaming or not."""
    body = {"prompt": "hello " * 300, "max_tokens": 2, "stream": stream}
    with Engine("toy", EngineConfig(overload="reject")) as engine:
        transport = httpx.ASGITransport(create_app(engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            kept = await client.post(COMPLETIONS, json={**body, "slo": {"ttft_ms": 60_000}})
            assert kept.status_code == 200
            engine.clear_cache()
            broken = await client.post(COMPLETIONS, json={**body, "slo": {"ttft_ms": 0.01}})
    assert broken.status_code == 429
    assert int(broken.headers["retry-after"]) >= 1
    assert "ttft_ms" in broken.json()["error"]["message"]
