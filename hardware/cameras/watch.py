"""The interface to a camera, and `WatchedCamera`, which passes only fresh frames.

A frame has two times: when it arrived here and, if the camera has a clock, when it was taken. `WatchedCamera` compares
both with those of earlier frames. An old, repeated or frozen picture is an error, because a policy that acts on it
moves real arms. The drivers are the other modules of this package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from robotest.hardware.robot import RobotError
from robotest.types import Clock

_CLOCK_DRIFT: Final = 1e-4  # bound on the drift between camera and computer [s/s]
_CLOCK_JUMP_S: Final = 1.0  # more than the first frame of a starting camera can be late


class CameraError(RobotError):
    """A camera cannot be opened, gives no frame, or gives one that must not be acted on."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture. Its array must not be written to.

    Attributes:
        image: RGB.
        host_s: when it arrived in this process, `Clock.now` of the camera's clock [s].
        device_s: when it was taken, by the camera's own clock with an arbitrary zero [s]; None if it has none.
        number: strictly increasing; gaps are frames that were not read.
    """

    image: UInt8[np.ndarray, "height width 3"]
    host_s: float
    device_s: float | None
    number: int


@runtime_checkable
class Openable(Protocol):
    """A device that can be opened."""

    def open(self) -> None:
        """Open the device; after an error nothing is left open."""
        ...

    def close(self) -> None:
        """Close the device; may be called twice."""
        ...


@runtime_checkable
class Camera(Openable, Protocol):
    """A source of frames, for use by one thread. Its methods raise nothing but `CameraError`."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every frame [px]; constant over the camera's life."""
        ...

    def latest(self) -> Frame:
        """Return the newest frame, however old. Waits, for a limited time, only for the first one."""
        ...


