from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, multinomial, norm, ttest_1samp

from robotest.errors import RobotestError
from robotest.statistics import intervals, paired, rates
from robotest.types import Episode, Outcome
from tests.doubles.thorough import some

LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])
SHORT: dict[str, Outcome] = {"+": "success", "-": "failure", "!": "error"}


def episodes(condition: str, outcomes: str, task: str = "near") -> list[Episode]:
    return [
        Episode(condition, task, i, SHORT[o], 1, 20, 1, "go", (0,), "broke" if o == "!" else None, 0, 0, 0)
        for i, o in enumerate(outcomes)
        if o != " "
    ]


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """(only_a, only_b, pairs)."""
    only_a, only_b, same = (draw(st.integers(0, 60)) for _ in range(3))
    return only_a, only_b, max(1, only_a + only_b + same)


def test_errors_stand_beside_the_rate() -> None:
    rate = rates.rate(episodes("a", "++-!!"))
    assert (rate.successes, rate.failures, rate.errors, rate.episodes) == (2, 1, 2, 5)
    assert rate.rate == pytest.approx(2 / 3)
    assert rate.interval == intervals.wilson(2, 3)


@pytest.mark.parametrize("outcomes", ["", "!!"])
def test_no_valid_episode_is_no_rate(outcomes: str) -> None:
    rate = rates.rate(episodes("a", outcomes))
    assert rate.rate is None
    assert rate.interval is None


@given(st.integers(1, 400), st.data(), LEVELS)
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject, level: float) -> None:
    successes = data.draw(st.integers(0, n))
    theirs = binomtest(successes, n).proportion_ci(level, method="wilson")
    assert intervals.wilson(successes, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilsons_example() -> None:
    assert intervals.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -1.0, math.nan])
def test_a_level_is_a_fraction(level: float) -> None:
    with pytest.raises(RobotestError, match="confidence level"):
        intervals.wilson(1, 2, level)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_sums_the_coin_flips_as_unlikely_as_these(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert paired.mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))
    assert paired.mcnemar(only_a, only_b) == paired.mcnemar(only_b, only_a)


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1.0), (1, 0, 1.0), (62, 31, 0.0017), (42, 73, 0.005)])
def test_mcnemar_of_known_tables(only_a: int, only_b: int, p: float) -> None:
    assert paired.mcnemar(only_a, only_b) == pytest.approx(p, abs=6e-4)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mid_p_counts_equally_likely_splits_half(only_a: int, only_b: int) -> None:
    n = only_a + only_b
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    here = chances[only_a] if n else 0.0
    expected = sum(c if c < here * (1 - 1e-9) else c / 2 for c in chances if c <= here * (1 + 1e-9)) if n else 1.0
    assert paired.mcnemar(only_a, only_b, mid=True) == pytest.approx(expected)
    assert paired.mcnemar(only_a, only_b, mid=True) <= paired.mcnemar(only_a, only_b)


def test_holms_example() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert paired.holm([]) == ()


