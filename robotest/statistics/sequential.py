"""Sequential testing: evidence that remains valid when checked after every pair.

A p-value recomputed after every episode falls below 5 % sooner or later, even when nothing differs. An e-process does
not: under the null its expected value is at most 1, so the probability that it *ever* reaches 1 / alpha is at most
alpha (Ville 1939; Ramdas and Wang 2024, "Hypothesis testing with e-values", chapter 7).

The null is that of McNemar's test: in every discordant pair either side is equally likely to be the one that succeeds,
whatever came before. The alternatives are coins of every bias q, weighted by a Beta(a, a) density (Robbins 1970,
"Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics 41, 1397-1409):

    E = integral of (2 q)^only_a (2 (1 - q))^only_b dBeta(q) = 2^n B(a + only_a, a + only_b) / B(a, a).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy.special import betaln

from robotest.errors import RobotestError
from robotest.types import Outcome

CONCENTRATION = 10.0
"""The a of Beta(a, a): biases of 0.5 +- 0.11, which correspond to gains of 5 to 10 points among discordant pairs."""


def log_e_value(only_a: int, only_b: int) -> float:
    """Return the logarithm of E; 0 before the first discordant pair."""
    a, n = CONCENTRATION, only_a + only_b
    return float(n * math.log(2) + betaln(a + only_a, a + only_b) - betaln(a, a))


def decided(only_a: int, only_b: int, alpha: float = 0.05) -> bool:
    """Return whether two conditions differ, at error rate `alpha` however often it is called.

    Raises:
        RobotestError: `alpha` is not between 0 and 1.
    """
    if not 0.0 < alpha < 1.0:
        raise RobotestError(f"alpha {alpha} given; it must be between 0 and 1, e.g. 0.05")
    return log_e_value(only_a, only_b) >= -math.log(alpha)


@dataclasses.dataclass
class Monitor:
    """Monitors two conditions pair by pair until the difference is decided.

    Pairs count in planned order, not in the order they finish: successes are quick, and counting quick pairs first
    would bias the evidence. So the verdict does not depend on scheduling either.

    Attributes:
        a: one condition.
        b: the other.
        alpha: error rate, valid at any time.
        pairs: pairs counted, without those that an error excludes.
        only_a: counted pairs in which only `a` succeeded.
        only_b: counted pairs in which only `b` did.
        p_value: 1 / the largest E so far.
        seen: starts processed, including those that an error excludes.
        decided_after: number of starts after which it was decided; None while undecided.
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
        decided(0, 0, self.alpha)  # validates alpha

    def look(self, starts: Sequence[tuple[str, int]], outcomes: Mapping[tuple[str, str, int], Outcome]) -> None:
        """Count complete pairs up to the first incomplete one, or to the decision.

        Args:
            starts: (task, index) in planned order; earlier counts are kept.
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
