"""Fast compilation of scenes with large meshes.

For contacts MuJoCo merges coplanar faces of a mesh into polygons, in time quadratic in their number. LIBERO's rooms are
boxes of 196,608 faces; they take most of a first scene's compilation, for walls that nothing can touch. A mesh with a
convex hull gets the polygons of its hull instead, which is immediate, and MuJoCo caches compiled meshes for the whole
process. So each large mesh is first compiled alone, as a collision geom, and MuJoCo's cache is enlarged. The compiled
scene is otherwise the same (`tests/envs/test_compilation.py`).
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from xml.etree import ElementTree as ET

import mujoco

_LARGE_B = 4_000_000
"""Meshes of files of at least this size are compiled alone first; smaller ones take a second at most."""
_CACHE_B = 2_000_000_000
"""Capacity of MuJoCo's cache; libero_10 needs half of it and does not fit in MuJoCo's default of 500 MB."""
_ALONE = '<mujoco><asset>{mesh}</asset><worldbody><geom type="mesh" mesh="{name}"/></worldbody></mujoco>'
_log = logging.getLogger(__name__)


def compile_scene(xml: str, large_b: int = _LARGE_B) -> mujoco.MjModel:
    """Compile a scene.

    Args:
        xml: MJCF of the scene; large meshes are recognised only by absolute paths.
        large_b: file size from which a mesh is compiled alone first [B].

    Raises:
        xml.etree.ElementTree.ParseError: `xml` is not well-formed.
        ValueError: MuJoCo cannot compile it.
    """
    cache = mujoco.mj_getCache()
    mujoco.mj_setCacheCapacity(cache, max(_CACHE_B, mujoco.mj_getCacheCapacity(cache)))
    for mesh in ET.fromstring(xml).iterfind("asset/mesh"):  # noqa: S314 - MuJoCo reads the same text next
        file = Path(mesh.get("file", ""))
        if file.is_absolute() and file.is_file() and file.stat().st_size >= large_b:
            mesh.tail = None
            _cache_with_hull(ET.tostring(mesh, "unicode"), mesh.get("name", file.stem))
    return mujoco.MjModel.from_xml_string(xml)


@functools.lru_cache(None)
def _cache_with_hull(mesh: str, name: str) -> None:
    try:
        mujoco.MjModel.from_xml_string(_ALONE.format(mesh=mesh, name=name))
    except ValueError as error:  # e.g. a planar mesh, which has no hull; the scene may not need one
        _log.info("mesh %s: %s", name, error)
