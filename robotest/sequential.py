"""Stopping early without cheating: evidence that may be looked at after every pair.

A p-value that is computed after every episode crosses 5 % sooner or later, also when nothing differs. An e-process does
not: under the null its expected value is never above 1, so the chance that it *ever* reaches 1 / alpha is at most alpha
(Ville 1939; Ramdas and Wang 2024, "Hypothesis testing with e-values", chapter 7).

The null is that of McNemar's test: a pair in which only one side succeeds is as likely to be one as the other, in every
pair, whatever came before. Against it stand coins of every bias q, weighted by a Beta(a, a) density (Robbins 1970,
"Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41, 1397-1409):

    E = integral of (2 q)^only_a (2 (1 - q))^only_b dBeta(q) = 2^n B(a + only_a, a + only_b) / B(a, a).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from scipy.special import betaln

from robotest.errors import RobotestError

CONCENTRATION = 10.0
"""The a of Beta(a, a): biases of 0.5 +- 0.11, the size that a gain of 5 to 10 points has among discordant pairs."""


def log_e_value(only_a: int, only_b: int) -> float:
    """Return the logarithm of E; 0 before the first discordant pair."""
    a, n = CONCENTRATION, only_a + only_b
    return float(n * math.log(2) + betaln(a + only_a, a + only_b) - betaln(a, a))


def decided(only_a: int, only_b: int, alpha: float = 0.05) -> bool:
    """Return whether two conditions differ, at an error rate of `alpha` however often this is asked.

    Raises:
        RobotestError: `alpha` is not between 0 and 1.
    """
    if not 0.0 < alpha < 1.0:
        raise RobotestError(f"alpha {alpha} given; it lies between 0 and 1, e.g. 0.05")
    return log_e_value(only_a, only_b) >= -math.log(alpha)


def anytime_p(a_won: Iterable[bool]) -> float:
    """Return the p-value that holds at every moment: 1 / the largest E so far.

    Args:
        a_won: for every discordant pair, in the order it was run, whether `a` was the one that succeeded.
    """
    counts, largest = [0, 0], 0.0
    for won in a_won:
        counts[0 if won else 1] += 1
        largest = max(largest, log_e_value(*counts))
    return math.exp(-largest)
