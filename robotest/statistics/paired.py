"""Intervals and paired tests: pure functions of counts. What cannot be said from the data is None, never nan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, fisher_exact, norm, permutation_test, t

from robotest.errors import RobotestError
from robotest.randomness import derive, generator
from robotest.types import Episode

Interval = tuple[float, float]
JUDGED = frozenset({"success", "failure"})
"""Outcomes that enter rates and pairs."""
_RESAMPLES = 10_000
_FEWEST_TO_RESAMPLE = 5
_WEBB = np.concatenate([np.sqrt([1.5, 1.0, 0.5]), -np.sqrt([1.5, 1.0, 0.5])])
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Rate:
    """A success rate with what it rests on.

    Attributes:
        successes: episodes that succeeded.
        failures: episodes that failed.
        errors: episodes that broke; they do not enter the rate.
        rate: successes / (successes + failures); None if there are none.
        interval: Wilson's interval of it; None if there are none.
        unjudged: episodes that ended without a rule for success.
    """

    successes: int
    failures: int
    errors: int
    rate: float | None
    interval: Interval | None
    unjudged: int = 0

    @property
    def episodes(self) -> int:
        """All episodes, errors included."""
        return self.successes + self.failures + self.errors + self.unjudged


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two conditions on the episodes that both finished without an error.

    Attributes:
        a: one condition.
        b: the other.
        both: pairs in which both succeeded.
        only_a: pairs in which only `a` did.
        only_b: pairs in which only `b` did.
        neither: pairs in which both failed.
        excluded: pairs left out because one side is an error.
        difference: rate of `a` minus rate of `b` over the pairs; None if there are none.
        interval: Tango's interval of it; None if there are none.
        p_value: exact two-sided McNemar; None if there are no pairs.
        mid_p_value: its mid-p; None if there are no pairs.
        clustered: interval of the difference for other tasks like these; None for fewer than two tasks, and where all
            tasks differ alike.
        bootstrap: the same by the bootstrap; None for fewer than five tasks, and where all differ alike.
        tasks: by task, in the order of the episodes.
    """

    a: str
    b: str
    both: int
    only_a: int
    only_b: int
    neither: int
    excluded: int
    difference: float | None
    interval: Interval | None
    p_value: float | None
    mid_p_value: float | None
    clustered: Interval | None
    bootstrap: Interval | None
    tasks: Mapping[str, TaskDifference]

    @property
    def pairs(self) -> int:
        """Pairs compared."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def discordance(self) -> float | None:
        """Share of pairs in which exactly one side succeeded."""
        return (self.only_a + self.only_b) / self.pairs if self.pairs else None


@dataclasses.dataclass(frozen=True)
class TaskDifference:
    """A comparison within one task.

    Attributes:
        pairs: pairs compared.
        only_a: pairs in which only `a` succeeded.
        only_b: pairs in which only `b` did.
        difference: rate of `a` minus rate of `b`; None if there are no pairs.
        interval: Tango's interval of it; None if there are no pairs.
        p_value: exact two-sided McNemar; None if there are no pairs.
        adjusted_p_value: Holm's, over the tasks; None if there are no pairs.
    """

    pairs: int
    only_a: int
    only_b: int
    difference: float | None
    interval: Interval | None
    p_value: float | None
    adjusted_p_value: float | None


@dataclasses.dataclass(frozen=True)
class UnpairedComparison:
    """Two conditions as independent samples, where starts differ and episodes are no pairs.

    Attributes:
        a: one condition.
        b: the other.
        rate_a: of `a`, over its episodes without errors.
        rate_b: of `b`.
        difference: rate of `a` minus rate of `b`; None if either has no episodes.
        interval: Newcombe's interval of it; None if either has no episodes.
        p_value: Fisher's exact two-sided; None if either has no episodes.
    """

    a: str
    b: str
    rate_a: Rate
    rate_b: Rate
    difference: float | None
    interval: Interval | None
    p_value: float | None


@dataclasses.dataclass(frozen=True)
class Returns:
    """The mean return of a condition.

    Attributes:
        episodes: that have one, without errors.
        mean: None if there are none.
        interval: Student's interval of it; None for fewer than two, or where all are equal.
    """

    episodes: int
    mean: float | None
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class ReturnComparison:
    """Returns of two conditions.

    Attributes:
        a: one condition.
        b: the other.
        paired: whether episodes of equal starts were compared.
        episodes: pairs, or episodes of both where there are no pairs.
        difference: mean of `a` minus mean of `b`; None without episodes.
        interval: Student's interval of it (Welch's if not paired); None for too few, or where nothing varies.
        p_value: of a permutation test: signs of the differences, or labels if not paired. Exact up to 10,000
            permutations, else of that many drawn; None without episodes.
    """

    a: str
    b: str
    paired: bool
    episodes: int
    difference: float | None
    interval: Interval | None
    p_value: float | None


def rate(episodes: Iterable[Episode], level: float = 0.95) -> Rate:
    """Count outcomes and put Wilson's interval around the rate."""
    outcomes = [e.outcome for e in episodes]
    successes, failures = outcomes.count("success"), outcomes.count("failure")
    valid = successes + failures
    return Rate(
        successes=successes,
        failures=failures,
        errors=outcomes.count("error"),
        rate=successes / valid if valid else None,
        interval=wilson(successes, valid, level),
        unjudged=outcomes.count("unjudged"),
    )


