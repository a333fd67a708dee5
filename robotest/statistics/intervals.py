"""Intervals of rates, for these tasks and for others like them. Undefined values are None, never NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

from robotest.errors import RobotestError
from robotest.randomness import derive, generator

Interval = tuple[float, float]
RESAMPLES = 10_000
_FEWEST_TO_RESAMPLE = 5
_WEBB = np.concatenate([np.sqrt([1.5, 1.0, 0.5]), -np.sqrt([1.5, 1.0, 0.5])])
ROUNDING = 1e-12


def wilson(successes: int, n: int, level: float = 0.95) -> Interval | None:
    """Return the score interval of a proportion; None for n = 0.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212;
    without continuity correction.
    """
    if n == 0:
        return None
    z, p = normal_quantile(level), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the bounds are exactly 0 and 1; the formula misses them by rounding.
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half)


def clustered(totals: Sequence[float], sizes: Sequence[int], level: float = 0.95) -> Interval | None:
    """Return an interval of ``sum(totals) / sum(sizes)`` for other tasks *like these*; None for fewer than two.

    None also where all tasks have the same result: the spread between tasks is then unobserved, not zero, and an
    interval of zero width would claim that other tasks are known exactly.

    Wilson's and Tango's intervals are about these tasks with other starts. This one treats the tasks themselves as a
    sample, so it is wider the more they differ.

    The cluster-robust variance of a mean with the usual small-sample factor and Student's t with one degree of freedom
    less than there are tasks: Cameron and Miller (2015), A practitioner's guide to cluster-robust inference, Journal of
    Human Resources 50, 317-372, sections II.B and VI.

    Args:
        totals: each task's successes, or ``only_a - only_b`` for a paired difference.
        sizes: each task's episodes or pairs.
        level: of confidence.
    """
    n_tasks, n = len(sizes), sum(sizes)
    if n_tasks < 2 or n == 0:
        return None
    mean = sum(totals) / n
    squares = sum((total - mean * size) ** 2 for total, size in zip(totals, sizes, strict=True))
    if squares <= (ROUNDING * n) ** 2:
        return None
    error = math.sqrt(n_tasks / (n_tasks - 1) * squares) / n
    half = float(t.ppf(0.5 + checked(level) / 2, n_tasks - 1)) * error
    return (mean - half, mean + half)


def clustered_bootstrap(totals: Sequence[float], sizes: Sequence[int], level: float = 0.95) -> Interval | None:
    """Return a bootstrap interval for the same purpose as `clustered`; None for fewer than five tasks.

    None also where all tasks have the same result, as for `clustered`.

    Resampling tasks and taking percentiles is too narrow with few of them (of six, a nominal 95 % covers 86 %). So this
    is the wild cluster bootstrap-t: each task's residual gets a random sign and scale, and the statistic
    resampled is Student's. Cameron, Gelbach and Miller (2008), Bootstrap-based improvements for inference with
    clustered errors, Review of Economics and Statistics 90, 414-427, section III; with the six weights of Webb (2023),
    Reworking wild bootstrap-based inference for clustered errors, Canadian Journal of Economics 56, 839-858, since the
    usual two have only 2^tasks outcomes. With four tasks it is slightly too narrow (covers 93.3 %), hence the limit.

    Args:
        totals: as for `clustered`.
        sizes: as for `clustered`.
        level: of confidence.
    """
    n_tasks, n = len(sizes), sum(sizes)
    if n_tasks < _FEWEST_TO_RESAMPLE or n == 0:
        return None
    mean, residuals = sum(totals) / n, np.asarray(totals) - sum(totals) / n * np.asarray(sizes)
    if float((residuals**2).sum()) <= (ROUNDING * n) ** 2:
        return None
    weights = generator(derive("wild", n_tasks)).choice(_WEBB, size=(RESAMPLES, n_tasks))
    moved = weights * residuals
    shift = moved.sum(axis=1, keepdims=True) / n
    errors = np.sqrt(((moved - shift * np.asarray(sizes)) ** 2).sum(axis=1))
    certain = errors < ROUNDING * n  # the shift is 0 as well, or there is no spread to scale it by
    ratios = np.abs(shift[:, 0]) / np.where(certain, math.inf, errors)
    half = float(np.quantile(ratios, checked(level))) * math.sqrt(float((residuals**2).sum()))
    return (mean - half, mean + half)


def within(interval: Interval | None, low: float, high: float) -> Interval | None:
    """Return an interval clipped to [low, high]."""
    return (max(low, interval[0]), min(high, interval[1])) if interval else None


def normal_quantile(level: float) -> float:
    """Return the normal quantile of a two-sided interval of this level."""
    return float(norm.ppf(0.5 + checked(level) / 2))


def checked(level: float) -> float:
    """Return a confidence level unchanged; raise `RobotestError` unless 0 < level < 1."""
    if not 0.0 < level < 1.0:
        raise RobotestError(f"confidence level {level} given; it must be between 0 and 1, e.g. 0.95")
    return level
