"""A camera with faults that can be switched while it runs."""

from __future__ import annotations

import dataclasses

from robotest.hardware.cameras.reader import FIRST_FRAME_S
from robotest.hardware.cameras.watch import Camera, CameraError, Frame
from robotest.types import Clock


@dataclasses.dataclass(frozen=True)
class Faults:
    """Faults of a camera.

    Attributes:
        freeze: the same frame is returned again and again.
        repeat: frames with new numbers and arrival times have the same picture and device stamp.
        drop: no frame arrives.
        clock_jump_s: added to device stamps [s].
        late_s: delay between a frame's arrival and its return [s].
        unplug: the camera is gone.
    """

    freeze: bool = False
    repeat: bool = False
    drop: bool = False
    clock_jump_s: float = 0.0
    late_s: float = 0.0
    unplug: bool = False


class FaultyCamera:
    """A camera with faults that can be switched while it runs, for tests and drills: assign `faults`.

    Args:
        camera: one that works.
        clock: for the delays.
    """

    def __init__(self, camera: Camera, clock: Clock) -> None:
        self._camera, self._clock = camera, clock
        self._shown: Frame | None = None
        self.faults = Faults()

    @property
    def name(self) -> str:
        """The camera's."""
        return self._camera.name

    @property
    def size(self) -> tuple[int, int]:
        """The camera's."""
        return self._camera.size

    def open(self) -> None:
        """Open the camera; `CameraError` if it is unplugged."""
        self._check_plug(self.faults)
        self._camera.open()
        self._shown = None

    def latest(self) -> Frame:
        """Return the newest frame with the faults that are switched on."""
        faults = self.faults  # another thread may change them
        self._check_plug(faults)
        if faults.drop:
            self._clock.sleep_until(self._clock.now() + FIRST_FRAME_S)
            raise CameraError(f"camera {self.name!r} gave no frame within {FIRST_FRAME_S:g} s (injected fault)")
        frame = self._camera.latest()
        if faults.late_s:
            self._clock.sleep_until(self._clock.now() + faults.late_s)
        shown = self._shown or frame
        if faults.freeze:
            frame = shown
        elif faults.repeat:
            frame = dataclasses.replace(frame, image=shown.image, device_s=shown.device_s)
        self._shown = frame
        if faults.clock_jump_s and frame.device_s is not None:
            frame = dataclasses.replace(frame, device_s=frame.device_s + faults.clock_jump_s)
        return frame

    def close(self) -> None:
        """Close the camera; may be called twice."""
        self._camera.close()

    def _check_plug(self, faults: Faults) -> None:
        if faults.unplug:
            raise CameraError(f"camera {self.name!r} was unplugged (injected fault)")
