"""Rendering of a MuJoCo scene in a separate GL context.

The current GL context belongs to the thread, not to an object: rendering, reading or freeing while another context is
current silently uses, or destroys, the other's picture. robosuite 1.4 never makes its context current after building
it, so two of its environments in one process show each other's scenes. Here a context is made current before every use.
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from jaxtyping import UInt8
from mujoco.gl_context import GLContext

_MAX_GEOMS = 5000
_UPLOADED = ("mesh_", "tex_", "hfield_", "skin_")
"""Prefixes of model fields that are uploaded to a GL context; all others are read for every picture."""
_COLLISIONS = "mesh_poly"
"""Prefix of fields used for contacts only, which differ slightly between compilations."""


class Pictures:
    """Renders the cameras of one compiled model.

    Args:
        model: its meshes and textures are uploaded now; positions and colours are read for every picture.
        geom_groups: groups of geoms to render; robosuite has collision geoms in 0 and visual geoms in 1.
    """

    def __init__(self, model: mujoco.MjModel, geom_groups: tuple[int, ...] = (0, 1, 2)) -> None:
        self._uploaded = _uploaded(model)
        self._height, self._width = model.vis.global_.offheight, model.vis.global_.offwidth
        self._gl = GLContext(self._width, self._height)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[list(geom_groups)] = 1
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        with self._current():
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        # atexit runs in reverse order, so this precedes the display's termination; `finalize` alone would be too late.
        self._free.atexit = False
        atexit.register(self._free)

    def render(
        self, model: mujoco.MjModel, data: mujoco.MjData, camera: int, height: int, width: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return a camera's picture, row 0 at the top.

        Args:
            model: that of the constructor, or a copy of it.
            data: with up to date positions.
            camera: its number in the model.
            height: of the picture [px].
            width: of the picture [px].
        """
        picture = np.empty((height, width, 3), np.uint8)
        frame = mujoco.MjrRect(0, 0, width, height)
        with self._current():
            if height > self._height or width > self._width:
                self._height, self._width = max(height, self._height), max(width, self._width)
                mujoco.mjr_resizeOffscreen(self._width, self._height, self._context)
            self._camera.fixedcamid = camera
            everything = mujoco.mjtCatBit.mjCAT_ALL
            mujoco.mjv_updateScene(model, data, self._option, self._perturb, self._camera, everything, self._scene)
            mujoco.mjr_render(frame, self._scene, self._context)
            mujoco.mjr_readPixels(picture, None, frame, self._context)
        return np.ascontiguousarray(picture[::-1])

    def fits(self, model: mujoco.MjModel) -> bool:
        """Return whether another model has the same meshes and textures, so that it can be rendered too."""
        other = _uploaded(model)
        return all(np.array_equal(array, other[name]) for name, array in self._uploaded.items())

    def close(self) -> None:
        """Free the resources in the GL context, then the context."""
        self._free()
        atexit.unregister(self._free)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        self._gl.make_current()
        yield


def _uploaded(model: mujoco.MjModel) -> dict[str, np.ndarray[Any, Any]]:
    names = (name for name in dir(model) if name.startswith(_UPLOADED) and not name.startswith(_COLLISIONS))
    return {name: getattr(model, name) for name in names}


def _free(gl: GLContext, context: mujoco.MjrContext) -> None:
    gl.make_current()
    context.free()
    gl.free()
