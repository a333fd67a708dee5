"""Frames without a camera: films, rendered scenes, and a wrapper that breaks what it wraps; and cameras from tables."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from robotest.clock import WallClock
from robotest.errors import UnknownNameError
from robotest.hardware.cameras.drivers import FIRST_FRAME_S, RealSenseCamera, V4l2Camera
from robotest.hardware.cameras.watch import Camera, CameraError, Frame, checked_picture
from robotest.types import Clock

_CATCHING_UP: Final = 3
"""How often a film catches up with a clock that goes on meanwhile: one that is read slower than it plays stays late."""


class ReplayCamera:
    """Plays a film at its own rate; frames that nobody asked for in time are passed over, as a camera's are.

    Frame k arrives k frame times after `open` and is stamped with its place in the film; stamps and numbers count on
    where the film starts again.

    Args:
        name: what messages call it.
        path: a film that ffmpeg reads.
        clock: plays it.
        loop: start again at the end, which is an error otherwise.
    """

    def __init__(self, name: str, path: Path, clock: Clock, *, loop: bool = False) -> None:
        self.name, self.path, self.loop = name, path, loop
        self._clock = clock
        self._decoder: subprocess.Popen[bytes] | None = None
        self._frame: Frame | None = None
        self._started_s, self._number = 0.0, -1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the film [px]; `CameraError` if it cannot be read."""
        return self._film.height, self._film.width

    @property
    def fps(self) -> float:
        """Frames per second of the film [1/s]; `CameraError` if it cannot be read."""
        return self._film.fps

    def open(self) -> None:
        """Start at the film's beginning; `CameraError` if it is missing or cannot be read."""
        self.close()
        _ = self._film  # before the clock starts: reading the header takes a while
        self._decoder = self._decode()
        self._started_s, self._number, self._frame = self._clock.now(), -1, None

    def latest(self) -> Frame:
        """Return the frame that is due; `CameraError` at the film's end."""
        if self._decoder is None:
            raise CameraError(f"camera {self.name!r} is not open: call open() first")
        pixels = None
        for _ in range(_CATCHING_UP):
            due = math.floor((self._clock.now() - self._started_s) * self.fps + 1e-6)  # k/fps*fps may be just below k
            while self._number < due:
                pixels = self._next()
                self._number += 1
        if pixels is not None:
            image = np.frombuffer(pixels, np.uint8).reshape(*self.size, 3)
            place_s = self._number / self.fps
            self._frame = Frame(image, self._started_s + place_s, place_s, self._number)
        assert self._frame is not None
        return self._frame

    def close(self) -> None:
        """Close the film; may be called twice."""
        if self._decoder is not None:
            self._decoder.kill()
            with self._decoder:  # closes its pipe and waits for it
                self._decoder = None

    @functools.cached_property
    def _film(self) -> _Film:
        if not self.path.is_file():
            raise CameraError(f"camera {self.name!r}: there is no file {self.path}; give the path of a film")
        first_frame = ["-frames:v", "1", "-f", "yuv4mpegpipe", "-pix_fmt", "yuv420p", "-"]
        done = subprocess.run([*self._ffmpeg(), *first_frame], capture_output=True, check=False)  # noqa: S603 - ffmpeg
        header = re.match(rb"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+) ", done.stdout)
        if header is None:
            raise CameraError(f"camera {self.name!r}: {self.path} is not a film that ffmpeg reads; give an mp4")
        width, height, frames, seconds = map(int, header.groups())
        return _Film(height, width, frames / seconds)

    def _next(self) -> bytes:
        pixels = self._read()
        if pixels is None:
            raise CameraError(
                f"camera {self.name!r}: {self.path} ended after {self._number + 1} frames; give a longer film, "
                "or loop = true"
            )
        return pixels

    def _read(self) -> bytes | None:
        assert self._decoder is not None
        assert self._decoder.stdout is not None
        length = self._film.height * self._film.width * 3
        pixels = self._decoder.stdout.read(length)
        return pixels if len(pixels) == length else None

    def _decode(self) -> subprocess.Popen[bytes]:
        # ffmpeg loops by itself: starting it anew would make the first frame late.
        loop = ["-stream_loop", "-1"] if self.loop else []
        command = [*self._ffmpeg(loop), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603 - ffmpeg

    def _ffmpeg(self, options: Sequence[str] = ()) -> list[str]:
        return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *options, "-i", str(self.path)]


