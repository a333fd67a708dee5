"""Waiting for a policy whose server cannot be reached at present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from robotest import interrupt
from robotest.errors import PolicyUnavailableError
from robotest.specs import PolicySpec
from robotest.types import Candidates, Clock, Observation, Policy

RETRY_S: Final = 1.0
"""Time between two attempts [s]."""
_Made = TypeVar("_Made")


class WaitingPolicy:
    """A policy that is asked again until it can be reached. Implements `robotest.types.Policy`.

    A policy is stateless, so that asking again changes no result.

    Args:
        policy: may raise `PolicyUnavailableError`.
        wait_s: how long a call may wait, from its first failure [s].
        clock: waits.
    """

    def __init__(self, policy: Policy, wait_s: float, clock: Clock) -> None:
        self._policy, self._wait_s, self._clock = policy, wait_s, clock

    @property
    def spec(self) -> PolicySpec:
        """See `Policy.spec`."""
        return self._policy.spec

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        """See `Policy.sample`; `PolicyUnavailableError` after the wait."""
        return until_available(
            lambda: self._policy.sample(observations, noise_seeds, n_candidates), self._wait_s, self._clock
        )


def until_available(call: Callable[[], _Made], wait_s: float, clock: Clock) -> _Made:
    """Return what `call` returns; repeat it while it raises `PolicyUnavailableError`, for at most `wait_s` seconds."""
    until: float | None = None
    while True:
        try:
            return call()
        except PolicyUnavailableError:  # noqa: PERF203 - the loop repeats what raised it
            now = clock.now()
            until = now + wait_s if until is None else until
            if now >= until:
                raise
            interrupt.check_anywhere()
            clock.sleep_until(min(now + RETRY_S, until))
