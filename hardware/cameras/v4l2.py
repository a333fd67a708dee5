"""Video4Linux cameras through OpenCV, an extra that is imported when a camera is opened."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robotest.hardware.cameras.reader import Reader, imported, opened
from robotest.hardware.cameras.watch import CameraError, Frame, checked_picture
from robotest.types import Clock


class V4l2Camera:
    """A Video4Linux camera.

    Stamps are the kernel's, at a frame's first byte, if the driver has them. Frames are numbered as they are read,
    because OpenCV does not expose the driver's count.

    Args:
        name: of the camera, for messages.
        device: e.g. ``/dev/video0``, or better a permanent name in ``/dev/v4l/by-id``.
        size: height and width [px].
        fps: frames per second [1/s].
        clock: stamps arrivals.
        fourcc: pixel format; two cameras on one USB 2 bus need a compressed one.
        capture: opens OpenCV's capture of a device; None: ``cv2.VideoCapture``.
    """

    def __init__(
        self,
        name: str,
        device: str,
        size: tuple[int, int],
        fps: int,
        clock: Clock,
        fourcc: str = "MJPG",
        capture: Callable[[str], Any] | None = None,
    ) -> None:
        self.name, self.device, self.size, self.fps, self.fourcc = name, device, size, fps, fourcc
        self._clock, self._capture = clock, capture or _video4linux
        self._reader: Reader | None = None

    def open(self) -> None:
        """Start streaming.

        Raises:
            CameraError: OpenCV is missing, or the device does not exist, is in use, or lacks this size or rate.
        """
        self.close()
        cv2 = imported("cv2", "cameras", "pip install opencv-python-headless")
        if not Path(self.device).exists():
            devices = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
            raise CameraError(
                f"camera {self.name!r}: there is no {self.device}; there are {devices or 'no /dev/video*'}"
            )
        with contextlib.ExitStack() as stack:
            capture = self._capture(self.device)
            stack.callback(capture.release)
            self._configure(cv2, capture)
            stream = _CaptureStream(self, cv2, capture, self._clock)
            self._reader = Reader(self.name, stream.read, capture.release)
            stack.pop_all()

    def latest(self) -> Frame:
        """Return the newest frame; `CameraError` if there is none or the camera is gone."""
        return opened(self.name, self._reader).latest()

    def close(self) -> None:
        """Stop streaming; may be called twice."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _configure(self, cv2: Any, capture: Any) -> None:
        if not capture.isOpened():
            raise CameraError(
                f"camera {self.name!r}: {self.device} cannot be opened: is it a camera, is another program using it, "
                "are you in the group 'video'?"
            )
        height, width = self.size
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*self.fourcc))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_FPS, self.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where the driver supports it, no old frame waits
        actual = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        if actual != self.size or (fps > 0 and abs(fps - self.fps) > 1):
            raise CameraError(
                f"camera {self.name!r}: {self.device} gives {actual[1]}x{actual[0]} at {fps:g} fps, not "
                f"{width}x{height} at {self.fps}; see v4l2-ctl --list-formats-ext -d {self.device}"
            )


class _CaptureStream:
    """OpenCV's capture, used by the reader's thread."""

    def __init__(self, camera: V4l2Camera, cv2: Any, capture: Any, clock: Clock) -> None:
        self._camera, self._cv2, self._capture, self._clock = camera, cv2, capture, clock
        self._number = 0

    def read(self) -> Frame:
        arrived, image = self._capture.read()
        now = self._clock.now()
        if not arrived:
            raise CameraError(
                f"camera {self._camera.name!r}: {self._camera.device} gives no more frames after {self._number}; "
                "was it unplugged? Plug it in and open it again"
            )
        self._number += 1
        picture = checked_picture(self._camera.name, image, self._camera.size)
        stamp_s = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        rgb = self._cv2.cvtColor(picture, self._cv2.COLOR_BGR2RGB)
        return Frame(rgb, now, stamp_s if stamp_s > 0 else None, self._number)


def _video4linux(device: str) -> Any:
    cv2: Any = importlib.import_module("cv2")
    return cv2.VideoCapture(device, cv2.CAP_V4L2)
