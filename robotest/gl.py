"""Choose MuJoCo's OpenGL backend. Call `use_headless_gl` before anything imports `mujoco`."""

from __future__ import annotations

import os
import sys


def use_headless_gl() -> None:
    """Make MuJoCo render with EGL, which needs no display, unless ``MUJOCO_GL`` or ``DISPLAY`` is set.

    Without this, rendering fails in GLFW on a machine without a display (a container, a server). Without a GPU Mesa
    renders on the CPU, and a policy's pictures are too small to gain from more than one thread.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