@given(st.lists(st.floats(0, 1), max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_step_by_step(p_values: list[float], alpha: float) -> None:
    """The procedure as Holm describes it: from the smallest on, stop at the first that is too large."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    small = [p_values[i] * (len(p_values) - rank) <= alpha for rank, i in enumerate(order)]
    rejected = set(order[: small.index(False) if False in small else len(small)])
    assert {i for i, p in enumerate(paired.holm(p_values)) if p <= alpha} == rejected


def test_clustered_with_equal_sizes_is_the_t_interval_of_the_task_means() -> None:
    totals, sizes = [12, 17, 9, 15], [20, 20, 20, 20]
    means = np.array(totals) / 20
    theirs = ttest_1samp(means, 0).confidence_interval(0.9)
    assert intervals.clustered(totals, sizes, 0.9) == pytest.approx((theirs.low, theirs.high))
    assert intervals.clustered([3], [20]) is None
    assert intervals.clustered([0, 0], [0, 0]) is None


def test_clustered_covers_the_rate_of_all_tasks() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(4000):
        rates = rng.beta(3, 2, 8)  # tasks differ; their mean over all that could be drawn is 0.6
        interval = intervals.clustered(rng.binomial(50, rates).tolist(), [50] * 8)
        assert interval is not None
        covered.append(interval[0] <= 0.6 <= interval[1])
    assert 0.935 <= np.mean(covered) <= 0.965


def profile_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Tango's statistic by an independent route: the nuisance probability is maximised numerically."""
    same = n - only_a - only_b

    def negative_log_likelihood(q: float) -> float:
        cells = ((only_a, q + delta), (only_b, q), (same, 1 - 2 * q - delta))
        return -sum(count * math.log(p) for count, p in cells if count and p > 0) + sum(
            1e9 for count, p in cells if count and p <= 0
        )

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = minimize_scalar(negative_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return float((only_a - only_b - n * delta) / math.sqrt(n * (2 * q + delta - delta**2)))


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("only_a", "only_b", "n"), [(12, 5, 40), (62, 31, 300), (3, 9, 20), (10, 10, 60), (25, 1, 30)])
def test_tango_ends_where_the_score_test_begins_to_reject(only_a: int, only_b: int, n: int, level: float) -> None:
    interval = paired.tango(only_a, only_b, n, level)
    assert interval is not None
    z = norm.ppf(0.5 + level / 2)
    assert profile_score(only_a, only_b, n, interval[0]) == pytest.approx(z, abs=1e-4)
    assert profile_score(only_a, only_b, n, interval[1]) == pytest.approx(-z, abs=1e-4)


def test_tango_without_discordant_pairs_has_a_closed_form() -> None:
    z = norm.ppf(0.975)
    expected = z**2 / (50 + z**2)
    assert paired.tango(0, 0, 50) == pytest.approx((-expected, expected))


@given(tables(), LEVELS)
def test_tango_holds_the_estimate_and_turns_with_the_sides(table: tuple[int, int, int], level: float) -> None:
    only_a, only_b, n = table
    interval, turned = paired.tango(only_a, only_b, n, level), paired.tango(only_b, only_a, n, level)
    assert interval is not None
    assert turned is not None
    assert -1 <= interval[0] <= (only_a - only_b) / n <= interval[1] <= 1
    assert interval[0] < interval[1]
    assert interval == pytest.approx((-turned[1], -turned[0]), abs=1e-9)


@given(tables())
def test_tango_grows_with_the_level_and_shrinks_with_the_sample(table: tuple[int, int, int]) -> None:
    only_a, only_b, n = table
    narrow, wide = paired.tango(only_a, only_b, n, 0.9), paired.tango(only_a, only_b, n, 0.99)
    larger = paired.tango(4 * only_a, 4 * only_b, 4 * n, 0.9)
    assert narrow is not None
    assert wide is not None
    assert larger is not None
    assert wide[0] <= narrow[0] < narrow[1] <= wide[1]
    assert larger[1] - larger[0] < narrow[1] - narrow[0]


@functools.cache
def cached_tango(only_a: int, only_b: int, n: int) -> intervals.Interval:
    interval = paired.tango(only_a, only_b, n)
    assert interval is not None
    return interval


@pytest.mark.parametrize("cells", [(0.15, 0.15), (0.2, 0.1), (0.05, 0.05), (0.3, 0.15)])
def test_coverage_of_tango_by_enumeration(cells: tuple[float, float]) -> None:
    n, (p, q) = 40, cells
    covered = 0.0
    for only_a, only_b in itertools.product(range(n + 1), repeat=2):
        if only_a + only_b <= n:
            interval = cached_tango(only_a, only_b, n)
            if interval[0] <= p - q <= interval[1]:
                covered += multinomial.pmf([only_a, only_b, n - only_a - only_b], n, [p, q, 1 - p - q])
    assert 0.935 <= covered <= 0.965


def test_coverage_of_wilson_by_enumeration() -> None:
    n = 100
    coverage = []
    for p in [k / 20 for k in range(2, 19)]:
        bounds = [intervals.wilson(k, n) or (0, 0) for k in range(n + 1)]
        coverage.append(sum(binom.pmf(k, n, p) for k, (low, high) in enumerate(bounds) if low <= p <= high))
    assert min(coverage) > 0.92
    assert 0.94 <= sum(coverage) / len(coverage) <= 0.96


def test_a_comparison_counts_the_pairs_of_common_episodes() -> None:
    a = episodes("a", "++--+!+") + episodes("a", "+", "far")
    b = episodes("b", "+-+-+++ +") + episodes("c", "+++++++")
    comparison = paired.compare("a", "b", [*b, *a])
    assert (comparison.both, comparison.only_a, comparison.only_b, comparison.neither) == (3, 1, 1, 1)
    assert (comparison.pairs, comparison.excluded, comparison.difference) == (6, 1, 0.0)
    assert comparison.interval == paired.tango(1, 1, 6)
    assert comparison.p_value == 1.0


def test_the_difference_is_a_minus_b() -> None:
    both = episodes("a", "++++") + episodes("b", "+---")
    comparison = paired.compare("a", "b", both)
    assert comparison.difference == 0.75
    assert paired.compare("b", "a", both).difference == -0.75


@pytest.mark.parametrize(("a", "b"), [("", ""), ("!!", "++"), ("++  ", "  ++"), ("++", "")])
def test_no_common_pair_is_not_enough_data(a: str, b: str) -> None:
    comparison = paired.compare("a", "b", episodes("a", a) + episodes("b", b))
    assert (comparison.pairs, comparison.difference, comparison.interval, comparison.p_value) == (0, None, None, None)


def test_tasks_are_compared_one_by_one_and_adjusted_together() -> None:
    both = (
        episodes("a", "++++++++")
        + episodes("b", "--------")
        + episodes("a", "+-+!", "far")
        + episodes("b", "--++", "far")
    )
    comparison = paired.compare("a", "b", both)
    near, far = comparison.tasks.values()
    assert (near.pairs, near.only_a, near.only_b, near.difference) == (8, 8, 0, 1.0)
    assert (far.pairs, far.only_a, far.only_b) == (3, 1, 0)
    assert near.interval == paired.tango(8, 0, 8)
    assert (near.adjusted_p_value, far.adjusted_p_value) == paired.holm([paired.mcnemar(8, 0), paired.mcnemar(1, 0)])
    assert comparison.mid_p_value == paired.mcnemar(9, 0, mid=True)
    wide = intervals.clustered([8, 1], [8, 3])
    assert wide is not None
    assert wide[0] < -1
    assert comparison.clustered == (-1.0, 1.0)
    assert comparison.discordance == 9 / 11


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(9, 20)), min_size=5, max_size=5), LEVELS)
@settings(max_examples=12, deadline=None)
def test_the_bootstrap_agrees_with_every_set_of_weights(tasks: list[tuple[int, int]], level: float) -> None:
    """With few tasks all 6^tasks can be enumerated."""
    totals, sizes = map(np.array, zip(*tasks, strict=True))
    found = intervals.clustered_bootstrap(totals.tolist(), sizes.tolist(), level)
    mean = totals.sum() / sizes.sum()
    residuals = totals - mean * sizes
    if np.abs(residuals).max() < 1e-9:
        assert found is None
        return
    assert found is not None
    error = np.sqrt((residuals**2).sum())
    assert (found[0] + found[1]) / 2 == pytest.approx(mean)
    roots = [math.sqrt(w) for w in (0.5, 1.0, 1.5)]
    weights = np.array(list(itertools.product([*roots, *(-r for r in roots)], repeat=len(tasks))))
    moved = weights * residuals
    shift = moved.sum(axis=1) / sizes.sum()
    spread = np.sqrt(((moved - shift[:, None] * sizes) ** 2).sum(axis=1))
    ratios = np.where(spread > 1e-9, abs(shift) / np.maximum(spread, 1e-9), 0.0)
    # The quantile of the sample lies between those of slightly lower and higher levels of the whole.
    low, high = np.quantile(ratios, np.clip([level - 0.03, level + 0.03], 0, 1), method="inverted_cdf")
    assert low * error - 1e-9 <= (found[1] - found[0]) / 2 <= high * error + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("n_tasks", some([6, 5, 10], 3))
