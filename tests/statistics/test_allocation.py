from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.statistics.allocation import SMALLEST_FIRST, estimate, first_pass, second_pass

DIFFERENCES = st.lists(st.sampled_from((-1, 0, 1)), min_size=SMALLEST_FIRST, max_size=30)
TASKS = st.dictionaries(st.sampled_from("abcdefg"), DIFFERENCES, min_size=1)


@given(TASKS, st.integers(8, 500))
def test_the_budget_is_spent_and_every_task_gets_some(first: Mapping[str, list[int]], episodes: int) -> None:
    more = second_pass(first, episodes)
    assert set(more) == set(first)
    assert min(more.values()) >= 1
    assert sum(more.values()) + len(first) * first_pass(episodes) == len(first) * episodes


@given(st.integers(1, 10_000))
def test_the_first_pass_is_a_part_of_the_budget(episodes: int) -> None:
    assert 1 <= first_pass(episodes) <= episodes


def test_a_budget_that_the_first_pass_uses_up_leaves_nothing() -> None:
    assert second_pass({"a": [0, 1, 0, 0]}, 4) == {"a": 0}


def test_tasks_whose_pairs_disagree_get_more() -> None:
    first = {"settled": [0] * 20, "open": [1, -1] * 10, "one-sided": [1] * 20}
    more = second_pass(first, 80)
    assert more["open"] > 2 * more["settled"]
    assert more["open"] > 2 * more["one-sided"]


def draws(rng: np.random.Generator, cells: tuple[float, float], n: int) -> list[int]:
    a, b = cells
    return [int(d) for d in rng.choice([1, -1, 0], size=n, p=[a, b, 1 - a - b])]


def enumerated(cells: Mapping[str, tuple[float, float]], episodes: int) -> float:
    """The mean of the estimate over every possible first pass; given it, the second pass has its own mean."""
    n_first = first_pass(episodes)
    outcomes = list(itertools.product((1, -1, 0), repeat=n_first))
    total = 0.0
    for drawn in itertools.product(outcomes, repeat=len(cells)):
        first = dict(zip(cells, map(list, drawn), strict=True))
        weight = np.prod(
            [{1: a, -1: b, 0: 1 - a - b}[d] for (a, b), own in zip(cells.values(), drawn, strict=True) for d in own]
        )
        more = second_pass(first, episodes)
        # The estimate is linear in the second pass, so its mean is the estimate at the pass's mean.
        ones = {t: estimate(first, {u: [int(u == t)] * n for u, n in more.items()}, episodes) for t in cells}
        none = estimate(first, {t: [0] * n for t, n in more.items()}, episodes)
        assert none is not None
        mean = none.difference
        for t, (a, b) in cells.items():
            one = ones[t]
            assert one is not None
            mean += (one.difference - none.difference) * (a - b)
        total += float(weight) * mean
    return total


def test_the_estimate_is_unbiased_exactly() -> None:
    cells = {"x": (0.5, 0.1), "y": (0.05, 0.3)}
    truth = sum(a - b for a, b in cells.values()) / 2
    assert enumerated(cells, 16) == pytest.approx(truth, abs=1e-12)


DESIGNS = {
    "alike": [(0.2, 0.15)] * 6,
    "two open": [(0.3, 0.25), (0.35, 0.2), *[(0.02, 0.01)] * 4],
    "one-sided": [(0.6, 0.05), (0.3, 0.3), *[(0.05, 0.03)] * 4],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_coverage_and_width_by_simulation(name: str) -> None:
    cells = {str(i): c for i, c in enumerate(DESIGNS[name])}
    truth = float(np.mean([a - b for a, b in cells.values()]))
    rng, episodes, runs = np.random.default_rng(3), 100, 2000
    covered, estimates, equal = 0, [], []
    for _ in range(runs):
        first = {t: draws(rng, c, first_pass(episodes)) for t, c in cells.items()}
        second = {t: draws(rng, cells[t], n) for t, n in second_pass(first, episodes).items()}
        found = estimate(first, second, episodes)
        assert found is not None
        covered += found.interval[0] <= truth <= found.interval[1]
        estimates.append(found.difference)
        equal.append(np.mean([np.mean(draws(rng, c, episodes)) for c in cells.values()]))
    assert 0.935 <= covered / runs <= 0.97
    assert abs(np.mean(estimates) - truth) < 4 * np.std(estimates) / np.sqrt(runs)
    spreads = np.sqrt([a + b - (a - b) ** 2 for a, b in cells.values()])
    share = first_pass(episodes) / episodes
    best = share + (1 - share) * spreads.sum() ** 2 / len(cells) / (spreads**2).sum()
    assert np.var(estimates) / np.var(equal) < 1.15 * best  # the first pass knows the spreads only roughly


def test_without_pairs_there_is_no_estimate() -> None:
    assert estimate({}, {}, 10) is None
    assert estimate({"a": [], "b": [1]}, {}, 10) is None
