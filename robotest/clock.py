"""Clocks: simulated time, which advances without waiting, and real time."""

from __future__ import annotations

import time


class SimClock:
    """Simulated time: sleeping advances it without waiting."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Return simulated time since the clock was created [s]."""
        return self._now

    def sleep_until(self, deadline: float) -> None:
        """Advance time to `deadline`; never moves it backwards."""
        self._now = max(self._now, deadline)


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return monotonic time [s]; only differences are meaningful."""
        return time.perf_counter()

    def sleep_until(self, deadline: float) -> None:
        """Wait until `deadline`."""
        time.sleep(max(0.0, deadline - self.now()))
