"""Cameras that are plugged in: RealSense through Intel's SDK, others through Video4Linux and OpenCV.

Their packages are extras and are imported when a camera is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from robotest.hardware.cameras.watch import CameraError, Frame, checked_picture
from robotest.types import Clock

FIRST_FRAME_S: Final = 3.0
"""How long `latest` waits for the first frame [s]."""
SILENCE_S: Final = 1.0
"""After how long without a frame a RealSense camera counts as gone [s]."""

_POLL_MS: Final = 100  # how long the driver may wait at a time, and so how soon `close` is obeyed
_CLOSE_S: Final = 2.0  # how long `close` waits for a driver that blocks
_STAMP_WRAP_S: Final = 2**32 * 1e-6  # RealSense cameras count microseconds in 32 bits: 71.6 minutes


class Reader:
    """A thread that reads a driver which blocks, and keeps only the newest frame.

    The thread also lets the device go, since no other may do that while it is being read.

    Args:
        name: of the camera.
        read: returns a frame, or None if there was none for a while.
        release: lets the device go.
    """

    def __init__(self, name: str, read: Callable[[], Frame | None], release: Callable[[], None]) -> None:
        self._name, self._read, self._release = name, read, release
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def latest(self) -> Frame:
        """Return the newest frame; wait for the first one up to `FIRST_FRAME_S`.

        Raises:
            CameraError: there was none, or the thread ended by an error, which is this one's cause.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._error is not None, FIRST_FRAME_S)
            if self._error is not None:
                known = isinstance(self._error, CameraError)
                message = str(self._error) if known else f"camera {self._name!r} failed: {self._error}"
                raise CameraError(message) from self._error
            if self._frame is None:
                raise CameraError(f"camera {self._name!r} gave no frame within {FIRST_FRAME_S:g} s: plug it in anew")
            return self._frame

    def close(self) -> None:
        """End the thread. If the driver does not return within 2 s, the thread ends later, when it does."""
        self._ending.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._release)
                while not self._ending.is_set():
                    self._publish(self._read())
        except Exception as error:  # noqa: BLE001 - nobody above a thread: it surfaces at the next `latest`
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _publish(self, frame: Frame | None) -> None:
        if frame is not None:
            with self._changed:
                self._frame = frame
                self._changed.notify_all()


class RealSenseCamera:
    """The colour stream of a RealSense camera.

    Stamps are of the camera's own clock. Where the computer cannot read it (no kernel metadata) there are none: those
    that the SDK makes up follow the wall clock.

    Args:
        name: what messages call it.
        serial: of the camera, as ``rs-enumerate-devices`` prints it.
        size: height and width [px], one of the camera's modes.
        fps: one of the camera's modes [1/s].
        clock: stamps arrivals.
        context: pyrealsense2's, if not a new one; one may hold devices made in software.
    """

    def __init__(
        self, name: str, serial: str, size: tuple[int, int], fps: int, clock: Clock, context: Any = None
    ) -> None:
        self.name, self.serial, self.size, self.fps = name, serial, size, fps
        self._clock, self._context = clock, context
        self._reader: Reader | None = None

    def open(self) -> None:
        """Start streaming.

        Raises:
            CameraError: pyrealsense2 is missing, or there is no such camera or mode; the message lists those there are.
        """
        self.close()
        rs = _imported("pyrealsense2", "realsense", "on Debian: apt-get install libusb-1.0-0")
        context = self._context or rs.context()
        device = self._find(rs, context)
        pipeline, config = rs.pipeline(context), rs.config()
        config.enable_device(self.serial)
        height, width = self.size
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, self.fps)
        try:
            profile = pipeline.start(config)
        except RuntimeError as error:
            raise CameraError(
                f"camera {self.name!r} cannot stream {width}x{height} at {self.fps} fps ({error}); "
                f"its colour modes are {', '.join(_modes(rs, device)) or 'none'}"
            ) from error
        _stamp_by_device(rs, profile.get_device())
        stream = _RealSenseStream(self, rs, context, pipeline, self._clock)
        self._reader = Reader(self.name, stream.read, stream.release)

    def latest(self) -> Frame:
        """Return the newest frame; `CameraError` if there is none or the camera fell silent."""
        return _opened(self.name, self._reader).latest()

    def close(self) -> None:
        """Stop streaming; may be called twice."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _find(self, rs: Any, context: Any) -> Any:
        devices = _realsense_devices(rs, context)
        if self.serial not in devices:
            raise CameraError(
                f"camera {self.name!r}: no RealSense with serial {self.serial!r} is connected; there are "
                f"{', '.join(sorted(devices)) or 'none'} (the L515 needs pyrealsense2 2.54)"
            )
        return devices[self.serial]


class _RealSenseStream:
    """What the reader's thread does with a pipeline."""

    def __init__(self, camera: RealSenseCamera, rs: Any, context: Any, pipeline: Any, clock: Clock) -> None:
        self._camera, self._rs, self._context, self._pipeline, self._clock = camera, rs, context, pipeline, clock
        self._heard_s = clock.now()
        self._stamp_s, self._wrapped_s = 0.0, 0.0

    def read(self) -> Frame | None:
        arrived, frames = self._pipeline.try_wait_for_frames(_POLL_MS)
        now = self._clock.now()
        colour = frames.get_color_frame() if arrived else None
        if not colour:
            self._check_silence(now - self._heard_s)
            return None
        self._heard_s = now
        image = np.array(colour.get_data())  # a copy: the SDK uses its buffers again
        picture = checked_picture(self._camera.name, image, self._camera.size)
        return Frame(picture, now, self._stamp(colour), int(colour.get_frame_number()))

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is no longer there to be stopped
            self._pipeline.stop()

    def _stamp(self, colour: Any) -> float | None:
        """The camera's time [s], counted on where its counter starts again."""
        if colour.get_frame_timestamp_domain() != self._rs.timestamp_domain.hardware_clock:
            return None
        stamp_s = float(colour.get_timestamp()) / 1000 + self._wrapped_s
        if stamp_s < self._stamp_s - _STAMP_WRAP_S / 2:
            self._wrapped_s += _STAMP_WRAP_S
            stamp_s += _STAMP_WRAP_S
        self._stamp_s = stamp_s
        return stamp_s

    def _check_silence(self, silent_s: float) -> None:
        if silent_s <= SILENCE_S:
            return
        camera = self._camera
        if camera.serial in _realsense_devices(self._rs, self._context):
            raise CameraError(f"camera {camera.name!r} gave no frame for {silent_s:.1f} s: open it again")
        raise CameraError(
            f"camera {camera.name!r} ({camera.serial}) was unplugged: no frame for {silent_s:.1f} s; "
            "plug it in and open it again"
        )