def compare(a: str, b: str, episodes: Iterable[Episode], level: float = 0.95) -> Comparison:
    """Pair the episodes of conditions `a` and `b` by (task, index) and compare them."""
    sides: dict[str, dict[tuple[str, int], Episode]] = {a: {}, b: {}}
    for episode in episodes:
        if episode.condition in sides:
            sides[episode.condition][episode.task, episode.index] = episode
    common = [(key[0], sides[a][key].outcome, sides[b][key].outcome) for key in sides[a] if key in sides[b]]
    valid = [(task, x == "success", y == "success") for task, x, y in common if {x, y} <= JUDGED]
    by_task: dict[str, list[tuple[bool, bool]]] = {task: [] for task, _, _ in common}
    for task, x, y in valid:
        by_task[task].append((x, y))
    pairs = [(x, y) for _, x, y in valid]
    n, only_a, only_b = len(pairs), pairs.count((True, False)), pairs.count((False, True))
    totals = [own.count((True, False)) - own.count((False, True)) for own in by_task.values() if own]
    sizes = [len(own) for own in by_task.values() if own]
    return Comparison(
        a=a,
        b=b,
        both=pairs.count((True, True)),
        only_a=only_a,
        only_b=only_b,
        neither=pairs.count((False, False)),
        excluded=sum("error" in (x, y) for _, x, y in common),
        difference=(only_a - only_b) / n if n else None,
        interval=tango(only_a, only_b, n, level),
        p_value=mcnemar(only_a, only_b) if n else None,
        mid_p_value=mcnemar(only_a, only_b, mid=True) if n else None,
        clustered=within(clustered(totals, sizes, level), -1.0, 1.0),
        bootstrap=within(clustered_bootstrap(totals, sizes, level), -1.0, 1.0),
        tasks=_by_task(by_task, level),
    )


def compare_unpaired(a: str, b: str, episodes: Iterable[Episode], level: float = 0.95) -> UnpairedComparison:
    """Compare the episodes of `a` and `b` as independent samples."""
    sides: dict[str, list[Episode]] = {a: [], b: []}
    for episode in episodes:
        if episode.condition in sides:
            sides[episode.condition].append(episode)
    x, y = rate(sides[a], level), rate(sides[b], level)
    if x.rate is None or y.rate is None:
        return UnpairedComparison(a, b, x, y, None, None, None)
    table = [[x.successes, y.successes], [x.failures, y.failures]]
    return UnpairedComparison(a, b, x, y, x.rate - y.rate, newcombe(x, y), float(fisher_exact(table).pvalue))


