"""Cameras in a simulated scene."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from robotest.hardware.cameras.watch import CameraError, Frame, checked_picture
from robotest.types import Clock


class RenderedCamera:
    """Renders a simulated scene on demand.

    A paused scene keeps its stamp and so counts as frozen; one slower than real time counts as late.

    Args:
        name: of the camera, for messages.
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
        """Allow rendering; frame numbers continue."""
        self._open = True

    def latest(self) -> Frame:
        """Render; `CameraError` if the picture has a wrong size or type."""
        if not self._open:
            raise CameraError(f"camera {self.name!r} is not open: call open() first")
        image, stamp_s = self._render()
        self._number += 1
        return Frame(checked_picture(self.name, image, self.size), self._clock.now(), stamp_s, self._number)

    def close(self) -> None:
        """Forbid rendering; may be called twice."""
        self._open = False
