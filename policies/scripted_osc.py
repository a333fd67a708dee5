"""Scripted experts for one Panda arm under OSC_POSE control: pick up a thing and put it on or into another.

They see the true state of the world and act in closed loop, one action per control step. What is to be grasped where is
computed from the collision shapes, so that one expert serves LIBERO's objects and those of `tabletop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

import mujoco
import numpy as np
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from robotest.envs.robosuite_world import POSITION_SCALE_M, ROTATION_SCALE_RAD, RobosuiteWorld
from robotest.policies.styles import Style

Script = Iterator[Float32[np.ndarray, " 7"]]

OPEN: Final = -1.0
CLOSED: Final = 1.0
JAW_M: Final = 0.072
"""Widest thing that is grasped across its middle [m]; wider ones are grasped at their rim."""
HOVER_M: Final = 0.07  # above what is to be grasped
DEPTH_M: Final = 0.03  # of a grasp, below the top of the thing
FLOOR_M: Final = 0.008  # lowest grasp above what the thing stands on
RIM_INSET_M: Final = 0.012  # of a grasp over the rim, which leans outwards
RIM_DEPTH_M: Final = 0.024
CLEARANCE_M: Final = 0.045  # between a carried thing and what it passes over
GAIN: Final = 0.9
FAST: Final = 0.9  # of the largest action
TOLERANCE_M: Final = 0.012
GRIP_STEPS: Final = 10
_YAWS = np.deg2rad(np.arange(-90, 91, 10))
_STRAIGHT_M = 0.002  # width that is given up for 10 degrees less to turn
_STEPS = 60  # that a movement may take
_SIDE_M = 0.10  # free space wanted beside a rim


@dataclasses.dataclass(frozen=True)
class Grasp:
    """Where the gripper closes: position [m], turn about the vertical from the start pose [rad]."""

    position: Float64[np.ndarray, " 3"]
    yaw: float


class Shape:
    """The corner points of a thing's collision shapes, in its body's frame.

    Args:
        world: where it is.
        body: name of its root body.
    """

    def __init__(self, world: RobosuiteWorld, body: str) -> None:
        self._world = world
        model, data = world.model, world.data
        self._body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)
        corners = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1))).reshape(3, 8).T
        points = []
        for geom in range(model.ngeom):
            own = model.body_rootid[model.geom_bodyid[geom]] == model.body_rootid[self._body]
            if own and (model.geom_contype[geom] or model.geom_conaffinity[geom]):
                box = model.geom_aabb[geom]
                inside = box[:3] + corners * box[3:]
                points.append(data.geom_xpos[geom] + inside @ data.geom_xmat[geom].reshape(3, 3).T)
        rotation = data.xmat[self._body].reshape(3, 3)
        self._points = (np.concatenate(points) - data.xpos[self._body]) @ rotation

    @property
    def points(self) -> Float64[np.ndarray, "n 3"]:
        """Where the corners are now [m]."""
        data = self._world.data
        points: Float64[np.ndarray, "n 3"] = (
            data.xpos[self._body] + self._points @ data.xmat[self._body].reshape(3, 3).T
        )
        return points

    @property
    def middle(self) -> Float64[np.ndarray, " 3"]:
        """Middle of the box around it [m]."""
        points = self.points
        middle: Float64[np.ndarray, " 3"] = (points.min(0) + points.max(0)) / 2
        return middle

    @property
    def top(self) -> float:
        """Its highest point [m]."""
        return float(self.points[:, 2].max())

    @property
    def bottom(self) -> float:
        """Its lowest point [m]."""
        return float(self.points[:, 2].min())


class Arm:
    """One arm's vocabulary: every method is a script that starts where the last one ended.

    Args:
        world: whose first robot it is, at its start pose.
        style: how it deviates from the plain way.
        rng: draws what a style leaves open.
    """

    def __init__(self, world: RobosuiteWorld, style: Style, rng: np.random.Generator) -> None:
        self._world, self._style, self._rng = world, style, rng
        self._start = self._rotation()
        self._gripper = OPEN
        jaw = self._pad("finger1_pad_collision") - self._pad("finger2_pad_collision")
        self._jaw = float(np.arctan2(jaw[1], jaw[0]))

    @property
    def position(self) -> Float64[np.ndarray, " 3"]:
        """Where the gripper is [m]."""
        position: Float64[np.ndarray, " 3"] = self._world.data.site_xpos[self._world.env.robots[0].eef_site_id].copy()
        return position

    def move(self, goal: Float64[np.ndarray, " 3"], yaw: float, tolerance: float = TOLERANCE_M) -> Script:
        """Go straight to a position [m] and a turn from the start pose [rad]."""
        target = Rotation.from_euler("z", yaw) * self._start
        for _ in range(_STEPS):
            way = goal - self.position
            turn = (target * self._rotation().inv()).as_rotvec()
            if np.linalg.norm(way) < tolerance and np.linalg.norm(turn) < 0.1:
                return
            yield self._action(way, turn)

    def grip(self, gripper: float, steps: int = GRIP_STEPS) -> Script:
        """Open or close and give the fingers time."""
        self._gripper = gripper
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def pick(self, thing: Shape, lift_to: float) -> Script:
        """Grasp a thing and lift it until its lowest point is at `lift_to` [m]."""
        grasp = self._grasp(thing)
        above = _raised(grasp.position, HOVER_M + max(0.0, thing.top - grasp.position[2]))
        yield from self._travel(above, grasp.yaw)
        if self._style.pause_steps:
            for _ in range(self._style.pause_steps):
                yield self._action(np.zeros(3), np.zeros(3))
            yield from self.move(_raised(above, 0.03), grasp.yaw)
        yield from self.move(grasp.position, grasp.yaw, tolerance=0.007)
        yield from self.grip(CLOSED)
        rise = max(0.03, lift_to - thing.bottom)
        yield from self.move(_raised(self.position, rise), grasp.yaw, tolerance=0.02)

    def put(self, thing: Shape, goal: Float64[np.ndarray, " 3"], over: float) -> Script:
        """Carry what is held so that its middle is over `goal` and its lowest point at `goal`'s height, and let go.

        Args:
            thing: what is held.
            goal: where its lowest point belongs [m].
            over: height that it must pass over on the way [m].
        """
        yaw = self._yaw()
        carried = self.position - [*thing.middle[:2], thing.bottom]
        lowest = over + CLEARANCE_M
        yield from self._travel(np.array([*goal[:2], max(lowest, goal[2])]) + carried, yaw)
        carried = self.position - [*thing.middle[:2], thing.bottom]
        yield from self.move(_raised(goal, self._style.release_height_m) + carried, yaw, tolerance=0.01)
        yield from self.grip(OPEN, 6)
        yield from self.move(_raised(self.position, 0.09), yaw, tolerance=0.03)

    def wait(self) -> Script:
        """Stay where it is, for ever."""
        while True:
            yield self._action(np.zeros(3), np.zeros(3))

    def _grasp(self, thing: Shape) -> Grasp:
        """Across the thing where it is narrowest, or over its rim where it is too wide."""
        points, middle = thing.points, thing.middle
        height = max(thing.top - DEPTH_M, thing.bottom + FLOOR_M)
        widths = []
        for yaw in _YAWS:
            along = points[:, :2] @ _direction(self._jaw + yaw)
            widths.append(along.max() - along.min())
        turned = np.abs(np.rad2deg(_YAWS)) / 10 * _STRAIGHT_M
        best = int(np.argmin(widths + turned))
        aside = self._style.grasp_offset_m * self._rng.choice((-1.0, 1.0))
        if widths[best] <= JAW_M:
            flat = _direction(self._jaw + _YAWS[best] + np.pi / 2)
            return Grasp(np.array([*(middle[:2] + aside * flat), height]), float(_YAWS[best]))
        side, yaw = self._rim(middle, max(widths) / 2)
        return Grasp(np.array([*(middle[:2] + side), thing.top - RIM_DEPTH_M]), yaw + aside / 0.05)

    def _rim(self, middle: Float64[np.ndarray, " 3"], radius: float) -> tuple[Float64[np.ndarray, " 2"], float]:
        """Return the way from the middle to the rim and the turn: the side with most space around it."""
        model, data = self._world.model, self._world.data
        free = [
            data.xpos[b][:2]
            for b in range(1, model.nbody)
            if model.body_parentid[b] == 0
            and model.body_jntnum[b]
            and model.jnt_type[model.body_jntadr[b]] == mujoco.mjtJoint.mjJNT_FREE
            and np.linalg.norm(data.xpos[b][:2] - middle[:2]) > 0.02
        ]
        best, found = -np.inf, (np.zeros(2), 0.0)
        for yaw in (-0.5, 0.0, 0.5):
            for sign in (-1, 1):
                side = sign * (radius - RIM_INSET_M) * _direction(self._jaw + yaw)
                space = min((float(np.linalg.norm(middle[:2] + 1.6 * side - other)) for other in free), default=1.0)
                score = min(space, _SIDE_M) - 0.01 * abs(yaw) + 0.001 * sign
                if score > best:
                    best, found = score, (side, yaw)
        return found

    def _travel(self, goal: Float64[np.ndarray, " 3"], yaw: float) -> Script:
        """Go to a place at a height: up first if it is higher, and by a detour if that is the style."""
        if goal[2] > self.position[2] + 0.02:
            yield from self.move(np.array([*self.position[:2], goal[2]]), self._yaw(), tolerance=0.03)
        way = goal - self.position
        if self._style.detour_m and np.linalg.norm(way[:2]) > 0.06:
            side = np.array([-way[1], way[0], 0.0]) / (np.linalg.norm(way[:2]) + 1e-9)
            swing = self._style.detour_m * self._rng.choice((-1.0, 1.0)) * side
            yield from self.move(self.position + way / 2 + swing, yaw / 2 + self._yaw() / 2, tolerance=0.03)
        yield from self.move(goal, yaw)

    def _action(self, way: Float64[np.ndarray, " 3"], turn: Float64[np.ndarray, " 3"]) -> Float32[np.ndarray, " 7"]:
        move = _within(GAIN * way / POSITION_SCALE_M, FAST)
        return np.array([*move, *_within(GAIN * turn / ROTATION_SCALE_RAD, FAST), self._gripper], np.float32)

    def _rotation(self) -> Rotation:
        robot = self._world.env.robots[0]
        body = self._world.env.sim.model.body_name2id(robot.robot_model.eef_name)
        return Rotation.from_quat(np.roll(self._world.data.xquat[body], -1))

    def _yaw(self) -> float:
        """Turn from the start pose [rad]."""
        return float((self._rotation() * self._start.inv()).as_rotvec()[2])

    def _pad(self, name: str) -> Float64[np.ndarray, " 3"]:
        gripper = self._world.env.robots[0].gripper.naming_prefix
        position: Float64[np.ndarray, " 3"] = self._world.data.geom(f"{gripper}{name}").xpos
        return position


def _raised(point: Float64[np.ndarray, " 3"], by: float) -> Float64[np.ndarray, " 3"]:
    raised: Float64[np.ndarray, " 3"] = point + np.array([0.0, 0.0, by])
    return raised


def _within(vector: Float64[np.ndarray, " 3"], longest: float) -> Float64[np.ndarray, " 3"]:
    shortened: Float64[np.ndarray, " 3"] = vector * min(1.0, longest / (float(np.linalg.norm(vector)) + 1e-9))
    return shortened


def _direction(angle: float) -> Float64[np.ndarray, " 2"]:
    return np.array([np.cos(angle), np.sin(angle)])
