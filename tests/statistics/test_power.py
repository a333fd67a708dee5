from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.errors import RobotestError
from robotest.statistics import power
from robotest.statistics.intervals import wilson
from robotest.statistics.paired import Comparison, compare, mcnemar
from robotest.statistics.power import (
    Question,
    episodes_needed_unpaired,
    measure,
    paired_power,
    pairs_needed,
    pairs_needed_between,
    unpaired_power,
)
from robotest.types import Episode

USUAL = Question(rate=0.6, gain=0.05, discordance=0.33)


def brute_force(question: Question, n: int) -> float:
    """Every table of n pairs, its probability and its test."""
    a, b = (question.discordance + question.gain) / 2, (question.discordance - question.gain) / 2
    return sum(
        math.comb(n, i) * math.comb(n - i, j) * a**i * b**j * (1 - a - b) ** (n - i - j)
        for i in range(n + 1)
        for j in range(n + 1 - i)
        if mcnemar(i, j) <= question.alpha
    )


@pytest.mark.parametrize("n", [1, 6, 25, 40])
@pytest.mark.parametrize("gain", [0.2, -0.15])
def test_power_is_the_sum_over_all_tables(n: int, gain: float) -> None:
    question = Question(rate=0.5, gain=gain, discordance=0.4)
    assert paired_power(question, n) == pytest.approx(brute_force(question, n), abs=1e-12)


def test_the_number_is_the_smallest_that_is_enough() -> None:
    n = pairs_needed(USUAL)
    assert paired_power(USUAL, n) >= USUAL.power > paired_power(USUAL, n - 1)
    # Connor (1987), Biometrics 43, 207-211, by the normal approximation: about 1,034.
    assert 1000 < n < 1080


def test_the_unpaired_power_agrees_with_simulation() -> None:
    n, rng = episodes_needed_unpaired(USUAL), np.random.default_rng(0)
    assert 1400 < n < 1550  # textbook: 1,471
    x, y = rng.binomial(n, 0.6, 20_000) / n, rng.binomial(n, 0.65, 20_000) / n
    z = (y - x) / np.sqrt((x + y) * (2 - x - y) / 2 / n)
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(unpaired_power(USUAL, n), abs=0.01)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 0.7), st.floats(0.05, 0.2), st.floats(0.0, 1.0))
def test_fewer_discordant_pairs_need_fewer_episodes(rate: float, gain: float, where: float) -> None:
    most = 0.999 * min(2 * rate + gain, 2 - 2 * rate - gain)
    more = Question(rate, gain, gain + (most - gain) * (0.3 + 0.7 * where))
    fewer = dataclasses.replace(more, discordance=gain + 0.5 * (more.discordance - gain))
    assert pairs_needed(fewer) <= pairs_needed(more)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 1.2},
        {"gain": 0.0},
        {"gain": 0.5},
        {"power": 1.0},
        {"alpha": 0.0},
        {"discordance": 0.01},
        {"discordance": 0.9},
    ],
)
def test_impossible_questions_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(RobotestError, match=next(iter(changes))):
        dataclasses.replace(USUAL, **changes)


def comparison(both: int, only_a: int, only_b: int, neither: int) -> Comparison:
    sides = [("success", "success")] * both + [("success", "failure")] * only_a
    sides += [("failure", "success")] * only_b + [("failure", "failure")] * neither
    episodes = [
        Episode(name, "near", i, outcome, 1, 20, 1, "go", (0,), None, 0, 0, 0)  # type: ignore[arg-type] # as above
        for i, pair in enumerate(sides)
        for name, outcome in zip("ab", pair, strict=True)
    ]
    return compare("a", "b", episodes)


def test_the_rate_is_that_of_the_base() -> None:
    found = comparison(40, 20, 10, 30)
    assert (measure(found, "a").rate, measure(found, "b").rate) == (0.6, 0.5)
    assert measure(found, "a").ratio == measure(found, "b").ratio


def test_few_pairs_leave_the_discordance_open() -> None:
    few, many = measure(comparison(3, 1, 1, 3), "b"), measure(comparison(3000, 1000, 1000, 3000), "b")
    assert few.ratio == many.ratio
    assert few.discordance_at(0.5, 0.5) == 0.25
    assert few.discordances_at(0.5, 0.5) == pytest.approx(wilson(2, 8))
    low, high = many.discordances_at(0.5, 0.55)
    assert low < 0.25 < high < 0.27
    narrow, wide = (pairs_needed_between(Question(0.5, 0.1, 0.25), m.discordances_at(0.5, 0.6)) for m in (many, few))
    assert wide[1] is not None
    assert narrow[1] is not None
    assert wide[0] < narrow[0] <= pairs_needed(Question(0.5, 0.1, 0.25)) <= narrow[1] < wide[1]


def test_too_many_pairs_to_say_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_LARGEST", 2**14)  # to find out takes 20 s otherwise
    fewest, most = pairs_needed_between(Question(0.5, 0.01, 0.25), (0.01, 0.9))
    assert fewest < 2_000
    assert most is None
