"""What tokens cost: prices of a model, and the sums in `ryot_token_cost_estimate_usd_total`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ryot_metrics._ryot_metrics import Request, set_prices
from ryot_metrics.callbacks import report, safely

Price = Decimal | str | int | float
"""US dollars. A float means the number that it prints as."""

MAX_PRICE = Decimal(1_000_000)
"""The highest price of 1,000 tokens, or of a request, in US dollars."""

_PICO = Decimal(10) ** 12
_Tiers = tuple[tuple[int | None, int], ...]
_Dynamic = Callable[[str, int, int], tuple[Price, Price]]


@dataclass(frozen=True)
class CostModel:
    """Prices of a model; made by `fixed_rate`, `tiered` or `dynamic`.

    Prices are in US dollars per 1,000 tokens, with up to nine decimals. Sums are exact: the page
    shows them rounded once, to the nearest float.

    Example:
        >>> set_cost_model("gpt4", CostModel.fixed_rate(prompt="0.0015", completion="0.002"))
        >>> set_cost_model("gpt4", None)
    """

    kind: str
    prompt: _Tiers = ()
    completion: _Tiers = ()
    function: _Dynamic | None = None

    @classmethod
    def fixed_rate(cls, prompt: Price, completion: Price) -> CostModel:
        """The same price for each token.

        Args:
            prompt: US dollars per 1,000 tokens of prompts.
            completion: US dollars per 1,000 tokens of completions.

        Raises:
            ValueError: For a price below 0, above 1,000,000, or of more than nine decimals.
        """
        return cls("fixed_rate", ((None, _each(prompt)),), ((None, _each(completion)),))

    @classmethod
    def tiered(
        cls,
        prompt: Sequence[tuple[int | None, Price]],
        completion: Sequence[tuple[int | None, Price]],
    ) -> CostModel:
        """Prices by the place of a token in its request.

        Tiers are of one request, not of a month's volume: a process knows no other process's
        volume, nor its own of yesterday.

        Args:
            prompt: Tiers, each the last token that it is for (None: all further ones) and US
                dollars per 1,000 tokens; `[(1000, "0.002"), (None, "0.001")]` charges the first
                1,000 tokens of a prompt at the first price and those after them at the second.
            completion: The same for completions.

        Raises:
            ValueError: For a bad price, for tiers that do not rise, or if the last one ends.
        """
        return cls("tiered", _tiers("prompt", prompt), _tiers("completion", completion))

    @classmethod
    def dynamic(cls, function: _Dynamic) -> CostModel:
        """Prices that a function says at the end of each request.

        It is called on the request's thread, for requests of decorators and contexts. Those of an
        engine by itself are not priced; `ryot_metrics_dropped_total{reason="unpriced"}` counts
        them.

        Args:
            function: Given the model, the tokens of the prompt and those of the completion,
                returns what they cost, in US dollars with up to twelve decimals.

        Raises:
            TypeError: For something that is no function.
        """
        if not callable(function):
            raise TypeError(f"the dynamic cost is {function!r}; it must be a function")
        return cls("dynamic", function=function)


_functions: dict[str, _Dynamic] = {}


def set_cost_model(model: str, cost: CostModel | None) -> None:
    """Sets what the tokens of a model cost from now on.

    Args:
        model: The label `model`; `*` for every model that has no prices of its own.
        cost: The prices; None for none.

    Raises:
        TypeError: For something that is no `CostModel`.
    """
    if not isinstance(cost, CostModel | None):
        raise TypeError(f"cost is {cost!r}; it must be a CostModel or None")
    if cost is None:
        set_prices(model, None, [], [])
    else:
        set_prices(model, cost.kind, list(cost.prompt), list(cost.completion))
    if cost is not None and cost.function is not None:
        _functions[model] = cost.function
    else:
        _functions.pop(model, None)


def charge(request: Request, tokens: tuple[int, int]) -> None:
    """Asks the model's function what a finished request cost, and adds that."""
    function = _functions.get(request.model) or _functions.get("*")
    if function is None:  # taken away meanwhile
        return
    answer = safely(function, request.model, *tokens)
    if answer is None:
        return
    try:
        prompt, completion = answer
        amounts = _exact("cost", prompt, _PICO), _exact("cost", completion, _PICO)
    except (TypeError, ValueError) as error:
        report(getattr(function, "__qualname__", "dynamic cost"), error)
    else:
        request.charge(*amounts)


def _each(price: Price) -> int:
    return _exact("price of 1,000 tokens", price, _PICO / 1000)


def _tiers(name: str, tiers: Sequence[tuple[int | None, Price]]) -> _Tiers:
    ends = [end for end, _ in tiers]
    rising = [end for end in ends if end is not None]
    if not ends or ends[-1] is not None or None in ends[:-1]:
        raise ValueError(
            f"the tiers of the {name} end at {ends}; the last must end at None, only it"
        )
    whole = all(isinstance(end, int) for end in rising)
    if not whole or rising != sorted(set(rising)) or min(rising, default=1) < 1:
        raise ValueError(
            f"the tiers of the {name} end at {rising}; they must rise, in whole steps from 1"
        )
    return tuple((end, _each(price)) for end, price in tiers)


def _exact(what: str, price: Price, units: Decimal) -> int:
    """The price in 10⁻¹² dollars, which must be whole."""
    try:
        amount = Decimal(str(price))
    except InvalidOperation:
        raise ValueError(f"the {what} is {price!r}, which is no number") from None
    if not (amount.is_finite() and 0 <= amount <= MAX_PRICE):
        raise ValueError(f"the {what} is {price!r}; it must be from 0 to {MAX_PRICE} US dollars")
    exact = amount * units
    if exact != exact.to_integral_value():
        decimals = units.adjusted()
        raise ValueError(f"the {what} is {price!r}; it may have {decimals} decimals at most")
    return int(exact)
