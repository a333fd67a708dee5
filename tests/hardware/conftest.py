"""Runs real-time tests beside each other, and repeats one that failed while this machine stood still.

A virtual machine is halted now and then, for up to a third of a second, by whoever shares its processors. The executor
then stops the arms, as it should, and the test fails. A stall is measured by somebody who has nothing to do with the
test, so a failure without one counts at once.

A test marked ``alone`` takes the processors away from everybody, and so has nobody beside it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.doubles.stalls import StallDetector

REPEATS = 2
STALL_S = 0.03
_detector: StallDetector | None = None
_began = 0.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark real-time tests to be repeated if the machine stood still."""
    for item in items:
        if item.get_closest_marker("realtime"):
            item.add_marker(pytest.mark.flaky(reruns=REPEATS, condition=stood_still))


@pytest.fixture(scope="session", autouse=True)
def detector(request: pytest.FixtureRequest) -> Iterator[None]:
    """Look for stalls as long as real-time tests run."""
    global _detector
    if not any(item.get_closest_marker("realtime") for item in request.session.items):
        yield
        return
    with closing(StallDetector()) as _detector:
        yield
    _detector = None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let real-time tests share the machine, or have it alone, with their fixtures and repetitions."""
    if not item.get_closest_marker("realtime"):
        return (yield)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir())
    with (folder / f"robotest-{run}-door").open("w") as door, (folder / f"robotest-{run}-room").open("w") as room:
        # Whoever waits to be alone in the room blocks the door, or the others would come and go for ever.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when an attempt begins, its fixtures included."""
    global _began
    _began = StallDetector.now()


def stood_still() -> bool:
    """Return whether the machine did during this attempt."""
    return _detector is not None and _detector.longest_s(since=_began) > STALL_S
