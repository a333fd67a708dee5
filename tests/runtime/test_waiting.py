from __future__ import annotations

import signal

import pytest

from robotest import interrupt
from robotest.clock import SimClock
from robotest.errors import PolicyUnavailableError, RobotestError
from robotest.runtime.waiting import RETRY_S, WaitingPolicy, until_available
from tests.doubles import fakes
from tests.serving.test_protocol import seen


class Away:
    """Fails so many times before it answers."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.left, self.calls = times, 0
        self._error = error or PolicyUnavailableError("away")

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.left:
            raise self._error
        return "here"


def test_a_call_is_repeated_until_it_succeeds() -> None:
    clock, away = SimClock(), Away(3)
    assert until_available(away, 10, clock) == "here"
    assert (clock.now(), away.calls) == (3 * RETRY_S, 4)


def test_waiting_has_an_end() -> None:
    clock, away = SimClock(), Away(100)
    with pytest.raises(PolicyUnavailableError):
        until_available(away, 2.5, clock)
    assert (clock.now(), away.calls) == (2.5, 4)


def test_other_errors_are_not_waited_for() -> None:
    away = Away(1, RobotestError("wrong token"))
    with pytest.raises(RobotestError, match="wrong token"):
        until_available(away, 10, SimClock())
    assert away.calls == 1


def test_ctrl_c_ends_the_wait() -> None:
    def press() -> str:
        signal.raise_signal(signal.SIGINT)
        raise PolicyUnavailableError("away")

    with pytest.raises(KeyboardInterrupt), interrupt.deferred():
        until_available(press, 1000, SimClock())


def test_a_waiting_policy_is_the_policy() -> None:
    policy = WaitingPolicy(fakes.policy(), 1.0, SimClock())
    assert policy.spec.fingerprint == "fake-weights"
    assert policy.sample([seen()], [1], 2)[0].actions.shape == (2, 6, 3)
