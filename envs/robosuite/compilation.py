"""Scenes of other people's meshes, compiled without the minutes that some of those meshes cost.

MuJoCo joins the faces of a mesh that lie in one plane into polygons, for contacts, and takes time with the square of
their number. LIBERO's rooms are boxes of 196,608 faces, most of the time that a first scene takes, for walls that
nothing can touch. A mesh with a convex hull gets the polygons of the hull instead, in no time, and MuJoCo keeps
compiled meshes for the whole process. So a large one is compiled alone first, as if things could touch it, and more is
kept than MuJoCo would. Of the scene nothing else changes (`tests/envs/test_compilation.py`).
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from xml.etree import ElementTree as ET

import mujoco

_LARGE_B = 4_000_000
"""Files from here on are compiled alone first; a smaller mesh takes MuJoCo a second at most."""
_KEPT_B = 2_000_000_000
"""What MuJoCo may keep of meshes and textures; libero_10 needs half of it, and with MuJoCo's 500 MB starts again."""
_ALONE = '<mujoco><asset>{mesh}</asset><worldbody><geom type="mesh" mesh="{name}"/></worldbody></mujoco>'
_log = logging.getLogger(__name__)


def compile_scene(xml: str, large_b: int = _LARGE_B) -> mujoco.MjModel:
    """Return the model of a scene, whose meshes are given by absolute paths.

    Args:
        xml: of the scene.
        large_b: size of the file [B] from which a mesh is compiled alone first.

    Raises:
        ValueError: MuJoCo does not take it.
    """
    kept = mujoco.mj_getCache()
    mujoco.mj_setCacheCapacity(kept, max(_KEPT_B, mujoco.mj_getCacheCapacity(kept)))
    for mesh in ET.fromstring(xml).iterfind("asset/mesh"):  # noqa: S314 - MuJoCo reads the same text next
        file = Path(mesh.get("file", ""))
        if file.is_absolute() and file.is_file() and file.stat().st_size >= large_b:
            mesh.tail = None
            _give_hull(ET.tostring(mesh, "unicode"), mesh.get("name", file.stem))
    return mujoco.MjModel.from_xml_string(xml)


@functools.lru_cache(None)
def _give_hull(mesh: str, name: str) -> None:
    try:
        mujoco.MjModel.from_xml_string(_ALONE.format(mesh=mesh, name=name))
    except ValueError as error:  # a mesh that has no hull, all in one plane for one; the scene may not need it
        _log.info("mesh %s: %s", name, error)
