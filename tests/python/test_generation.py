"""How answers are drawn, asked for in Python, on the toy model."""

import math

import numpy as np
import pytest

from ryot_metrics import Chunk, SamplingParams

SIX = SamplingParams(max_tokens=6, temperature=0)


def test_a_bias_forces_and_forbids_tokens(engine):
    """A token of bias 100 is always drawn, one of bias -100 never."""
    forced = SamplingParams(max_tokens=5, temperature=0, logit_bias={ord("q"): 100.0})
    assert engine.generate("hello", forced).text == "qqqqq"
    free = engine.generate("hello", SIX).token_ids
    forbidden = SamplingParams(max_tokens=6, temperature=0, logit_bias={free[0]: -100.0})
    assert free[0] not in engine.generate("hello", forbidden).token_ids
    assert forbidden.logit_bias == {free[0]: -100.0}


def test_a_bias_of_an_unknown_token_is_refused(engine):
    """Only the model knows its vocabulary, so this shows when the request comes."""
    params = SamplingParams(logit_bias={257: 1.0})
    with pytest.raises(ValueError, match=r"the token of a logit bias is 257; it must be from 0 to"):
        engine.generate("hello", params)


def test_a_frequency_penalty_makes_an_answer_vary(engine):
    """A letter that always wins loses to another once it has been there often enough."""
    bias = {ord("x"): 80.0, ord("y"): 60.0}  # the toy's own logits differ by 18 at most

    def draw(penalty):
        params = SamplingParams(
            max_tokens=30, temperature=0, logit_bias=bias, frequency_penalty=penalty
        )
        return engine.generate("xyxy", params).text

    assert draw(0.0) == "x" * 30
    varied = draw(2.0)
    assert set(varied) == {"x", "y"}
    assert 1 <= varied.count("x") - varied.count("y") <= 20