def test_coverage_of_what_is_said_about_other_tasks(n_tasks: int) -> None:
    rng, runs = np.random.default_rng(7), 3000
    covered = {intervals.clustered: 0, intervals.clustered_bootstrap: 0}
    for _ in range(runs):
        means = rng.normal(0.1, 0.08, n_tasks)
        totals = [int(rng.choice([1, -1, 0], 100, p=[0.25 + m / 2, 0.25 - m / 2, 0.5]).sum()) for m in means]
        for method in covered:
            interval = method(totals, [100] * n_tasks)
            assert interval is not None
            covered[method] += interval[0] <= 0.1 <= interval[1]
    for found in covered.values():
        assert 0.935 <= found / runs <= 0.965


def test_one_task_says_nothing_of_others() -> None:
    assert intervals.clustered([3], [9]) is None
    assert intervals.clustered_bootstrap([3, 2, 1, 4], [9] * 4) is None
    assert intervals.clustered_bootstrap([0] * 6, [0] * 6) is None
    assert intervals.clustered_bootstrap([3] * 6, [9] * 6) is None


@pytest.mark.parametrize(
    ("totals", "sizes"),
    [([0, 0], [4, 4]), ([5, 5], [5, 5]), ([3, 1], [9, 3]), ([1] * 7, [10] * 7), ([0.1] * 6, [1] * 6)],
)
def test_tasks_that_came_out_alike_give_no_interval_of_no_width(totals: list[float], sizes: list[int]) -> None:
    assert intervals.clustered(totals, sizes) is None
    assert intervals.clustered_bootstrap(totals, sizes) is None


def test_two_tasks_with_the_same_difference_say_nothing_of_other_tasks() -> None:
    both = [e for task in ("near", "far") for e in episodes("x", "+++-", task) + episodes("y", "++--", task)]
    found = paired.compare("x", "y", both)
    assert found.difference == 0.25
    assert (found.clustered, found.bootstrap) == (None, None)
    assert found.interval is not None


@pytest.mark.slow
def test_two_copies_of_one_condition_are_seldom_told_apart() -> None:
    """200 comparisons of two conditions with the same rate by task: exact tests call at most 5 % of them different."""
    rng = np.random.default_rng(5)
    rates = (0.2, 0.5, 0.7, 0.9)
    called = 0
    for _ in range(200):
        both = [
            episode
            for condition in "ab"
            for t, rate in enumerate(rates)
            for episode in episodes(condition, "".join("+" if x else "-" for x in rng.random(30) < rate), str(t))
        ]
        p_value = paired.compare("a", "b", both).p_value
        assert p_value is not None
        called += p_value <= 0.05
    assert called <= 16  # P(X > 16) < 0.03 for a binomial of 200 at 5 %
