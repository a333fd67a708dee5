"""Checks of an installation; each finding of a problem says how to fix it."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib
import importlib.metadata
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from robotest.errors import RobotestError
from robotest.gl import use_headless_gl

LIBRARIES = ("libEGL.so.1", "libGL.so.1", "libOpenGL.so.0")
"""System libraries that MuJoCo renders with on Linux."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: e.g. ``torch``.
        ok: whether it works.
        detail: its version or state; if it does not work, what to do.
    """

    what: str
    ok: bool
    detail: str


def examine() -> list[Finding]:
    """Check interpreter, packages, libraries, rendering, video encoding and shipped weights; never raises."""
    use_headless_gl()
    checks: dict[str, Callable[[], str]] = {
        **{name: functools.partial(_library, name) for name in (LIBRARIES if sys.platform == "linux" else ())},
        "python": lambda: sys.version.split()[0],
        "processor": lambda: f"{os.cpu_count()} cores",
        "drawing": _drawing,
        "video": _video,
        "gymnasium's robots": _gymnasium,
        "weights": _weights,
        "robosuite": _robosuite,
        "LIBERO": _libero,
        "RealMan SDK": lambda: _extra("Robotic_Arm", "realman"),
        "RealSense": lambda: _extra("pyrealsense2", "realsense"),
        "real time": _real_time,
    }
    return [*_packages(), *(_finding(what, check) for what, check in checks.items())]


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, ok=True, detail=check())
    except RobotestError as error:
        return Finding(what, ok=False, detail=str(error))
    except Exception as error:  # noqa: BLE001 - the finding reports whatever is wrong
        return Finding(what, ok=False, detail=" ".join(f"{type(error).__name__}: {error}".split()))


def _packages() -> Iterator[Finding]:
    """Check that the requirements of `robotest`, without its extras, can be imported."""
    modules: dict[str, list[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(_canonical(distribution), []).append(module)
    for requirement in importlib.metadata.requires("robotest") or ():
        name = re.split(r"[^\w.-]", requirement)[0]
        if "extra ==" not in requirement:
            yield _finding(name, functools.partial(_package, requirement, name, modules.get(_canonical(name), ())))


def _package(requirement: str, name: str, modules: Iterable[str]) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise RobotestError(f"not installed: pip install '{requirement}'") from error
    for module in [name] if name in modules else modules:
        importlib.import_module(module)
    return version


def _canonical(distribution: str) -> str:
    """Return the normalised name of a distribution (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _library(name: str) -> str:
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise RobotestError("missing: apt-get install libegl1 libgl1 libopengl0 (Debian, Ubuntu)") from error
    return "found"


def _drawing() -> str:
    """Render one white ball and check that the picture is not black."""
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1' rgba='1 1 1 1'/></worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, 32, 32)
    try:
        renderer.update_scene(data)
        if not renderer.render().any():
            raise RobotestError("pictures are black; try another MUJOCO_GL (egl, osmesa, glfw)")
    finally:
        renderer.close()
    return f"works (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'default')})"


def _video() -> str:
    import imageio_ffmpeg

    return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"


def _gymnasium() -> str:
    """Import the renderer of its MuJoCo tasks, which needs packages that gymnasium does not require."""
    importlib.import_module("gymnasium.envs.mujoco.mujoco_rendering")
    return "can be imported"


def _robosuite() -> str:
    """Return its version without importing it, which takes seconds."""
    return _optional("robosuite", "1.4.")


def _libero() -> str:
    version = _optional("hf-libero", "")
    if version == _ABSENT:
        return version
    from robotest.envs import physics
    from robotest.envs.libero import files as libero_files

    assets = libero_files.assets()
    if assets.missing:
        assets.require()
    if physics.is_changed():
        raise RobotestError(
            f"mujoco {physics.VERSION} is installed; LIBERO's published rates need < 3.4: robotest install libero"
        )
    return f"{version}, assets {assets.describe()}"


_ABSENT = "not installed (optional: robotest install libero)"


def _optional(name: str, prefix: str) -> str:
    """Return the version of an optional distribution; `RobotestError` unless it starts with `prefix`."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _ABSENT
    if not version.startswith(prefix):
        raise RobotestError(f"{name} {version} is installed; {prefix}x is required: robotest install libero")
    return version


def _extra(name: str, extra: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed (optional, for robots: pip install 'robotest[{extra}]')"


def _real_time() -> str:
    """Check whether a robot's executor may request real-time priority; changes nothing."""
    if not hasattr(os, "sched_setscheduler"):
        return "not available on this system (matters for robots only)"
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    allowed = os.geteuid() == 0 or limit > 0
    return "permitted" if allowed else "not permitted (matters for robots only: see docs/safety.md)"


def _weights() -> str:
    import robotest.policies

    files = sorted((Path(robotest.policies.__path__[0]) / "weights").glob("*/*.safetensors"))
    if not files:
        raise RobotestError("the shipped weights are missing: this installation is incomplete; reinstall robotest")
    return ", ".join(f"{f.parent.name}/{f.name} {f.stat().st_size / 1e6:.1f} MB" for f in files)
