"""Clocks: simulated time, which nothing waits for, and real time."""

from __future__ import annotations

import time


class SimClock:
    """Simulated time: sleeping moves it, nothing waits."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds since the clock was made [s]."""
        return self._now

    def sleep_until(self, deadline: float) -> None:
        """Move time to `deadline`, never backwards."""
        self._now = max(self._now, deadline)


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Monotonic seconds [s]; only differences mean anything."""
        return time.perf_counter()

    def sleep_until(self, deadline: float) -> None:
        """Wait until `deadline`."""
        time.sleep(max(0.0, deadline - self.now()))
