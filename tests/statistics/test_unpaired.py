"""Independent samples, and returns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import fisher_exact, t, ttest_ind

from robotest.statistics import paired as stats
from robotest.statistics import rates
from robotest.statistics.returns import compare_returns, mean_return
from robotest.statistics.unpaired import compare_unpaired, newcombe
from robotest.types import Episode
from tests.statistics.test_paired import episodes

RETURNS = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=0, max_size=9)


def paid(condition: str, returns: list[float]) -> list[Episode]:
    return [
        dataclasses.replace(e, outcome="unjudged", episode_return=r)
        for e, r in zip(episodes(condition, "-" * len(returns)), returns, strict=True)
    ]


def test_newcombes_example() -> None:
    """56/70 against 48/80: his table II, method 10, 0.0524 to 0.3339."""
    x, y = rates.rate(episodes("a", "+" * 56 + "-" * 14)), rates.rate(episodes("b", "+" * 48 + "-" * 32))
    assert newcombe(x, y) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_independent_samples(a_won: int, a_lost: int, b_won: int, b_lost: int) -> None:
    both = episodes("a", "+" * a_won + "-" * a_lost) + episodes("b", "+" * b_won + "-" * b_lost + "!")
    found, turned = (compare_unpaired(*sides, both) for sides in (("a", "b"), ("b", "a")))
    if not a_won + a_lost or not b_won + b_lost:
        assert found.difference is None
        assert found.interval is None
        assert found.p_value is None
        return
    assert found.difference is not None
    assert found.interval is not None
    assert turned.interval is not None
    assert -1 <= found.interval[0] <= found.difference <= found.interval[1] <= 1
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert found.p_value == pytest.approx(fisher_exact([[a_won, a_lost], [b_won, b_lost]]).pvalue)


def test_paired_returns_are_differences() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(0, 100, 12)  # what pairs have in common
    a, b = list(start + rng.normal(8, 1, 12)), list(start + rng.normal(0, 1, 12))
    both = paid("a", a) + paid("b", b)
    paired, unpaired = (compare_returns("a", "b", both, paired=p) for p in (True, False))
    assert (paired.episodes, unpaired.episodes) == (12, 24)
    d = np.array(a) - np.array(b)
    half = t.ppf(0.975, 11) * d.std(ddof=1) / math.sqrt(12)
    assert paired.interval == pytest.approx((d.mean() - half, d.mean() + half))
    assert paired.p_value == pytest.approx(2 / 2**12)  # all signs alike: exact, for 4,096 flips
    theirs = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert unpaired.interval == pytest.approx((theirs.low, theirs.high))
    assert unpaired.p_value is not None
    assert unpaired.p_value > 0.5


@given(RETURNS, RETURNS, st.booleans())
def test_returns_never_give_what_is_not_there(a: list[float], b: list[float], paired: bool) -> None:
    found = compare_returns("a", "b", paid("a", a) + paid("b", b), paired=paired)
    n = min(len(a), len(b)) if paired else (len(a) + len(b) if a and b else 0)
    assert found.episodes == n
    if not n:
        assert (found.difference, found.interval, found.p_value) == (None, None, None)
        return
    assert found.difference is not None
    assert found.p_value is not None
    assert 0 < found.p_value <= 1
    if found.interval is not None:
        assert found.interval[0] < found.interval[1]
        assert found.interval[0] <= found.difference <= found.interval[1]


def test_what_does_not_vary_has_no_interval_of_width_zero() -> None:
    assert mean_return(paid("a", [10.0, 10.0, 10.0])).interval is None
    assert mean_return(paid("a", [10.0])).interval is None
    assert mean_return(paid("a", [])).mean is None
    alike = compare_returns("a", "b", paid("a", [1.0, 2.0]) + paid("b", [1.0, 2.0]))
    assert (alike.difference, alike.interval, alike.p_value) == (0.0, None, 1.0)


def test_errors_have_no_return() -> None:
    broken = [dataclasses.replace(e, outcome="error") for e in paid("a", [1.0])]
    assert mean_return([*broken, *paid("a", [3.0])]).mean == 3.0


def test_what_is_not_judged_is_no_pair_and_no_error() -> None:
    found = stats.compare("a", "b", paid("a", [1.0, 2.0]) + paid("b", [0.0, 1.0]))
    assert (found.pairs, found.excluded, found.difference) == (0, 0, None)
    assert rates.rate(paid("a", [1.0])).unjudged == 1
