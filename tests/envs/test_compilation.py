"""A scene with large flat meshes is compiled quickly, and to the same model."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from robotest.envs.robosuite.compilation import compile_scene

SCENE = """<mujoco><asset><mesh name="room" file="{file}" scale="2 1 1"/></asset><worldbody>
<geom name="room" type="mesh" mesh="room" contype="0" conaffinity="0"/>
<body pos="0 0 .5"><freejoint/><geom type="box" size=".1 .1 .1"/></body></worldbody></mujoco>"""


def box(file: Path, n: int, *, flat: bool = False) -> Path:
    """A box whose sides, or only its floor, are grids of `n` by `n` squares."""
    grid = [(x / n, y / n) for x in range(n + 1) for y in range(n + 1)]
    vertices: list[tuple[float, ...]] = []
    faces: list[tuple[int, ...]] = []
    for axis in [2] if flat else range(3):
        for side in (0.0,) if flat else (0.0, 1.0):
            start = len(vertices) + 1
            vertices += [(*point[:axis], side, *point[axis:]) for point in grid]
            for x in range(n):
                for y in range(n):
                    a, b = start + x * (n + 1) + y, start + (x + 1) * (n + 1) + y
                    outside = (side == 1.0) == (axis != 1)
                    both = ((a, b, b + 1), (a, b + 1, a + 1))
                    faces += both if outside else (corners[::-1] for corners in both)
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {a} {b} {c}" for a, b, c in faces]
    file.write_text("\n".join(lines) + "\n")
    return file


def different(a: mujoco.MjModel, b: mujoco.MjModel) -> set[str]:
    names = [name for name in dir(a) if not name.startswith("_") and isinstance(getattr(a, name), np.ndarray | int)]
    assert len(names) > 400
    return {name for name in names if not np.array_equal(getattr(a, name), getattr(b, name))}


def test_only_polygons_for_contacts_differ(tmp_path: Path) -> None:
    # Two files of one length of path, since MuJoCo keeps what it compiled under the name.
    slow = mujoco.MjModel.from_xml_string(SCENE.format(file=box(tmp_path / "slow.obj", 40)))
    quick = compile_scene(SCENE.format(file=box(tmp_path / "fast.obj", 40)), large_b=1)
    assert quick.nmeshface == slow.nmeshface == 6 * 2 * 40 * 40
    names = different(slow, quick)
    assert "mesh_polyvert" in names  # it did go the other way
    allowed = {"nmeshpoly", "nmeshpolyvert", "nmeshpolymap", "nbuffer", "signature", "paths"}
    assert {name for name in names if not name.startswith("mesh_poly")} <= allowed


def test_a_mesh_without_a_hull_is_compiled_all_the_same(tmp_path: Path) -> None:
    flat = SCENE.format(file=box(tmp_path / "flat.obj", 4, flat=True))
    with pytest.raises(ValueError, match=r"inertia|volume|hull|coplanar"):  # neither way
        mujoco.MjModel.from_xml_string(flat)
    shell = flat.replace('scale="2 1 1"', 'scale="2 1 1" inertia="shell"')
    assert different(mujoco.MjModel.from_xml_string(shell), compile_scene(shell, large_b=1)) <= {"signature"}
