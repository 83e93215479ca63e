"""The arithmetic of `tests/benches/latency`, and its client on the toy model."""

import math
import statistics
from itertools import islice, takewhile
from random import Random
from threading import Event

import pytest

from latency.client import Answer, Ending, play, tokens_per_second
from latency.figures import Figure, as_json, highest, percentile, ratio
from latency.overload import RATES, mixed
from latency.peers import Ours, Setting, Size
from latency.trace import WORDS, Ask, arrivals, text


@pytest.fixture
def peer():
    ours = Ours("toy", 1, Size(cells=2_048, parallel=4))
    yield ours
    ours.engine.shutdown()


def answer(stamps, **ask):
    """An answer due at 10 whose tokens came at these times."""
    asked = Ask(0.0, "", len(stamps), **ask)
    ending = Ending(completion_tokens=len(stamps), prompt_tokens=5)
    return Answer(asked, 10.0, list(stamps), stamps[-1], ending)


def test_a_percentile_is_the_nearest_rank():
    """The 99th of 1 to 100 is 99, of 1 to 1,000 it is 990; of few samples it is the greatest."""
    assert percentile(range(1, 101), 99) == 99
    assert percentile(range(1000, 0, -1), 99) == 990
    assert percentile([3, 1, 2], 99) == 3
    assert percentile([4, 1, 2, 3], 50) == 2
    assert math.isnan(percentile([], 99))


def test_arrivals_are_a_poisson_process_of_the_seed():
    """The same seed gives the same times; their mean and deviation are those of the rate."""
    times = list(islice(arrivals(Random(7), 4.0), 20_000))
    assert times == list(islice(arrivals(Random(7), 4.0), 20_000))
    assert times[:9] != list(islice(arrivals(Random(8), 4.0), 9))
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert min(gaps) > 0
    assert statistics.mean(gaps) == pytest.approx(1 / 4, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 4, rel=0.03)
    assert len(list(takewhile(lambda at: at < 100, times))) == pytest.approx(400, rel=0.15)


def test_a_mixed_trace_differs_between_rates_in_times_and_words_alone():
    """At twice the rate the same requests come in half the time, and share no words."""
    slow, fast = mixed(3, 1.0), mixed(3, 2.0)
    assert mixed(3, 1.0) == slow
    for one, other in zip(slow, fast, strict=True):
        assert one.at == pytest.approx(2 * other.at)
        assert (one.kind, one.tokens, one.ttft_ms) == (other.kind, other.tokens, other.ttft_ms)
        assert len(one.prompt.split()) == len(other.prompt.split())
        assert one.prompt != other.prompt
    assert {ask.kind for ask in slow} == {"chat", "long", "background"}


def test_texts_share_next_to_nothing():
    """Two texts of one seed differ within the first few words."""
    random = Random(1)
    first, second = text(random, 50).split(), text(random, 50).split()
    assert len(first) == 50
    assert set(first) <= set(WORDS)
    assert first[:4] != second[:4]


def test_times_count_from_when_a_request_was_due():
    """TTFT starts at due; a gap belongs to every time that it overlaps."""
    one = answer([10.5, 11.0, 13.0, 13.25])
    assert one.ttft == 0.5
    assert one.gaps() == [0.5, 2.0, 0.25]
    assert one.gaps(since=12.0, until=12.5) == [2.0]
    assert one.gaps(since=11.0) == [2.0, 0.25]
    assert answer([12.0]).gaps() == []
    assert tokens_per_second([one, answer([10.5, 16.0])]) == (5 + 4 + 5 + 2) / 6


@pytest.mark.parametrize(
    ("stamps", "kept"),
    [
        ([11.0, 11.25, 11.5], True),
        ([11.1, 11.2, 11.3], False),
        ([10.5, 10.7, 11.0], False),
    ],
)
def test_slos_hold_for_the_first_token_and_every_gap(stamps, kept):
    """In time is: the first token within ttft_ms, and no gap longer than tbt_ms."""
    assert answer(stamps, ttft_ms=1_000.0, tbt_ms=250.0).kept is kept


