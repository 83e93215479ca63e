"""Prices, and sums that lose nothing."""

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from ryot_metrics import (
    CostModel,
    Engine,
    InferenceContext,
    SamplingParams,
    cost,
    set_cost_model,
)
from ryot_metrics._ryot_metrics import Request
from ryot_metrics.testing import isolated

COST = "ryot_token_cost_estimate_usd_total"


@pytest.fixture(autouse=True)
def metrics(monkeypatch):
    monkeypatch.setattr(cost, "_functions", {})
    with isolated() as metrics:
        yield metrics


def spent(metrics, token_type, model="m"):
    """The cost on the page, summed over its one cost model."""
    return [
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == COST
        and (sample.labels["model"], sample.labels["token_type"]) == (model, token_type)
    ]


def request(prompt, completion, model="m"):
    with InferenceContext(model=model) as context:
        context.set_prompt_tokens(prompt)
        context.set_token_count(completion)


def test_a_fixed_rate_is_a_price_for_1000_tokens(metrics):
    """Prompt and completion have their prices; the label says how they were made."""
    set_cost_model("m", CostModel.fixed_rate(prompt="0.0015", completion=0.002))
    request(2_000, 500)
    labels = {"model": "m", "token_type": "prompt", "cost_model": "fixed_rate"}
    metrics.assert_metric(COST, labels, delta=0.003)
    assert spent(metrics, "completion") == [0.001]


def test_a_million_small_amounts_add_up_exactly(metrics):
    """10⁶ requests of 7 tokens at $0.0015 per 1,000: a float's own sum is off, this one is not."""
    set_cost_model("m", CostModel.fixed_rate(prompt="0.0015", completion="0.0015"))
    naive = 0.0
    for _ in range(1_000_000):
        one = Request("m")
        one.set_token_count(7)
        one.finish()
        naive += 7 * 0.0015 / 1000
    assert naive != 10.5
    assert spent(metrics, "completion") == [10.5]


def test_random_prices_agree_with_fractions(metrics):
    """The page has the float that is nearest to the sum of exact fractions."""
    draw = random.Random(7)
    exact = Fraction(0)
    for _ in range(300):
        price = Decimal(draw.randrange(10**12)) / 10**9
        tokens = draw.randrange(1, 10**6)
        set_cost_model("m", CostModel.fixed_rate(prompt=0, completion=price))
        request(0, tokens)
        exact += Fraction(price) * tokens / 1000
        assert spent(metrics, "completion") == [float(exact)]


def test_tiers_are_of_one_request(metrics):
    """Each token costs what its place in its request says; the next request begins anew."""
    tiers = [(1_000, "0.002"), (3_000, "0.001"), (None, "0.0005")]
    set_cost_model("m", CostModel.tiered(prompt=tiers, completion=[(None, "0")]))
    for tokens in (500, 1_500, 4_000):
        request(tokens, 10)
    assert spent(metrics, "prompt") == [0.001 + 0.0025 + 0.0045]
    assert spent(metrics, "completion") == []


def test_a_function_says_what_a_request_costs(metrics, caplog):
    """It is given model and tokens; one that fails costs nothing but a line in the log."""
    calls = []

    def by_night(model, prompt, completion):
        calls.append((model, prompt, completion))
        if model == "broken":
            raise LookupError
        return (Decimal("0.000000000001"), "0.5") if model == "m" else "nonsense"

    set_cost_model("*", CostModel.dynamic(by_night))
    for model in ("m", "broken", "odd"):
        request(3, 4, model)
    assert calls == [(model, 3, 4) for model in ("m", "broken", "odd")]
    assert spent(metrics, "prompt") == [1e-12]
    assert spent(metrics, "completion") == [0.5]
    metrics.assert_metric("ryot_metrics_dropped_total", {"reason": "callback_error"}, delta=2)
    assert len(caplog.records) <= 2


def test_a_model_s_own_price_goes_before_the_common_one(metrics):
    """`*` is for models without a price; None takes a price away."""
    set_cost_model("*", CostModel.fixed_rate(prompt=0, completion=1))
    set_cost_model("m", CostModel.fixed_rate(prompt=0, completion=2))
    request(0, 1_000)
    request(0, 1_000, "other")
    set_cost_model("m", None)
    set_cost_model("*", None)
    request(0, 1_000)
    assert spent(metrics, "completion") == [2.0]
    assert spent(metrics, "completion", "other") == [1.0]


def test_without_prices_the_family_is_absent(metrics):
    """Nothing is said of costs that nobody knows."""
    request(3, 4)
    assert not any(
        family.name == COST.removesuffix("_total") for family in metrics.registry.collect()
    )


def test_an_engine_s_requests_are_priced(metrics):
    """By rates the engine's own requests too; what only a function knows is counted as unpriced."""
    set_cost_model("priced", CostModel.fixed_rate(prompt=0, completion=1))
    set_cost_model("asked", CostModel.dynamic(lambda *_: (0, 1)))
    for name in ("priced", "asked"):
        with Engine("toy", name=name) as engine:
            engine.generate("hello", SamplingParams(max_tokens=5))
    assert spent(metrics, "completion", "priced") == [0.005]
    metrics.assert_metric("ryot_metrics_dropped_total", {"reason": "unpriced"}, delta=1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CostModel.fixed_rate(-1, 0), "is -1; it must be from 0 to 1000000 US dollars"),
        (lambda: CostModel.fixed_rate("x", 0), "'x', which is no number"),
        (lambda: CostModel.fixed_rate(float("nan"), 0), "must be from 0"),
        (lambda: CostModel.fixed_rate("0.0000000001", 0), "may have 9 decimals at most"),
        (lambda: CostModel.tiered([(10, 1)], [(None, 1)]), "tiers of the prompt end at"),
        (lambda: CostModel.tiered([(10, 1), (5, 1), (None, 1)], [(None, 1)]), "must rise"),
        (lambda: CostModel.tiered([(1.5, 1), (None, 1)], [(None, 1)]), "whole steps"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(make, text):
    """The error names the price and the limit."""
    with pytest.raises(ValueError, match=text):
        make()


def test_only_prices_and_functions_are_cost_models():
    """A wrong type is refused at once, and leaves the prices as they are."""
    with pytest.raises(TypeError, match="dynamic cost is 3; it must be a function"):
        CostModel.dynamic(3)
    with pytest.raises(TypeError, match="cost is 3; it must be a CostModel"):
        set_cost_model("m", 3)
