"""The scene of `tabletop`: robosuite's Panda and objects from its wheel, cheap to render.

Nearly all of the rendering time of robosuite's own scenes goes into the 170,000 triangles of the arm and its pedestal,
into reflections, and into four samples per pixel. Here the arm is rendered by its convex collision hulls, without
reflections and multisampling.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, Final

import mujoco
import numpy as np
from jaxtyping import Float64

from robotest.envs.robosuite.world import RobosuiteWorld, import_robosuite
from robotest.envs.tabletop.tasks import FIXTURES, Goal, Scene

robosuite: Final = import_robosuite()

from robosuite.environments.manipulation.single_arm_env import SingleArmEnv  # noqa: E402 - after the contained import
from robosuite.models.arenas import TableArena  # noqa: E402
from robosuite.models.objects import BoxObject, BreadObject, CanObject, MilkObject  # noqa: E402
from robosuite.models.tasks import ManipulationTask  # noqa: E402

TABLE_M: Final = np.array([0.0, 0.0, 0.8])
"""Middle of the table top in the world."""
RIM_M: Final = {"tray": 0.025, "basket": 0.06}
"""Height of a fixture's rim above the table."""
HALF_M: Final = {"tray": (0.105, 0.08), "basket": (0.085, 0.085)}
"""Half length and half width inside a fixture's rim."""
PLATE_M: Final = (0.065, 0.006)
"""Radius, and half the height."""
_WALL_M = 0.005
_SLOW_M_S = 0.05
_DETAILED = ("robot0_link0", "robot0_link1")
_CUBE_M, _BLOCK_M = 0.02, 0.027
_COLOURS = {
    "blue": (0.15, 0.30, 0.85, 1.0),
    "yellow": (0.95, 0.80, 0.15, 1.0),
    "tray": (0.45, 0.30, 0.18, 1.0),
    "basket": (0.75, 0.58, 0.35, 1.0),
    "plate": (0.20, 0.55, 0.45, 1.0),
    "arm": (0.90, 0.92, 0.93, 1.0),
    "pedestal": (0.25, 0.25, 0.27, 1.0),
}
_MAKERS: Final = {
    "can": lambda: CanObject("can"),
    "milk": lambda: MilkObject("milk"),
    "bread": lambda: BreadObject("bread"),
    "cube": lambda: _box("cube", _CUBE_M, "yellow"),
    "cube_beside": lambda: _box("cube_beside", _CUBE_M, "blue"),
    "cube_behind": lambda: _box("cube_behind", _CUBE_M, "blue"),
    "blue_cube": lambda: _box("blue_cube", _CUBE_M, "blue"),
    "yellow_block": lambda: _box("yellow_block", _BLOCK_M, "yellow"),
}


class TabletopWorld(RobosuiteWorld):
    """A scene with a Panda.

    Args:
        scene: what is on the table.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        super().__init__(lambda **others: _Tabletop(scene, **others))

    def place(self, start: Float64[np.ndarray, "things 3"]) -> None:
        """Place every object upright at its start pose: x [m], y [m], yaw [rad]; see `Scene.start`."""
        for thing, (x, y, turn) in zip(self._scene.things, start, strict=True):
            body = self.model.body(root_body(thing))
            half = np.array([np.cos(turn / 2), 0.0, 0.0, np.sin(turn / 2)])
            if thing in FIXTURES:
                body.pos[:] = np.add(TABLE_M, (x, y, 0.0))
                body.quat[:] = half
            else:
                place = np.add(TABLE_M, (x, y, -self._lowest(body.id)))
                self.data.qpos[self.model.jnt_qposadr[body.jntadr[0]] :][:7] = [*place, *half]
        mujoco.mj_forward(self.model, self.data)

    def reached(self, goal: Goal) -> bool:
        """Return whether an object is in or on its target, at rest, and released."""
        thing, target = (self.data.body(root_body(name)) for name in (goal.thing, goal.target))
        away = target.xmat.reshape(3, 3).T @ (thing.xpos - target.xpos)
        speed = float(np.linalg.norm(thing.cvel[3:]))
        if speed > _SLOW_M_S or self._touch(goal.thing, None):
            return False
        if goal.relation == "in":
            half = HALF_M[goal.target]
            inside = abs(away[0]) < half[0] and abs(away[1]) < half[1]
            return bool(inside and away[2] + self._lowest(thing.id) < RIM_M[goal.target])
        radius = PLATE_M[0] if goal.target == "plate" else _BLOCK_M
        return bool(np.hypot(away[0], away[1]) < radius and away[2] > 0.0 and self._touch(goal.thing, goal.target))

    def _touch(self, thing: str, other: str | None) -> bool:
        """Return whether an object touches another, or the robot if `other` is None."""
        model = self.model
        pairs = model.body_rootid[model.geom_bodyid[self.data.contact.geom]]
        bodies = [model.body(root_body(thing)).id, model.body(root_body(other) if other else "robot0_base").rootid[0]]
        return bool((np.sort(pairs, 1) == np.sort(bodies)).all(1).any())

    def _lowest(self, body: int) -> float:
        """Return the height of an upright object's lowest point relative to its origin [m]."""
        model, rotation, lowest = self.model, np.empty(9), []
        for geom in np.flatnonzero((model.body_rootid[model.geom_bodyid] == body) & (model.geom_contype > 0)):
            mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            middle, half = model.geom_aabb[geom].reshape(2, 3)
            lowest.append(model.geom_pos[geom, 2] + rotation[6:] @ middle - np.abs(rotation[6:]) @ half)
        return float(min(lowest))


