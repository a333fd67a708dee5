"""Cameras in a simulated scene."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from robotest.hardware.cameras.watch import CameraError, Frame, checked_picture
from robotest.types import Clock


class RenderedCamera:
    """Pictures of a simulated scene, rendered when they are asked for.

    A scene that stands still keeps its stamp, and so counts as frozen; one slower than real time, as late.

    Args:
        name: what messages call it.
        size: height and width of what is rendered [px].
        render: returns a picture, RGB, and the time of the state it shows [s].
        clock: stamps arrivals.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int],
        render: Callable[[], tuple[UInt8[np.ndarray, "height width 3"], float]],
        clock: Clock,
    ) -> None:
        self.name, self.size = name, size
        self._render, self._clock = render, clock
        self._open, self._number = False, 0

    def open(self) -> None:
        """Allow looking; numbers count on."""
        self._open = True

    def latest(self) -> Frame:
        """Render; `CameraError` if the picture is not what was promised."""
        if not self._open:
            raise CameraError(f"camera {self.name!r} is not open: call open() first")
        image, stamp_s = self._render()
        self._number += 1
        return Frame(checked_picture(self.name, image, self.size), self._clock.now(), stamp_s, self._number)

    def close(self) -> None:
        """Forbid looking; may be called twice."""
        self._open = False