@dataclasses.dataclass(frozen=True)
class _Film:
    """What a film's header says: sizes [px], frames per second [1/s]."""

    height: int
    width: int
    fps: float


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


@dataclasses.dataclass(frozen=True)
class Faults:
    """What is wrong with a camera.

    Attributes:
        freeze: the same frame is given again and again.
        repeat: frames with fresh numbers and times of arrival show the same picture and keep their device stamp.
        drop: no frame comes.
        clock_jump_s: added to device stamps [s].
        late_s: a frame is handed over that long after it arrived [s].
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
        camera: the one that works.
        clock: what waits.
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
        faults = self.faults  # another thread may switch them
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


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Keys of a table besides ``kind``, and how to build a camera of them."""

    build: Callable[[str, Mapping[str, Any], Clock], Camera]
    required: Mapping[str, type]
    optional: Mapping[str, type] = dataclasses.field(default_factory=dict)


def camera_from(table: Mapping[str, Any], name: str, clock: Clock | None = None) -> Camera:
    """Build a camera from a table of a TOML file; nothing is opened yet.

    ``{kind = "realsense", serial = "...", width = 640, height = 480, fps = 30}``,
    ``{kind = "v4l2", device = "/dev/video0", width = 640, height = 480, fps = 30}``, with ``fourcc`` if not MJPG, or
    ``{kind = "replay", path = "film.mp4"}``, with ``loop = true`` or not.

    Args:
        table: as TOML reads it.
        name: what messages call the camera.
        clock: stamps arrivals; real time if not given.

    Raises:
        UnknownNameError: the kind or a key is not known.
        CameraError: a key is missing, or its value is of a wrong kind.
    """
    if "kind" not in table:
        raise CameraError(f"camera {name!r} has no kind; give kind = one of {', '.join(map(repr, sorted(_KINDS)))}")
    called = str(table["kind"])
    if called not in _KINDS:
        raise UnknownNameError("kind of camera", called, _KINDS)
    kind = _KINDS[called]
    known = {**kind.required, **kind.optional}
    given = {key: value for key, value in table.items() if key != "kind"}
    for key, value in given.items():
        if key not in known:
            raise UnknownNameError(f"key of {called} camera", key, known)
        _check_value(name, key, value, known[key])
    missing = [key for key in kind.required if key not in given]
    if missing:
        raise CameraError(f"camera {name!r} lacks {', '.join(missing)}: a {called} camera needs them")
    return kind.build(name, given, clock or WallClock())


def _check_value(name: str, key: str, value: Any, wanted: type) -> None:
    fits = type(value) is wanted  # a bool is an int, too
    if not fits or (isinstance(value, int) and wanted is int and value <= 0):
        raise CameraError(f"camera {name!r} has {key} = {value!r}; {key} must be {_IN_WORDS[wanted]}")


def _realsense(name: str, given: Mapping[str, Any], clock: Clock) -> Camera:
    return RealSenseCamera(name, given["serial"], (given["height"], given["width"]), given["fps"], clock)


def _v4l2(name: str, given: Mapping[str, Any], clock: Clock) -> Camera:
    size, fourcc = (given["height"], given["width"]), given.get("fourcc", "MJPG")
    if len(fourcc) != 4:
        raise CameraError(f"camera {name!r} has fourcc = {fourcc!r}; give four letters, such as 'MJPG' or 'YUYV'")
    return V4l2Camera(name, given["device"], size, given["fps"], clock, fourcc)


def _replay(name: str, given: Mapping[str, Any], clock: Clock) -> Camera:
    return ReplayCamera(name, Path(given["path"]), clock, loop=given.get("loop", False))


_IN_WORDS: Final = {str: "words in quotes", int: "a whole number above 0", bool: "true or false"}
_MODE: Final = {"width": int, "height": int, "fps": int}
_KINDS: Final[Mapping[str, _Kind]] = {
    "realsense": _Kind(_realsense, {"serial": str, **_MODE}),
    "v4l2": _Kind(_v4l2, {"device": str, **_MODE}, {"fourcc": str}),
    "replay": _Kind(_replay, {"path": str}, {"loop": bool}),
}
