"""Cameras from the tables of ``robot.toml``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from robotest.clock import WallClock
from robotest.errors import UnknownNameError
from robotest.hardware.cameras.realsense import RealSenseCamera
from robotest.hardware.cameras.replay import ReplayCamera
from robotest.hardware.cameras.v4l2 import V4l2Camera
from robotest.hardware.cameras.watch import Camera, CameraError
from robotest.types import Clock


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How to build a kind of camera, and the keys of its table besides ``kind``."""

    build: Callable[[str, Mapping[str, Any], Clock], Camera]
    required: Mapping[str, type]
    optional: Mapping[str, type] = dataclasses.field(default_factory=dict)


def camera_from(table: Mapping[str, Any], name: str, clock: Clock | None = None) -> Camera:
    """Build a camera from a table of a TOML file, without opening it.

    ``{kind = "realsense", serial = "...", width = 640, height = 480, fps = 30}``,
    ``{kind = "v4l2", device = "/dev/video0", width = 640, height = 480, fps = 30}``, with ``fourcc`` if not MJPG, or
    ``{kind = "replay", path = "film.mp4"}``, with ``loop = true`` or not.

    Args:
        table: as TOML reads it.
        name: of the camera, for messages.
        clock: stamps arrivals; None: real time.

    Raises:
        UnknownNameError: the kind or a key is unknown.
        CameraError: a key is missing, or a value has the wrong type.
    """
    if "kind" not in table:
        raise CameraError(f"camera {name!r} has no kind; give kind = one of {', '.join(map(repr, sorted(_KINDS)))}")
    kind_name = str(table["kind"])
    if kind_name not in _KINDS:
        raise UnknownNameError("kind of camera", kind_name, _KINDS)
    kind = _KINDS[kind_name]
    known = {**kind.required, **kind.optional}
    options = {key: value for key, value in table.items() if key != "kind"}
    for key, value in options.items():
        if key not in known:
            raise UnknownNameError(f"key of {kind_name} camera", key, known)
        _check_value(name, key, value, known[key])
    missing = [key for key in kind.required if key not in options]
    if missing:
        raise CameraError(f"camera {name!r} lacks {', '.join(missing)}: a {kind_name} camera needs them")
    return kind.build(name, options, clock or WallClock())


def _check_value(name: str, key: str, value: Any, kind: type) -> None:
    fits = type(value) is kind  # isinstance would take a bool for an int
    if not fits or (kind is int and value <= 0):
        raise CameraError(f"camera {name!r} has {key} = {value!r}; {key} must be {_IN_WORDS[kind]}")


def _realsense(name: str, options: Mapping[str, Any], clock: Clock) -> Camera:
    return RealSenseCamera(name, options["serial"], (options["height"], options["width"]), options["fps"], clock)


def _v4l2(name: str, options: Mapping[str, Any], clock: Clock) -> Camera:
    size, fourcc = (options["height"], options["width"]), options.get("fourcc", "MJPG")
    if len(fourcc) != 4:
        raise CameraError(f"camera {name!r} has fourcc = {fourcc!r}; give four letters, such as 'MJPG' or 'YUYV'")
    return V4l2Camera(name, options["device"], size, options["fps"], clock, fourcc)


def _replay(name: str, options: Mapping[str, Any], clock: Clock) -> Camera:
    return ReplayCamera(name, Path(options["path"]), clock, loop=options.get("loop", False))


_IN_WORDS: Final = {str: "text in quotes", int: "an integer above 0", bool: "true or false"}
_MODE: Final = {"width": int, "height": int, "fps": int}
_KINDS: Final[Mapping[str, _Kind]] = {
    "realsense": _Kind(_realsense, {"serial": str, **_MODE}),
    "v4l2": _Kind(_v4l2, {"device": str, **_MODE}, {"fourcc": str}),
    "replay": _Kind(_replay, {"path": str}, {"loop": bool}),
}
