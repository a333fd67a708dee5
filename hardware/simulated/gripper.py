"""The gripper of one simulated arm. Its forces and speeds are accepted and have no effect."""

from __future__ import annotations

from typing import Final

OPEN: Final = 1000
"""Gripper position that is fully open; 1 is closed."""
_STILL: Final = 0.002  # change of the opening within `_WINDOW_S` that counts as standing still
_WINDOW_S: Final = 0.1


class Gripper:
    """Set-point, range, and the arrival that a blocking client waits for.

    Args:
        opening: measured, 0 closed to 1 open.

    Attributes:
        opening: measured last, 0 closed to 1 open.
    """

    def __init__(self, opening: float) -> None:
        self.opening = opening
        self._range = (1, OPEN)
        self._position = round(OPEN * opening)
        self._moved: tuple[float, float] | None = None  # (time, opening) of the last change, while a client waits

    @property
    def setpoint(self) -> float:
        """Opening for the servo, 0 closed to 1 open."""
        return self._position / OPEN

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest position."""
        return self._range

    def set_range(self, low: int | None, high: int | None) -> bool:
        """Set the range; return whether it is accepted."""
        if low is None or high is None or not 0 <= low < high <= OPEN:
            return False
        self._range = (max(low, 1), high)
        return True

    def move(self, position: int, now: float, *, block: bool) -> None:
        """Move to a position of 1 to `OPEN`, kept within the range; with `block`, `advance` reports the arrival."""
        low, high = self._range
        self._position = min(max(position, low), high)
        self._moved = (now, self.opening) if block else None

    def advance(self, opening: float, now: float) -> bool:
        """Take a new measurement; return whether the gripper has come to rest and a client waits for that."""
        self.opening = opening
        if self._moved is None:
            return False
        since, before = self._moved
        if abs(opening - before) > _STILL:
            self._moved = (now, opening)
        elif now - since > _WINDOW_S:
            self._moved = None
            return True
        return False