def test_logprobs_come_with_each_token(engine):
    """Chunks and completions carry log-probabilities of the drawn and the likeliest tokens."""
    params = SamplingParams(max_tokens=6, temperature=0, logprobs=3)
    completion = engine.generate("hello", params)
    assert len(completion.logprobs) == 6
    for token, logprobs in zip(completion.token_ids, completion.logprobs, strict=True):
        assert logprobs.drawn.token_id == token
        assert logprobs.drawn == logprobs.top[0], "greedy draws the likeliest"
        assert logprobs.drawn.text == chr(token)
        assert len(logprobs.top) == 3
        values = [one.logprob for one in logprobs.top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6
    chunks = list(engine.stream("hello", params))
    assert [chunk.logprobs for chunk in chunks] == completion.logprobs
    assert engine.generate("hello", SIX).logprobs is None
    assert Chunk("a", 97).logprobs is None


def test_logprobs_are_the_model_s_own(engine):
    """Bias and temperature change what is drawn, not what is reported."""
    plain = engine.generate("hello", SamplingParams(max_tokens=1, temperature=0, logprobs=1))
    bias = {ord("q"): 100.0}
    params = SamplingParams(max_tokens=1, temperature=2.0, logit_bias=bias, logprobs=1)
    biased = engine.generate("hello", params).logprobs[0]
    assert biased.drawn.token_id == ord("q")
    assert biased.drawn.logprob < -1
    assert biased.top == plain.logprobs[0].top


def test_n_answers_differ_and_repeat_by_seed(engine):
    """Answer i of n is what seed + i gives alone; without a seed they differ too."""
    params = SamplingParams(max_tokens=20, temperature=3.0, seed=7)
    answers = engine.generate("hello", params, n=3)
    alone = [
        engine.generate("hello", SamplingParams(max_tokens=20, temperature=3.0, seed=7 + index))
        for index in range(3)
    ]
    assert [answer.text for answer in answers] == [answer.text for answer in alone]
    free = SamplingParams(max_tokens=20, temperature=3.0)
    assert len({answer.text for answer in engine.generate("hello", free, n=4)}) == 4
    several = engine.generate(["hello", "world"], params, n=2)
    assert [one.text for one in several[:2]] == [one.text for one in alone[:2]]
    assert len(several) == 4
    with pytest.raises(ValueError, match="n is 0; it must be at least 1"):
        engine.generate("hello", params, n=0)


def test_echo_puts_the_prompt_before_the_answer(engine):
    """The text begins with the prompt, given as text or as tokens; tokens are the answer's."""
    plain = engine.generate("héllo", SIX)
    assert engine.generate("héllo", SIX, echo=True).text == "héllo" + plain.text
    tokens = engine.tokenize("héllo")
    echoed = engine.generate([tokens, tokens], SIX, echo=True)
    assert [one.text for one in echoed] == ["héllo" + plain.text] * 2
    assert echoed[0].token_ids == plain.token_ids


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tokens_go_in_and_out_as_arrays(engine, dtype):
    """An array is a prompt like a list, also one that is not contiguous, or in a list."""
    tokens = np.array(engine.tokenize("hello"), dtype=dtype)
    expected = engine.generate("hello", SIX)
    completion = engine.generate(tokens, SIX)
    assert completion.token_ids == expected.token_ids
    assert engine.generate(np.repeat(tokens, 2)[::2], SIX).token_ids == expected.token_ids
    assert [one.text for one in engine.generate([tokens, tokens], SIX)] == [expected.text] * 2
    array = completion.token_array()
    assert array.dtype == np.int32
    assert array.tolist() == expected.token_ids
    assert engine.detokenize(np.concatenate([tokens, array])) == "hello" + expected.text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (np.zeros((2, 3), np.int32), r"an array of shape \[2, 3\] and dtype int32; token ids must"),
        (np.zeros(3), r"shape \[3\] and dtype float64; token ids must have one dimension and be"),
        (np.array([2**40]), r"holds token 1099511627776; it must be from 0 to 2147483647"),
        ([-(2**40)], r"holds token -1099511627776"),
        (np.array([257], np.int32), r"holds token 257; it must be from 0 to 256"),
        (np.zeros(0, np.int32), r"prompt has 0 tokens"),
    ],
)
def test_an_array_that_is_no_prompt_is_a_value_error(engine, prompt, text):
    """The error names shape, type or token."""
    with pytest.raises(ValueError, match=text):
        engine.generate(prompt, SIX)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty is 2.1; it must be from -2 to 2"),
        ({"frequency_penalty": -3}, "frequency_penalty is -3; it must be from -2 to 2"),
        ({"logit_bias": {5: 101}}, "the logit bias of token 5 is 101; it must be from -100 to"),
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "logit biases is 1025; .* at most 1024"),
        ({"logprobs": 21}, "logprobs is 21; it must be from 0 to 20"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"mirostat": 3}, "mirostat is 3; it must be 0, 1 or 2"),
        ({"mirostat": 2, "mirostat_tau": 0.0}, "mirostat_tau is 0"),
        ({"mirostat": 2, "mirostat_eta": 1.5}, "mirostat_eta is 1.5; it must be from 0 to 1"),
        ({"dry_multiplier": -1.0}, "dry_multiplier is -1; it must be from 0 to 100"),
        ({"dry_multiplier": 1.0, "dry_base": 0.5}, "dry_base is 0.5; it must be from 1 to 10"),
        ({"dry_multiplier": 1.0, "dry_penalty_last_n": 0}, "dry_penalty_last_n is 0"),
        ({"dry_multiplier": 1.0, "dry_sequence_breakers": ["x" * 41]}, "sequence breaker is 41"),
    ],
)
def test_parameters_of_the_draw_name_value_and_range(arguments, text):
    """Each parameter outside of its range is refused where it is made."""
    with pytest.raises(ValueError, match=text):
        SamplingParams(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"mirostat": 2}, "mirostat"),
        ({"dry_multiplier": 0.8}, "DRY"),
        ({"json_schema": {}}, "a grammar"),
    ],
)
def test_the_toy_says_what_it_cannot_do(engine, arguments, name):
    """What llama.cpp does is refused by a model that is not llama.cpp's, and others go on."""
    with pytest.raises(ValueError, match=f"the model toy cannot use {name}"):
        engine.generate("hello", SamplingParams(**arguments))
    assert engine.generate("hello", SIX).token_count == 6


def test_stop_strings_are_found_across_tokens(engine):
    """Each toy token is one byte, so every stop string spans tokens; the earliest end counts."""
    whole = engine.generate("hello", SamplingParams(max_tokens=40, temperature=0)).text
    for stop in ([whole[10:14]], [whole[12:16], whole[10:15]], [whole[10:12], whole[10:14]]):
        params = SamplingParams(max_tokens=40, temperature=0, stop=stop)
        end, start = min((whole.index(one) + len(one), whole.index(one)) for one in stop)
        answer = engine.generate("hello", params)
        assert (answer.text, answer.finish_reason) == (whole[:start], "stop")
        assert answer.token_count == end
        assert "".join(map(str, engine.stream("hello", params))) == answer.text
