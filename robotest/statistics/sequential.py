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

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from scipy.special import betaln

from robotest.errors import RobotestError
from robotest.types import Outcome

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


@dataclasses.dataclass
class Monitor:
    """Watches two conditions while their pairs come in, and says when they are told apart.

    Pairs count in the order they were planned in, not the order they ended in: successes are quick, and evidence that
    sees quick pairs first would be about something else. So the verdict does not depend on how a run was run either.

    Attributes:
        a: one condition.
        b: the other.
        alpha: error rate, however often it is looked at.
        pairs: pairs counted, without those that an error excludes.
        only_a: of them, those in which only `a` succeeded.
        only_b: of them, those in which only `b` did.
        p_value: 1 / the largest E so far.
        seen: starts gone through, those that an error excludes with them.
        decided_after: how many starts decided it; None while it is open.
    """

    a: str
    b: str
    alpha: float
    pairs: int = 0
    only_a: int = 0
    only_b: int = 0
    p_value: float = 1.0
    seen: int = 0
    decided_after: int | None = None

    def __post_init__(self) -> None:
        decided(0, 0, self.alpha)  # refuses an alpha that is none

    def look(self, starts: Sequence[tuple[str, int]], outcomes: Mapping[tuple[str, str, int], Outcome]) -> None:
        """Count the pairs that are complete, up to the first that is not, or to the decision.

        Args:
            starts: (task, index) in the order planned; what was counted before stays counted.
            outcomes: by (condition, task, index).
        """
        for task, index in starts[self.seen :]:
            one, other = outcomes.get((self.a, task, index)), outcomes.get((self.b, task, index))
            if self.decided_after is not None or one is None or other is None:
                return
            self.seen += 1
            if "error" not in (one, other):
                self._count(one == "success", other == "success")

    def _count(self, a_won: bool, b_won: bool) -> None:
        self.pairs += 1
        self.only_a += a_won and not b_won
        self.only_b += b_won and not a_won
        self.p_value = min(self.p_value, math.exp(-log_e_value(self.only_a, self.only_b)))
        if decided(self.only_a, self.only_b, self.alpha):
            self.decided_after = self.seen


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