def test_what_is_incomplete_keeps_no_slo():
    """An error, a missing token, or no end at all is a miss, even without an SLO."""
    one = answer([11.0])
    assert one.kept
    one.ending = Ending(completion_tokens=1, error="no")
    assert not one.kept
    one.ending = Ending(completion_tokens=0)
    assert not one.kept
    one.ending = None
    assert not one.kept
    assert Answer(one.ask, 10.0).ttft == math.inf


def test_bisection_finds_the_highest_rate_that_passes():
    """To the precision it states; 0 if nothing passes, near the top if everything does."""
    low, high = RATES
    exact = (high / low) ** (1 / 2**5)
    for limit in (0.3, 0.77, 1.0, 3.9):
        found = highest(lambda rate, limit=limit: rate <= limit, low, high, 5)
        assert found <= limit <= found * exact * (1 + 1e-9)
    assert highest(lambda rate: False, low, high, 5) == 0.0
    assert highest(lambda rate: True, low, high, 5) == pytest.approx(high / exact)


def test_a_ratio_pools_and_its_spread_goes_by_rounds():
    """The median of all samples over the median of all; least and greatest of the rounds."""
    figure = Figure("x", "x", "median", "s", default=0.5)
    compared = ratio(figure, [{"x": [1.0, 3.0]}, {"x": [5.0]}], [{"x": [4.0]}, {"x": [5.0, 5.0]}])
    assert (compared.pooled, compared.least, compared.greatest) == (3 / 5, 2 / 4, 1.0)
    assert figure.meets(compared.pooled, figure.default) is False
    assert figure.meets(0.5, figure.default) is True
    assert figure.meets(0.5, figure.tuned) is None
    assert Figure("x", "x", "median", "s", higher=True).meets(0.5, 0.4) is True


def test_json_has_no_numbers_that_are_none():
    """NaN and infinity become null."""
    assert as_json({"a": [math.nan, 1.0], "b": math.inf}) == {"a": [None, 1.0], "b": None}


def test_play_sends_in_an_open_loop(peer):
    """All requests are sent and answered in full, each no earlier than it was due."""
    asks = [Ask(index / 500, "hello", 5, kind=str(index)) for index in range(20)]
    answers = play(peer, asks)
    assert [answer.ask for answer in answers] == asks
    for one in answers:
        assert one.completed
        assert len(one.stamps) == one.ending.completion_tokens == 5
        assert one.due < one.stamps[0] <= one.stamps[-1] <= one.ended
    assert peer.prefilled() > 0


def test_play_stops_when_halted(peer):
    """What is under way ends at its next token; what is not due yet is never sent."""
    halt = Event()
    asks = [Ask(0.0, "hello", 1_000), Ask(3_600.0, "later", 5)]
    (only,) = play(Watched(peer, halt), asks, halt=halt)
    assert only.ask is asks[0]
    assert not only.completed


class Watched:
    """A peer that halts the trace at its first token."""

    def __init__(self, peer, halt):
        self._peer = peer
        self._halt = halt

    def answer(self, ask, on_token):
        self._halt.set()
        return self._peer.answer(ask, on_token)


def test_an_error_is_an_ending(peer):
    """A prompt that does not fit is reported as such, and the others are answered."""
    asks = [Ask(0.0, "x" * 5_000, 5), Ask(0.0, "hello", 5)]
    wrong, right = play(peer, asks)
    assert "PromptTooLong" in wrong.ending.error or "prompt" in wrong.ending.error
    assert not wrong.completed
    assert right.completed


def test_a_setting_is_read_as_it_is_written():
    """`64:1` is one buffer for all, `64:0` a part for each."""
    assert Setting.parse("64:1") == Setting(64, unified=True)
    assert str(Setting.parse("128:0")) == "128 split"