def newcombe(x: Rate, y: Rate) -> Interval | None:
    """Return the interval of the difference of two independent rates, at the level of theirs.

    Newcombe, R. G. (1998), Interval estimation for the difference between independent proportions: comparison of eleven
    methods, Statistics in Medicine 17, 873-890: method 10, from both Wilson intervals.
    """
    if x.rate is None or y.rate is None or x.interval is None or y.interval is None:
        return None
    d, (x_low, x_high), (y_low, y_high) = x.rate - y.rate, x.interval, y.interval
    return (d - math.hypot(x.rate - x_low, y_high - y.rate), d + math.hypot(x_high - x.rate, y.rate - y_low))


def returns(episodes: Iterable[Episode], level: float = 0.95) -> Returns:
    """Return the mean return of episodes that have one and did not break."""
    values = [e.episode_return for e in episodes if e.episode_return is not None and e.outcome != "error"]
    return Returns(len(values), float(np.mean(values)) if values else None, _mean_interval(values, level))


def compare_returns(
    a: str, b: str, episodes: Iterable[Episode], level: float = 0.95, *, paired: bool = True
) -> ReturnComparison:
    """Compare the returns of conditions `a` and `b`."""
    sides: dict[str, dict[tuple[str, int], float]] = {a: {}, b: {}}
    for e in episodes:
        if e.condition in sides and e.episode_return is not None and e.outcome != "error":
            sides[e.condition][e.task, e.index] = e.episode_return
    if paired:
        common = [key for key in sides[a] if key in sides[b]]
        x, y = (np.array([sides[side][key] for key in common]) for side in (a, b))
        difference, interval = _mean(x - y), _mean_interval(x - y, level)
        samples: tuple[np.ndarray, ...] = (x - y,)
        kind, n = "samples", len(common)
    else:
        x, y = (np.array(list(sides[side].values())) for side in (a, b))
        interval = _welch(x, y, level)
        difference = float(x.mean() - y.mean()) if len(x) and len(y) else None
        samples, kind = (x, y), "independent"
        n = len(x) + len(y) if difference is not None else 0
    return ReturnComparison(a, b, paired, n, difference, interval, _permuted(samples, kind) if n else None)


def _permuted(samples: tuple[np.ndarray, ...], kind: str) -> float:
    """Return the two-sided p-value of the mean of one sample, or of the difference of two, by permutation."""

    def statistic(x: np.ndarray, y: np.ndarray | None = None, axis: int = -1) -> Any:
        return x.mean(axis=axis) if y is None else x.mean(axis=axis) - y.mean(axis=axis)

    if len(np.unique(np.concatenate(samples))) == 1 and (len(samples) == 2 or samples[0][0] == 0):
        return 1.0  # nothing to permute
    if len(samples) == 2 and min(map(len, samples)) < 2:
        return 1.0
    rng = generator(derive("permutations", kind, *map(len, samples)))
    if len(samples) == 1 and len(samples[0]) == 1:
        return 1.0
    found = permutation_test(
        samples, statistic, permutation_type=kind, n_resamples=_RESAMPLES - 1, vectorized=True, random_state=rng
    )
    return float(found.pvalue)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_interval(values: Sequence[float] | np.ndarray, level: float) -> Interval | None:
    """Student's interval of a mean; None where no spread can be measured."""
    n, variance = len(values), _variance(values)
    if not variance:
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.5 + _checked(level) / 2, n - 1)) * math.sqrt(variance / n)
    return (mean - half, mean + half)


def _welch(x: np.ndarray, y: np.ndarray, level: float) -> Interval | None:
    """Welch's interval of the difference of two means; None where no spread can be measured."""
    if min(len(x), len(y)) < 2:
        return None
    a, b = _variance(x) / len(x), _variance(y) / len(y)
    if not a + b:
        return None
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    half = float(t.ppf(0.5 + _checked(level) / 2, freedom)) * math.sqrt(a + b)
    difference = float(x.mean() - y.mean())
    return (difference - half, difference + half)


