"""Sample sizes: exact power of the paired test, and for comparison that of the unpaired one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, norm

from robotest.errors import RobotestError
from robotest.statistics.intervals import Interval, wilson
from robotest.statistics.paired import Comparison

_LARGEST = 2**20
_ROUNDING = 1e-9  # a discordance at the edge of what two rates allow is allowed


@dataclasses.dataclass(frozen=True)
class Question:
    """A difference to detect.

    Attributes:
        rate: success rate of the baseline.
        gain: smallest difference to detect; negative for a loss.
        discordance: share of pairs in which exactly one side succeeds. Measure it, do not assume it: two episodes
            diverge at the first decision in which their conditions choose differently, so it is large even between
            equally good conditions.
        power: probability of detecting the difference if it exists.
        alpha: probability of a false detection.
    """

    rate: float
    gain: float
    discordance: float
    power: float = 0.8
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in ("rate", "power", "alpha"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise RobotestError(f"{name} {getattr(self, name)} given; it must be between 0 and 1, e.g. 0.8")
        other = self.rate + self.gain
        if self.gain == 0 or not 0.0 < other < 1.0:
            raise RobotestError(
                f"gain {self.gain} given; it must not be 0, and {self.rate} + gain must be between 0 and 1, e.g. 0.05"
            )
        most = min(self.rate + other, 2 - self.rate - other)
        if not abs(self.gain) - _ROUNDING <= self.discordance <= most + _ROUNDING:
            raise RobotestError(
                f"discordance {self.discordance} given; rates of {self.rate:g} and {other:g} allow"
                f" {abs(self.gain):g} to {most:g}"
            )


@dataclasses.dataclass(frozen=True)
class Measured:
    """The discordance measured in a comparison, for planning similar ones.

    Attributes:
        pairs: number of pairs it is measured on.
        rate: of the baseline.
        ratio: share of discordant pairs, relative to its value for independent sides.
        ratios: Wilson's 95 % interval of that share, relative to the same value.
    """

    pairs: int
    rate: float
    ratio: float
    ratios: Interval

    def discordance_at(self, rate: float, other: float) -> float:
        """Return the expected discordance at two rates: the same ratio, clipped to the range the rates allow."""
        return _allowed(self.ratio, rate, other)

    def discordances_at(self, rate: float, other: float) -> Interval:
        """Return the interval of `discordance_at`."""
        low, high = (_allowed(ratio, rate, other) for ratio in self.ratios)
        return low, high


def _allowed(ratio: float, rate: float, other: float) -> float:
    independent = rate * (1 - other) + other * (1 - rate)
    return min(max(ratio * independent, abs(rate - other)), min(rate + other, 2 - rate - other))


MEASURED = Measured(1200, 0.555, 0.80, (0.75, 0.85))
"""`leverage` against `random` on the built-in suite (docs/evidence.md): 460 of 1,200 pairs discordant."""


def measure(comparison: Comparison, base: str) -> Measured:
    """Measure the discordance of a comparison.

    Args:
        comparison: of two conditions.
        base: the baseline, one of the two.

    Raises:
        RobotestError: it has no pairs, or none of them is discordant.
    """
    n, c = comparison.pairs, comparison
    discordant = c.only_a + c.only_b
    interval = wilson(discordant, n)
    if interval is None or not discordant:
        raise RobotestError(
            f"not enough data: {c.a} and {c.b} have {n} pairs, {discordant} of them discordant; run more episodes,"
            " or give --rate and --discordance without --run-directory"
        )
    a, b = (c.both + c.only_a) / n, (c.both + c.only_b) / n
    independent = a * (1 - b) + b * (1 - a)
    low, high = (share / independent for share in interval)
    return Measured(n, a if base == c.a else b, discordant / n / independent, (low, high))


def paired_power(question: Question, n: int) -> float:
    """Return the power of McNemar's exact test on `n` pairs.

    The number of discordant pairs is binomial, and so is its split between the sides: the sum over both is exact.
    """
    q = question
    discordant = np.arange(n + 1)
    # The largest k with 2 P(X <= k) <= alpha: `ppf` gives the smallest k with P(X <= k) >= alpha / 2.
    critical = binom.ppf(q.alpha / 2, discordant, 0.5)
    critical -= binom.cdf(critical, discordant, 0.5) > q.alpha / 2
    favouring = min(1.0, max(0.0, (q.discordance + q.gain) / (2 * q.discordance)))
    rejects = binom.cdf(critical, discordant, favouring) + binom.cdf(critical, discordant, 1 - favouring)
    return float(binom.pmf(discordant, n, q.discordance) @ rejects)


def unpaired_power(question: Question, n: int) -> float:
    """Return the approximate power of the pooled z-test on two independent samples of `n`.

    Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, section 4.2.
    """
    p, q = question.rate, question.rate + question.gain
    pooled, spread = math.sqrt(2 * (p + q) / 2 * (1 - (p + q) / 2)), math.sqrt(p * (1 - p) + q * (1 - q))
    z = (abs(p - q) * math.sqrt(n) - norm.ppf(1 - question.alpha / 2) * pooled) / spread
    return float(norm.cdf(z))


def pairs_needed(question: Question) -> int:
    """Return the smallest number of pairs with which the paired test has the required power."""
    return _smallest(lambda n: paired_power(question, n) >= question.power)


def pairs_needed_between(question: Question, discordances: Interval) -> tuple[int, int | None]:
    """Return the pairs needed at the ends of a range of discordances; None for more than `pairs_needed` can count.

    Args:
        question: its own discordance is ignored.
        discordances: smallest and largest.
    """
    low, high = (dataclasses.replace(question, discordance=d) for d in discordances)
    try:
        return pairs_needed(low), pairs_needed(high)
    except RobotestError:
        return pairs_needed(low), None


def episodes_needed_unpaired(question: Question) -> int:
    """Return the number of episodes *of each condition* needed with independent samples."""
    return _smallest(lambda n: unpaired_power(question, n) >= question.power)


def _smallest(enough: Callable[[int], bool]) -> int:
    """Return the smallest sufficient n by doubling and bisection; power is monotonic but for a tiny sawtooth."""
    high = 1
    while not enough(high):
        high *= 2
        if high > _LARGEST:
            raise RobotestError(f"more than {_LARGEST} episodes are needed; ask for a larger gain or less power")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
