"""A film instead of a camera."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import imageio_ffmpeg
import numpy as np

from robotest.hardware.cameras.watch import CameraError, Frame
from robotest.types import Clock

_CATCHING_UP: Final = 3
"""Attempts to catch up with the clock, which goes on during decoding; a film that decodes too slowly stays late."""


class ReplayCamera:
    """Plays a film at its own rate; frames that are not read in time are skipped, as a camera's are.

    Frame k arrives k frame times after `open` and is stamped with its time in the film. In a loop, stamps and numbers
    keep increasing.

    Args:
        name: of the camera, for messages.
        path: a film that ffmpeg can read.
        clock: for the rate.
        loop: start again at the end, instead of raising an error.
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
        """Start from the beginning; `CameraError` if the film is missing or cannot be read."""
        self.close()
        _ = self._film  # read the header before the clock starts: it takes a while
        self._decoder = self._decode()
        self._started_s, self._number, self._frame = self._clock.now(), -1, None

    def latest(self) -> Frame:
        """Return the frame that is due; `CameraError` after the last one."""
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
        # ffmpeg loops by itself: restarting it would delay the first frame.
        loop = ["-stream_loop", "-1"] if self.loop else []
        command = [*self._ffmpeg(loop), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603 - ffmpeg

    def _ffmpeg(self, options: Sequence[str] = ()) -> list[str]:
        return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *options, "-i", str(self.path)]


@dataclasses.dataclass(frozen=True)
class _Film:
    """A film's header: sizes [px], frames per second [1/s]."""

    height: int
    width: int
    fps: float
