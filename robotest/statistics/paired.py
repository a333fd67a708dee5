"""Conditions on the same episodes: exact paired tests and intervals. Undefined values are None."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from robotest.statistics.intervals import Interval, clustered, clustered_bootstrap, normal_quantile, within
from robotest.statistics.rates import JUDGED
from robotest.types import Episode


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
        clustered: interval of the difference for other tasks like these; None for fewer than two tasks, or where all
            tasks have the same difference.
        bootstrap: the same by the bootstrap; None for fewer than five tasks, or where all have the same difference.
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
    totals = [results.count((True, False)) - results.count((False, True)) for results in by_task.values() if results]
    sizes = [len(results) for results in by_task.values() if results]
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


def _by_task(by_task: Mapping[str, Sequence[tuple[bool, bool]]], level: float) -> dict[str, TaskDifference]:
    counts = {
        t: (len(results), results.count((True, False)), results.count((False, True))) for t, results in by_task.items()
    }
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


def mcnemar(only_a: int, only_b: int, mid: bool = False) -> float:
    """Return the exact two-sided p-value for equal success rates of `a` and `b`; 1 without discordant pairs.

    McNemar, Q. (1947), Note on the sampling error of the difference between correlated proportions, Psychometrika 12,
    153-157: under the null the discordant pairs fall either way like fair coins.

    With `mid`, splits as likely as the observed one count half: less conservative, but not guaranteed. Fagerland,
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
    """Return p-values adjusted for multiple testing, in the same order.

    Holm, S. (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6,
    65-70: rejecting where the adjusted value is below alpha bounds the family-wise error rate by alpha.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return tuple(adjusted)


def tango(only_a: int, only_b: int, n: int, level: float = 0.95) -> Interval | None:
    """Return the score interval of the difference of two paired proportions, (only_a - only_b) / n; None for n = 0.

    Tango, T. (1998), Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17, 891-908: all differences that the score test does not reject.
    """
    if n == 0:
        return None
    z, estimate = normal_quantile(level), (only_a - only_b) / n

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
    # Maximum likelihood of the probability of an only_b pair if the difference is delta: root of A q^2 + B q + C.
    A = 2 * n
    B = (2 * n - only_a + only_b) * delta - only_a - only_b
    C = -only_b * delta * (1 - delta)
    q = (math.sqrt(max(0.0, B * B - 4 * A * C)) - B) / (2 * A)
    variance = n * (2 * q + delta * (1 - delta))
    # Infinite in theory; finite because the root finder interpolates between values.
    return numerator / math.sqrt(variance) if variance > 0 else math.copysign(1e9, numerator)
