"""Success rates of one condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from robotest.statistics.intervals import Interval, wilson
from robotest.types import Episode

JUDGED = frozenset({"success", "failure"})
"""Outcomes that enter rates and pairs."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """A success rate and the counts behind it.

    Attributes:
        successes: episodes that succeeded.
        failures: episodes that failed.
        errors: episodes that ended in an error; not part of the rate.
        rate: successes / (successes + failures); None if there are none.
        interval: Wilson's interval of it; None if there are none.
        unjudged: episodes without a rule for success.
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


def rate(episodes: Iterable[Episode], level: float = 0.95) -> Rate:
    """Count outcomes; return the rate with Wilson's interval."""
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