def root_body(thing: str) -> str:
    """Return the name of an object's root body."""
    return thing if thing in FIXTURES else f"{thing}_main"


class _Tabletop(SingleArmEnv):  # type: ignore[misc]  # robosuite has no types
    """The robosuite environment of a scene; its reward and success are not used."""

    def __init__(self, scene: Scene, **others: Any) -> None:
        self._scene = scene
        super().__init__(
            robots=["Panda"],
            controller_configs=robosuite.load_controller_config(default_controller="OSC_POSE"),
            initialization_noise=None,
            **others,
        )

    def reward(self, action: Any = None) -> float:  # noqa: ARG002 - robosuite's signature
        """Return 0."""
        return 0.0

    def _check_success(self) -> bool:
        return False

    def _load_model(self) -> None:
        super()._load_model()
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](0.8))
        arena = TableArena(table_offset=TABLE_M, has_legs=False)
        arena.set_origin([0, 0, 0])
        for thing in self._scene.things:
            if thing in FIXTURES:
                arena.worldbody.append(_fixture(thing))
        things = [_MAKERS[thing]() for thing in self._scene.things if thing not in FIXTURES]
        arena.set_camera("agentview", pos=[0.57, 0.0, 1.43], quat=[0.653, 0.271, 0.271, 0.653])
        self.model = _Model(arena, [robot], things)
        _draw_cheaply(self.model.root)


class _Model(ManipulationTask):  # type: ignore[misc]  # robosuite has no types
    def generate_id_mappings(self, sim: Any) -> None:
        """Skip: the mappings serve segmentation, and would miss the removed geoms."""


def _box(name: str, half: float, colour: str) -> Any:
    return BoxObject(name, size=[half] * 3, rgba=_COLOURS[colour], density=400)


def _fixture(name: str) -> ET.Element:
    """Return a body that stands on the table: a plate, or a floor with a rim."""
    body = ET.Element("body", name=name, pos="0 0 0")
    if name == "plate":
        radius, half = PLATE_M
        _add(body, name, 0, "cylinder", (radius, half), (0.0, 0.0, half))
        return body
    (length, width), rim = HALF_M[name], RIM_M[name] / 2
    walls = [
        ((length + _WALL_M, width + _WALL_M, _WALL_M / 2), (0.0, 0.0, _WALL_M / 2)),
        *(((_WALL_M / 2, width + _WALL_M, rim), (s * (length + _WALL_M / 2), 0.0, rim)) for s in (-1, 1)),
        *(((length + _WALL_M, _WALL_M / 2, rim), (0.0, s * (width + _WALL_M / 2), rim)) for s in (-1, 1)),
    ]
    for number, (size, pos) in enumerate(walls):
        _add(body, name, number, "box", size, pos)
    return body


def _add(
    body: ET.Element, name: str, number: int, kind: str, size: tuple[float, ...], pos: tuple[float, float, float]
) -> None:
    """Add a shape twice: robosuite has collision geoms in group 0 and visual geoms in group 1."""
    shape = {"type": kind, "size": _text(size), "pos": _text(pos), "rgba": _text(_COLOURS[name])}
    ET.SubElement(body, "geom", {**shape, "name": f"{name}_{number}", "group": "0"})
    visual = {**shape, "name": f"{name}_{number}_visual", "group": "1", "contype": "0", "conaffinity": "0"}
    ET.SubElement(body, "geom", visual)


def _draw_cheaply(root: ET.Element) -> None:
    """Remove from a scene what is slow to render and irrelevant to the tasks."""
    visual = root.find("visual")
    assert visual is not None
    ET.SubElement(visual, "quality", offsamples="0", shadowsize="0")
    ET.SubElement(visual, "global", offwidth="256", offheight="256")
    ET.SubElement(visual, "headlight", ambient="0.35 0.35 0.35", diffuse="0.35 0.35 0.35", specular="0 0 0")
    _draw_hulls(root)
    for material in root.iter("material"):
        material.set("reflectance", "0")
    for light in root.iter("light"):
        light.set("castshadow", "false")


def _draw_hulls(root: ET.Element) -> None:
    """Replace the robot's detailed visual meshes, except the fingers', by copies of its collision geoms.

    Two links have detailed collision meshes too; they are rarely visible, like the pedestal, and become cylinders.
    """
    for body in root.iter("body"):
        for geom in body.findall("geom"):
            name = geom.get("name", "")
            if not name.startswith(("robot0_", "gripper0_", "mount0_")) or "finger" in name:
                continue
            if geom.get("group") == "1":
                body.remove(geom)
                continue
            colour = "pedestal" if name.startswith("mount0_") else "arm"
            drawn = {**geom.attrib, "name": f"{name}_hull", "group": "1", "contype": "0", "conaffinity": "0"}
            if geom.get("mesh") in _DETAILED:
                drawn["type"] = "cylinder"
            ET.SubElement(body, "geom", {**drawn, "rgba": _text(_COLOURS[colour])})
    assets = root.find("asset")
    assert assets is not None
    used = {geom.get("mesh") for geom in root.iter("geom")}
    for mesh in assets.findall("mesh"):
        if mesh.get("name") not in used:
            assets.remove(mesh)


def _text(numbers: tuple[float, ...]) -> str:
    return " ".join(map(str, numbers))
