"""Comparison of returns, paired or as independent samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import permutation_test, t

from robotest.randomness import derive, generator
from robotest.statistics.intervals import RESAMPLES, ROUNDING, Interval, checked
from robotest.types import Episode


@dataclasses.dataclass(frozen=True)
class Returns:
    """The mean return of a condition.

    Attributes:
        episodes: number with a return, errors excluded.
        mean: None if there are none.
        interval: Student's interval of it; None for fewer than two episodes, or if all returns are equal.
    """

    episodes: int
    mean: float | None
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class ReturnComparison:
    """Comparison of the returns of two conditions.

    Attributes:
        a: one condition.
        b: the other.
        paired: whether episodes with equal starts were paired.
        episodes: number of pairs; if not paired, of episodes of both conditions.
        difference: mean of `a` minus mean of `b`; None without episodes.
        interval: Student's interval of it (Welch's if not paired); None for too few episodes, or zero variance.
        p_value: of a permutation test: of signs, or of labels if not paired. Exact up to 10,000 permutations, else
            estimated from that many; None without episodes.
    """

    a: str
    b: str
    paired: bool
    episodes: int
    difference: float | None
    interval: Interval | None
    p_value: float | None


def mean_return(episodes: Iterable[Episode], level: float = 0.95) -> Returns:
    """Return the mean return of the episodes that have one and no error."""
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
    test = permutation_test(
        samples, statistic, permutation_type=kind, n_resamples=RESAMPLES - 1, vectorized=True, random_state=rng
    )
    return float(test.pvalue)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_interval(values: Sequence[float] | np.ndarray, level: float) -> Interval | None:
    """Student's interval of a mean; None without a measurable spread."""
    n, variance = len(values), _variance(values)
    if not variance:
        return None
    mean, half = float(np.mean(values)), float(t.ppf(0.5 + checked(level) / 2, n - 1)) * math.sqrt(variance / n)
    return (mean - half, mean + half)


def _welch(x: np.ndarray, y: np.ndarray, level: float) -> Interval | None:
    """Welch's interval of the difference of two means; None without a measurable spread."""
    if min(len(x), len(y)) < 2:
        return None
    a, b = _variance(x) / len(x), _variance(y) / len(y)
    if not a + b:
        return None
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    half = float(t.ppf(0.5 + checked(level) / 2, freedom)) * math.sqrt(a + b)
    difference = float(x.mean() - y.mean())
    return (difference - half, difference + half)


def _variance(values: Sequence[float] | np.ndarray) -> float:
    """Return the sample variance; 0 for fewer than two values, or if they differ only by rounding."""
    if len(values) < 2:
        return 0.0
    spread = float(np.std(values, ddof=1))
    return spread**2 if spread > ROUNDING * float(np.abs(values).max()) else 0.0
