"""Which OpenGL MuJoCo draws with. Call `use_headless_gl` before anything imports `mujoco`."""

from __future__ import annotations

import os
import sys


def use_headless_gl() -> None:
    """Make MuJoCo draw through EGL, which needs no display, unless ``MUJOCO_GL`` or a display says otherwise.

    Without this, a machine without a display (a container, a server) fails in GLFW at the first picture.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