class V4l2Camera:
    """A camera that Video4Linux knows, through OpenCV.

    Stamps are of the kernel, at a frame's first byte; there are none if the driver gives none. Frames are numbered as
    they are read, since OpenCV does not tell the driver's count.

    Args:
        name: what messages call it.
        device: e.g. ``/dev/video0``, or better a name in ``/dev/v4l/by-id`` which stays the same.
        size: height and width [px].
        fps: frames per second [1/s].
        clock: stamps arrivals.
        fourcc: pixel format; two cameras on one USB 2 bus need a compressed one.
        capture: makes OpenCV's capture of a device.
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
            CameraError: OpenCV is missing, there is no such device, it is taken, or does not have this size or rate.
        """
        self.close()
        cv2 = _imported("cv2", "cameras", "pip install opencv-python-headless")
        if not Path(self.device).exists():
            there = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
            raise CameraError(f"camera {self.name!r}: there is no {self.device}; there are {there or 'no /dev/video*'}")
        with contextlib.ExitStack() as stack:
            capture = self._capture(self.device)
            stack.callback(capture.release)
            self._configure(cv2, capture)
            stream = _CaptureStream(self, cv2, capture, self._clock)
            self._reader = Reader(self.name, stream.read, capture.release)
            stack.pop_all()

    def latest(self) -> Frame:
        """Return the newest frame; `CameraError` if there is none or the camera is gone."""
        return _opened(self.name, self._reader).latest()

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
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # where a driver can, nothing old waits in it
        given = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        if given != self.size or (fps > 0 and abs(fps - self.fps) > 1):
            raise CameraError(
                f"camera {self.name!r}: {self.device} gives {given[1]}x{given[0]} at {fps:g} fps, not "
                f"{width}x{height} at {self.fps}; see v4l2-ctl --list-formats-ext -d {self.device}"
            )


class _CaptureStream:
    """What the reader's thread does with OpenCV's capture."""

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


def _opened(name: str, reader: Reader | None) -> Reader:
    if reader is None:
        raise CameraError(f"camera {name!r} is not open: call open() first")
    return reader


def _imported(module: str, extra: str, hint: str) -> Any:
    """Import what a camera needs; `CameraError` says how to install it, or what its library misses."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CameraError(f"{error.name} is not installed: pip install 'robotest[{extra}]'") from error
    except ImportError as error:
        raise CameraError(f"{module} cannot be loaded: {error} ({hint})") from error


def _realsense_devices(rs: Any, context: Any) -> dict[str, Any]:
    """Serial -> device of what is connected."""
    key = rs.camera_info.serial_number
    return {device.get_info(key): device for device in context.query_devices() if device.supports(key)}


def _modes(rs: Any, device: Any) -> list[str]:
    """Colour modes of a device in words."""
    profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    colour = [p for p in profiles if p.stream_type() == rs.stream.color and p.format() == rs.format.rgb8]
    modes = {(p.as_video_stream_profile().width(), p.as_video_stream_profile().height(), p.fps()) for p in colour}
    return [f"{width}x{height} at {fps} fps" for width, height, fps in sorted(modes)]


def _stamp_by_device(rs: Any, device: Any) -> None:
    """Ask for the camera's own stamps: the SDK's default translates them to wall-clock time, which jumps."""
    for sensor in device.query_sensors():
        if sensor.supports(rs.option.global_time_enabled):
            sensor.set_option(rs.option.global_time_enabled, 0)
