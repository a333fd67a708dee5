"""Conditions as independent samples, where episodes cannot be paired."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from scipy.stats import fisher_exact

from robotest.statistics.intervals import Interval
from robotest.statistics.rates import Rate, rate
from robotest.types import Episode


@dataclasses.dataclass(frozen=True)
class UnpairedComparison:
    """Two conditions as independent samples, where starts differ and episodes cannot be paired.

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
    """Return the interval of the difference of two independent rates, at the level of their own intervals.

    Newcombe, R. G. (1998), Interval estimation for the difference between independent proportions: comparison of eleven
    methods, Statistics in Medicine 17, 873-890: method 10, from both Wilson intervals.
    """
    if x.rate is None or y.rate is None or x.interval is None or y.interval is None:
        return None
    d, (x_low, x_high), (y_low, y_high) = x.rate - y.rate, x.interval, y.interval
    return (d - math.hypot(x.rate - x_low, y_high - y.rate), d + math.hypot(x_high - x.rate, y.rate - y_low))
