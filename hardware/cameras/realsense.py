"""RealSense cameras through Intel's SDK, an extra that is imported when a camera is opened."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np

from robotest.hardware.cameras.reader import Reader, imported, opened
from robotest.hardware.cameras.watch import CameraError, Frame, checked_picture
from robotest.types import Clock

SILENCE_S: Final = 1.0
"""A RealSense camera without a frame for this long counts as gone [s]."""

_POLL_MS: Final = 100  # longest wait of the driver, and so the delay of `close`
_STAMP_WRAP_S: Final = 2**32 * 1e-6  # RealSense cameras count microseconds in 32 bits: 71.6 minutes


class RealSenseCamera:
    """The colour stream of a RealSense camera.

    Stamps are those of the camera's own clock. Where the computer cannot read it (no kernel metadata) there are none,
    because the SDK's substitutes follow the wall clock.

    Args:
        name: of the camera, for messages.
        serial: number, as ``rs-enumerate-devices`` prints it.
        size: height and width [px], one of the camera's modes.
        fps: one of the camera's modes [1/s].
        clock: stamps arrivals.
        context: of pyrealsense2, e.g. one with software devices; None: a new one.
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
            CameraError: pyrealsense2 is missing, or the camera or mode does not exist; the message lists existing ones.
        """
        self.close()
        rs = imported("pyrealsense2", "realsense", "on Debian: apt-get install libusb-1.0-0")
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
        """Return the newest frame; `CameraError` if there is none or the camera stopped sending."""
        return opened(self.name, self._reader).latest()

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
    """A pipeline, used by the reader's thread."""

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
        image = np.array(colour.get_data())  # a copy: the SDK reuses its buffers
        picture = checked_picture(self._camera.name, image, self._camera.size)
        return Frame(picture, now, self._stamp(colour), int(colour.get_frame_number()))

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # it may be unplugged
            self._pipeline.stop()

    def _stamp(self, colour: Any) -> float | None:
        """Return the camera's time [s], unwrapped."""
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


def _realsense_devices(rs: Any, context: Any) -> dict[str, Any]:
    """Connected devices by serial number."""
    key = rs.camera_info.serial_number
    return {device.get_info(key): device for device in context.query_devices() if device.supports(key)}


def _modes(rs: Any, device: Any) -> list[str]:
    """Describe the colour modes of a device."""
    profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    colour = [p for p in profiles if p.stream_type() == rs.stream.color and p.format() == rs.format.rgb8]
    modes = {(p.as_video_stream_profile().width(), p.as_video_stream_profile().height(), p.fps()) for p in colour}
    return [f"{width}x{height} at {fps} fps" for width, height, fps in sorted(modes)]


def _stamp_by_device(rs: Any, device: Any) -> None:
    """Select the camera's own stamps: by default the SDK converts them to wall-clock time, which can jump."""
    for sensor in device.query_sensors():
        if sensor.supports(rs.option.global_time_enabled):
            sensor.set_option(rs.option.global_time_enabled, 0)
