"""Which OpenGL MuJoCo draws with. Call `use_headless_gl` before anything imports `mujoco`."""

from __future__ import annotations

import os
import sys


def use_headless_gl() -> None:
    """Make MuJoCo draw through EGL, which needs no display, unless ``MUJOCO_GL`` or a display says otherwise.

    Without this, a machine without a display (a container, a server) fails in GLFW at the first picture. Without a
    graphics card Mesa draws on the processor, and the pictures of a policy are too small to share out over threads.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
