"""Adaptive allocation: more episodes for the tasks in which the paired difference varies most.

Two passes (Neyman 1934, "On the two different aspects of the representative method", Journal of the Royal Statistical
Society 97, 558-625, section III). The first gives every task the same number; the second gives task t pairs in
proportion to s_t, the spread of its paired difference (+1, 0, -1) in the first pass: where all pairs agree
there is little left to learn.

The overall difference is the mean over tasks of a weighted mean of the task's two passes. The weights are the planned
shares of the passes, the same for all tasks, not the numbers of pairs: these depend on the first pass's outcomes, and
such weights would bias the estimate. Given the first pass the second is unbiased, so the estimate is exactly unbiased.
With share w of the first pass, T tasks and n pairs a task its variance is

    (w sum s_t^2 + (1 - w) (sum s_t)^2 / T) / (n T^2),    never above the sum s_t^2 / (n T^2) of equal numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy.stats import norm

FIRST_SHARE = 0.25
"""Share of the budget for the first pass: enough to estimate the spreads, small enough to leave most of the gain."""
SMALLEST_FIRST = 4
Differences = Sequence[int]
"""For each pair of one task: +1 where only `a` succeeded, -1 where only `b` did, else 0."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A difference with equal weight for every task, however many pairs each had.

    Attributes:
        difference: mean over tasks of the rate of `a` minus the rate of `b`.
        interval: of it, by the normal approximation.
    """

    difference: float
    interval: tuple[float, float]


def first_pass(episodes: int) -> int:
    """Return each task's number of pairs in the first pass, for `episodes` pairs a task on average."""
    return min(episodes, max(SMALLEST_FIRST, round(FIRST_SHARE * episodes)))


def second_pass(first: Mapping[str, Differences], episodes: int) -> dict[str, int]:
    """Return each task's number of pairs in the second pass, at least one, which spends the rest of the budget.

    Args:
        first: task -> the differences of its first pass, without pairs that an error excludes.
        episodes: pairs a task on average over both passes.
    """
    budget = len(first) * (episodes - first_pass(episodes))
    if budget < len(first):
        return dict.fromkeys(first, 0)
    spreads = {task: math.sqrt(_variance(differences)) for task, differences in first.items()}
    exact = {task: 1 + (budget - len(first)) * s / sum(spreads.values()) for task, s in spreads.items()}
    numbers = {task: math.floor(x) for task, x in exact.items()}
    by_remainder = sorted(exact, key=lambda task: numbers[task] - exact[task])
    for task in by_remainder[: budget - sum(numbers.values())]:
        numbers[task] += 1
    return numbers


def estimate(
    first: Mapping[str, Differences], second: Mapping[str, Differences], episodes: int, level: float = 0.95
) -> Estimate | None:
    """Return the stratified difference; None while a task lacks pairs.

    Args:
        first: as for `second_pass`.
        second: the same for the second pass; a task without any uses its first pass alone.
        episodes: pairs a task on average over both passes.
        level: of confidence.
    """
    if not first or not all(first.values()):
        return None
    difference = variance = 0.0
    for task, one in first.items():
        other = second.get(task, ())
        share = first_pass(episodes) / episodes if other else 1.0
        spread = _variance([*one, *other])
        difference += (share * _mean(one) + (1 - share) * _mean(other)) / len(first)
        variance += spread * (share**2 / len(one) + (1 - share) ** 2 / max(1, len(other))) / len(first) ** 2
    half = float(norm.ppf(0.5 + level / 2)) * math.sqrt(variance)
    return Estimate(difference, (max(-1.0, difference - half), min(1.0, difference + half)))


def _mean(differences: Differences) -> float:
    return sum(differences) / len(differences) if differences else 0.0


def _variance(differences: Differences) -> float:
    """Variance with half a pseudo-pair of either sign, so that it is positive without discordant pairs."""
    n = len(differences) + 1
    return (sum(abs(d) for d in differences) + 1) / n - (sum(differences) / n) ** 2