class WatchedCamera:
    """Returns only fresh frames, fitted to the policy's image size.

    Frames are compared with the last accepted one. So a camera whose clock or count went back stays refused until it
    has caught up or is opened again.

    The camera's own stamps reveal what the time of arrival cannot: a frame that waited in a driver's queue. Its delay
    is compared with the shortest one seen, allowing for the clocks' drift. Without such stamps two pictures that are
    equal to the last bit count as frozen, because a sensor has noise.

    Args:
        camera: the source.
        size: height and width of the frames that `look` returns [px].
        clock: with which the camera stamps arrivals.
        max_age_s: a frame older than this is refused, and one whose delay exceeds the shortest by more [s].
    """

    def __init__(self, camera: Camera, size: tuple[int, int], clock: Clock, max_age_s: float = 0.1) -> None:
        self._camera, self._clock = camera, clock
        self.size, self.max_age_s = size, max_age_s
        self._last: Frame | None = None
        self._device_s: float | None = None
        self._least_s = self._least_at_s = 0.0

    @property
    def name(self) -> str:
        """The camera's."""
        return self._camera.name

    def open(self) -> None:
        """Open the camera and forget earlier frames."""
        self._camera.open()
        self._last = self._device_s = None

    def close(self) -> None:
        """Close the camera; may be called twice."""
        self._camera.close()

    def newest(self) -> UInt8[np.ndarray, "height width 3"]:
        """Return the newest picture, unchecked and unscaled, for people to look at."""
        return self._camera.latest().image

    def look(self) -> Frame:
        """Return the newest frame, never the same one twice.

        Raises:
            CameraError: there is no frame, or it has a wrong size, is older than `max_age_s`, repeated or frozen, or
                its number or time went back.
        """
        frame = self._camera.latest()
        now = self._clock.now()
        checked_picture(self.name, frame.image, self._camera.size)
        self._check_age(frame, now)
        if self._last is not None:
            self._check_order(frame, self._last)
        if frame.device_s is not None:
            self._check_device(frame.host_s, frame.device_s)
        elif self._last is not None and np.array_equal(frame.image, self._last.image):
            raise self._refused(f"repeats the picture of frame {self._last.number}: it is frozen")
        self._remember(frame)
        return dataclasses.replace(frame, image=fitted(frame.image, self.size))

    def _check_age(self, frame: Frame, now: float) -> None:
        age = now - frame.host_s
        if age < 0:
            raise self._refused(
                f"stamps frames {-age:.3f} s ahead of now: it must use the clock of its `WatchedCamera`"
            )
        if not age <= self.max_age_s:  # NaN too
            raise self._refused(
                f"has given no frame for {age:.3f} s, allowed are {self.max_age_s:g} s: is it plugged in and streaming?"
            )

    def _check_order(self, frame: Frame, last: Frame) -> None:
        if frame.number == last.number:
            raise self._refused(
                f"has nothing newer than frame {frame.number}: it stalls, or is read faster than its frame rate"
            )
        if frame.number < last.number:
            raise self._refused(f"went back from frame {last.number} to {frame.number}: did it restart? Open it again")
        if frame.host_s < last.host_s:
            raise self._refused(f"stamped frame {frame.number} {last.host_s - frame.host_s:.3f} s before the last one")

    def _check_device(self, host_s: float, device_s: float) -> None:
        if not math.isfinite(device_s):
            raise self._refused(f"stamps its frames {device_s}: its clock cannot be read")
        if self._device_s is None:
            return
        advance = device_s - self._device_s
        if advance == 0:
            raise self._refused(f"is frozen: new frames keep its stamp {device_s:.3f} s")
        if advance < 0:
            raise self._refused(f"has a clock that went back by {-advance:.3f} s: did it restart? Open it again")
        delay = host_s - device_s - self._shortest(host_s)
        if delay > self.max_age_s:
            raise self._refused(
                f"has a frame that came {delay:.3f} s late, allowed are {self.max_age_s:g} s: is the USB or the "
                "computer overloaded?"
            )
        if delay < -_CLOCK_JUMP_S:
            raise self._refused(f"has a clock that jumped ahead by {-delay:.3f} s: did it restart? Open it again")

    def _shortest(self, host_s: float) -> float:
        """Upper bound of the smallest difference of the two clocks seen, drifted to `host_s` [s]."""
        return self._least_s + _CLOCK_DRIFT * (host_s - self._least_at_s)

    def _remember(self, frame: Frame) -> None:
        self._last = frame
        if frame.device_s is None:
            return
        difference = frame.host_s - frame.device_s
        least_s = difference if self._device_s is None else min(difference, self._shortest(frame.host_s))
        self._device_s, self._least_s, self._least_at_s = frame.device_s, least_s, frame.host_s

    def _refused(self, why: str) -> CameraError:
        return CameraError(f"camera {self.name!r} {why}")


def fitted(image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height2 width2 3"]:
    """Crop the centre to the aspect ratio of `size` and scale it: box filter when smaller, bilinear when larger.

    Nothing is stretched or padded. A policy must be trained on pictures that were fitted in the same way.

    Args:
        image: RGB.
        size: height and width [px].
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    scale = min(height / size[0], width / size[1])
    cut = (size[1] * scale, size[0] * scale)
    left, top = (width - cut[0]) / 2, (height - cut[1]) / 2
    method = Image.Resampling.BOX if scale > 1 else Image.Resampling.BILINEAR
    box = (left, top, left + cut[0], top + cut[1])
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), method, box))


def checked_picture(camera: str, image: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image if it is RGB as uint8 of the camera's size; `CameraError` if not."""
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (*size, 3)):
        kind = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise CameraError(
            f"camera {camera!r} gives {kind}, not RGB as uint8 of shape {(*size, 3)}: give its real height and width"
        )
    picture: UInt8[np.ndarray, "height width 3"] = image
    return picture


def open_all(cameras: Sequence[Openable]) -> contextlib.ExitStack:
    """Open the cameras in order; if one fails, close those already open.

    Returns:
        A context manager that closes them all in reverse order, as does its `close`.
    """
    with contextlib.ExitStack() as stack:
        for camera in cameras:
            camera.open()
            stack.callback(camera.close)
        return stack.pop_all()