def _variance(values: Sequence[float] | np.ndarray) -> float:
    """Of a sample; 0 for less than two values, and where only rounding makes them differ."""
    if len(values) < 2:
        return 0.0
    spread = float(np.std(values, ddof=1))
    return spread**2 if spread > _ROUNDING * float(np.abs(values).max()) else 0.0


def _by_task(by_task: Mapping[str, Sequence[tuple[bool, bool]]], level: float) -> dict[str, TaskDifference]:
    counts = {t: (len(own), own.count((True, False)), own.count((False, True))) for t, own in by_task.items()}
    p_values = {task: mcnemar(only_a, only_b) for task, (n, only_a, only_b) in counts.items() if n}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        task: TaskDifference(
            pairs=n,
            only_a=only_a,
            only_b=only_b,
            difference=(only_a - only_b) / n if n else None,
            interval=tango(only_a, only_b, n, level),
            p_value=p_values.get(task),
            adjusted_p_value=adjusted.get(task),
        )
        for task, (n, only_a, only_b) in counts.items()
    }


def wilson(successes: int, n: int, level: float = 0.95) -> Interval | None:
    """Return the score interval of a proportion; None for n = 0.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212;
    without continuity correction.
    """
    if n == 0:
        return None
    z, p = _z(level), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bounds are 0 and 1 exactly; the formula misses them by rounding.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def mcnemar(only_a: int, only_b: int, mid: bool = False) -> float:
    """Return the exact two-sided p-value that `a` and `b` succeed equally often; 1 without discordant pairs.

    McNemar, Q. (1947), Note on the sampling error of the difference between correlated proportions, Psychometrika 12,
    153-157: under the null the discordant pairs fall either way like fair coins.

    With `mid`, splits as likely as the one seen count half: less conservative, no longer guaranteed. Fagerland,
    Lydersen and Laake (2013), The McNemar test for binary matched-pairs data: mid-p and asymptotic are better than
    exact conditional, BMC Medical Research Methodology 13, 91.
    """
    discordant = only_a + only_b
    if not discordant:
        return 1.0
    p = float(binomtest(only_a, discordant, 0.5).pvalue)
    if not mid:
        return p
    as_likely = binom.pmf(only_a, discordant, 0.5) * (1 if only_a == only_b else 2)
    return p - float(as_likely) / 2


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for all being looked at, in the order given.

    Holm, S. (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6,
    65-70: rejecting where the adjusted value is below alpha errs anywhere at all with a chance of at most alpha.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return tuple(adjusted)


def clustered(totals: Sequence[float], sizes: Sequence[int], level: float = 0.95) -> Interval | None:
    """Return an interval of ``sum(totals) / sum(sizes)`` for other tasks *like these*; None for fewer than two.

    None also where all tasks came out alike: the spread between tasks is then not zero, it has not been seen, and an
    interval of no width would claim that other tasks are known exactly.

    Wilson's and Tango's intervals are about these tasks: they say how the same tasks would come out with other
    starts. This one takes the tasks themselves as a sample, so it is wider the more they differ.

    The cluster-robust variance of a mean with the usual small-sample factor and Student's t with one degree of freedom
    less than there are tasks: Cameron and Miller (2015), A practitioner's guide to cluster-robust inference, Journal of
    Human Resources 50, 317-372, sections II.B and VI.

    Args:
        totals: of each task, successes, or ``only_a - only_b`` for a paired difference.
        sizes: of each task, episodes or pairs.
        level: of confidence.
    """
    n_tasks, n = len(sizes), sum(sizes)
    if n_tasks < 2 or n == 0:
        return None
    mean = sum(totals) / n
    squares = sum((total - mean * size) ** 2 for total, size in zip(totals, sizes, strict=True))
    if squares <= (_ROUNDING * n) ** 2:
        return None
    error = math.sqrt(n_tasks / (n_tasks - 1) * squares) / n
    half = float(t.ppf(0.5 + _checked(level) / 2, n_tasks - 1)) * error
    return (mean - half, mean + half)


def clustered_bootstrap(totals: Sequence[float], sizes: Sequence[int], level: float = 0.95) -> Interval | None:
    """Return the bootstrap interval beside `clustered`, which assumes no shape; None for fewer than five tasks.

    None also where all tasks came out alike, as for `clustered`.

    Resampling tasks and taking percentiles is too narrow with few of them (of six, a nominal 95 % covers 86 %). So this
    is the wild cluster bootstrap-t: each task's residual is kept or turned, and scaled, at random, and the statistic
    that is resampled is Student's. Cameron, Gelbach and Miller (2008), Bootstrap-based improvements for inference with
    clustered errors, Review of Economics and Statistics 90, 414-427, section III; with the six weights of Webb (2023),
    Reworking wild bootstrap-based inference for clustered errors, Canadian Journal of Economics 56, 839-858, since the
    usual two have only 2^tasks outcomes. Of four tasks it is a little too narrow (93.3 %), hence the limit.

    Args:
        totals: as for `clustered`.
        sizes: as for `clustered`.
        level: of confidence.
    """
    n_tasks, n = len(sizes), sum(sizes)
    if n_tasks < _FEWEST_TO_RESAMPLE or n == 0:
        return None
    mean, residuals = sum(totals) / n, np.asarray(totals) - sum(totals) / n * np.asarray(sizes)
    if float((residuals**2).sum()) <= (_ROUNDING * n) ** 2:
        return None
    weights = generator(derive("wild", n_tasks)).choice(_WEBB, size=(_RESAMPLES, n_tasks))
    moved = weights * residuals
    shift = moved.sum(axis=1, keepdims=True) / n
    errors = np.sqrt(((moved - shift * np.asarray(sizes)) ** 2).sum(axis=1))
    certain = errors < _ROUNDING * n  # then the shift is 0 as well, or no spread is left to measure it in
    ratios = np.abs(shift[:, 0]) / np.where(certain, math.inf, errors)
    half = float(np.quantile(ratios, _checked(level))) * math.sqrt(float((residuals**2).sum()))
    return (mean - half, mean + half)


def within(interval: Interval | None, low: float, high: float) -> Interval | None:
    """Return an interval cut to what is possible."""
    return (max(low, interval[0]), min(high, interval[1])) if interval else None


def tango(only_a: int, only_b: int, n: int, level: float = 0.95) -> Interval | None:
    """Return the score interval of the difference of two paired proportions, (only_a - only_b) / n; None for n = 0.

    Tango, T. (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 891-908: all differences that the score test does not reject.
    """
    if n == 0:
        return None
    z, estimate = _z(level), (only_a - only_b) / n

    def bound(end: float, sign: float) -> float:
        if estimate == end:
            return end
        return float(brentq(lambda delta: _tango_score(only_a, only_b, n, delta) - sign * z, estimate, end))

    return (bound(-1.0, 1.0), bound(1.0, -1.0))


def _tango_score(only_a: int, only_b: int, n: int, delta: float) -> float:
    """Tango's statistic (his equation 8): standardised distance of the estimate from `delta`, decreasing in it."""
    numerator = only_a - only_b - n * delta
    if numerator == 0.0:
        return 0.0
    # The probability of an only_b pair that is most likely when the difference is delta: root of A q^2 + B q + C.
    A = 2 * n
    B = (2 * n - only_a + only_b) * delta - only_a - only_b
    C = -only_b * delta * (1 - delta)
    q = (math.sqrt(max(0.0, B * B - 4 * A * C)) - B) / (2 * A)
    variance = n * (2 * q + delta * (1 - delta))
    # Certain, but finite: the root finder interpolates between values.
    return numerator / math.sqrt(variance) if variance > 0 else math.copysign(1e9, numerator)


def _z(level: float) -> float:
    return float(norm.ppf(0.5 + _checked(level) / 2))


def _checked(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise RobotestError(f"confidence level {level} given; it lies between 0 and 1, e.g. 0.95")
    return level
