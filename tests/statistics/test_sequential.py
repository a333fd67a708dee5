from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from robotest.errors import RobotestError
from robotest.statistics.sequential import CONCENTRATION, Monitor, decided, log_e_value
from robotest.types import Outcome
from tests.doubles.thorough import some


def anytime_p(a_won: Iterable[bool]) -> float:
    """Return 1 / the largest E so far; `a_won` says of every discordant pair, in order, whether `a` succeeded."""
    counts, largest = [0, 0], 0.0
    for won in a_won:
        counts[0 if won else 1] += 1
        largest = max(largest, log_e_value(*counts))
    return math.exp(-largest)


@given(st.integers(0, 40), st.integers(0, 40))
def test_e_is_the_integral_over_coins(only_a: int, only_b: int) -> None:
    def weighted(q: float) -> float:
        return float((2 * q) ** only_a * (2 * (1 - q)) ** only_b * beta.pdf(q, CONCENTRATION, CONCENTRATION))

    assert math.exp(log_e_value(only_a, only_b)) == pytest.approx(quad(weighted, 0, 1, epsrel=1e-10)[0], rel=1e-6)


@given(st.integers(0, 300), st.integers(0, 300))
def test_under_the_null_the_next_pair_is_a_fair_bet(only_a: int, only_b: int) -> None:
    """E is a martingale: what it will be on average is what it is."""
    now, then = log_e_value(only_a, only_b), (log_e_value(only_a + 1, only_b), log_e_value(only_a, only_b + 1))
    assert np.mean(np.exp(np.array(then) - now)) == pytest.approx(1, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", some([0.05, 0.01, 0.2], 3))
def test_looks_after_every_pair_keep_the_error_rate(alpha: float) -> None:
    """The chance that two equal conditions are ever called different within 2,000 pairs, exactly."""
    alive, called = np.array([1.0]), 0.0  # probability of each count of `a` among those not called yet
    for n in range(1, 2001):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        # Called at the extremes only, and E falls towards the middle: it is enough to go in from both ends.
        for counts in (range(n + 1), range(n, -1, -1)):
            for a in counts:
                if not decided(a, n - a, alpha):
                    break
                called, alive[a] = called + alive[a], 0.0
    assert 0.1 * alpha < called <= alpha


def test_a_real_difference_is_found_early() -> None:
    rng = np.random.default_rng(0)
    needed = []
    for _ in range(200):
        won = rng.random(3000) < 0.65
        a = np.cumsum(won)
        needed.append(next((n for n in range(1, 3001) if decided(int(a[n - 1]), n - int(a[n - 1]))), 3001))
    assert np.median(needed) < 120


@given(st.lists(st.booleans(), max_size=200))
def test_the_anytime_p_is_never_forgotten(a_won: list[bool]) -> None:
    values = [anytime_p(a_won[:n]) for n in range(len(a_won) + 1)]
    assert values[0] == 1
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(values))
    called = any(decided(sum(a_won[:n]), n - sum(a_won[:n])) for n in range(len(a_won) + 1))
    assert called == (values[-1] <= 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0, math.nan])
def test_alpha_is_a_fraction(alpha: float) -> None:
    with pytest.raises(RobotestError, match="alpha"):
        decided(1, 2, alpha)


STARTS = [("x", i) for i in range(30)]
OUTCOMES = st.lists(st.sampled_from(("success", "failure", "error")), min_size=30, max_size=30)


@given(OUTCOMES, OUTCOMES, st.permutations(range(60)))
def test_the_verdict_does_not_depend_on_the_order_in_which_episodes_end(
    a: list[Outcome], b: list[Outcome], order: list[int]
) -> None:
    everything = {("a", *s): o for s, o in zip(STARTS, a, strict=True)}
    everything |= {("b", *s): o for s, o in zip(STARTS, b, strict=True)}
    keys = list(everything)
    once, step_by_step = Monitor("a", "b", 0.3), Monitor("a", "b", 0.3)
    once.look(STARTS, everything)
    seen: dict[tuple[str, str, int], Outcome] = {}
    for i in order:
        seen[keys[i]] = everything[keys[i]]
        step_by_step.look(STARTS, seen)
    assert step_by_step == once
    valid = [(x, y) for x, y in zip(a, b, strict=True) if "error" not in (x, y)]
    if once.decided_after is None:
        assert once.pairs == len(valid)
        assert once.p_value == pytest.approx(anytime_p(x == "success" for x, y in valid if x != y))


def test_a_monitor_stops_counting_when_it_is_decided() -> None:
    outcomes: dict[tuple[str, str, int], Outcome] = {("a", *s): "success" for s in STARTS}
    outcomes |= {("b", *s): "failure" for s in STARTS}
    monitor = Monitor("a", "b", 0.05)
    monitor.look(STARTS, outcomes)
    assert monitor.decided_after == monitor.pairs == monitor.only_a
    assert decided(monitor.only_a, 0)
    assert not decided(monitor.only_a - 1, 0)
    assert monitor.p_value <= 0.05
