"""Scripted experts for one Panda arm under OSC_POSE control: pick up an object and put it on or into another.

They see the true state of the world and act in closed loop, one action per control step. Grasps are computed from the
collision shapes, so that one expert serves LIBERO's objects and those of `tabletop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import mujoco
import numpy as np
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from robotest.envs.expert_styles import Style
from robotest.envs.robosuite.world import POSITION_SCALE_M, ROTATION_SCALE_RAD, RobosuiteWorld
from robotest.types import EnvOptions

Script = Iterator[Float32[np.ndarray, " 7"]]

OPEN: Final = -1.0
CLOSED: Final = 1.0
JAW_M: Final = 0.072
"""Widest object that is grasped across its middle [m]; wider ones are grasped at their rim."""
HOVER_M: Final = 0.07  # above the grasp
DEPTH_M: Final = 0.03  # of a grasp, below the top of the object
FLOOR_M: Final = 0.008  # height of the lowest grasp above the object's lowest point
RIM_INSET_M: Final = 0.012  # of a grasp over the rim, which leans outwards
RIM_DEPTH_M: Final = 0.024
CLEARANCE_M: Final = 0.045  # between a carried object and those it passes over
GAIN: Final = 0.9
FAST: Final = 0.9  # of the largest action
TOLERANCE_M: Final = 0.012
CENTRED_M: Final = 0.02
HELD_M: Final = 0.012  # rise of an object's middle that shows it is held, even if it hangs by its rim
GRIP_STEPS: Final = 10
_YAWS = np.deg2rad(np.arange(-90, 91, 10))
_RIM_YAWS = np.array([0.0, -0.5, 0.5])
_TURN = 0.0115  # cost of turning, as additional width [m/rad]
_PAD_M = 0.012  # half of a finger's width
_ALONG_M = 0.02  # offset of alternative grasps from the middle
_BLOCKED = 10.0
_FREE_DOFS = 6
# Half width, half depth, and lowest point relative to the grasp [m] of the parts that descend around an object.
_FINGERS_M = (0.055, 0.014, -0.008)
_HAND_M = (0.11, 0.04, 0.03)
_STEPS = 60  # limit of a movement


MIXTURE: Final = {"clean": 0.65, "off_centre": 0.0875, "detour": 0.0875, "hesitant": 0.0875, "early_release": 0.0875}
N_POINTS: Final = 2
_NOISE: Final = 0.15  # of the largest action


@dataclasses.dataclass(frozen=True)
class OscExperts:
    """Base of the experts of suites with one Panda; see `robotest.types.Experts`."""

    tasks: tuple[str, ...]
    options: EnvOptions
    mixture: Mapping[str, float] = dataclasses.field(default_factory=lambda: MIXTURE)
    n_points: int = N_POINTS

    @property
    def noise(self) -> Float64[np.ndarray, " A"]:
        """Noise on the position."""
        return np.array([_NOISE] * 3 + [0.0] * 4)


@dataclasses.dataclass(frozen=True)
class Grasp:
    """Pose in which the gripper closes: position [m], yaw from the start pose [rad]."""

    position: Float64[np.ndarray, " 3"]
    yaw: float


class Shape:
    """Points on the bounding boxes of an object's collision shapes, which move with it.

    Args:
        world: of the object.
        body: name of its root body.
    """

    def __init__(self, world: RobosuiteWorld, body: str) -> None:
        self._world = world
        model, data = world.model, world.data
        self.body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)
        grid = np.array(np.meshgrid((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))).reshape(3, 27).T
        points = []
        for geom in range(model.ngeom):
            belongs = model.body_rootid[model.geom_bodyid[geom]] == model.body_rootid[self.body]
            if belongs and (model.geom_contype[geom] or model.geom_conaffinity[geom]):
                box = model.geom_aabb[geom]
                inside = box[:3] + grid * box[3:]
                points.append(data.geom_xpos[geom] + inside @ data.geom_xmat[geom].reshape(3, 3).T)
        rotation = data.xmat[self.body].reshape(3, 3)
        self._points = (np.concatenate(points) - data.xpos[self.body]) @ rotation

    @property
    def points(self) -> Float64[np.ndarray, "n 3"]:
        """Current positions [m]."""
        data = self._world.data
        points: Float64[np.ndarray, "n 3"] = data.xpos[self.body] + self._points @ data.xmat[self.body].reshape(3, 3).T
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
    """Motion primitives of one arm: every method is a script that starts where the last one ended.

    Args:
        world: its first robot is the arm, at its start pose.
        style: of the expert.
        rng: for the style's random choices.
    """

    def __init__(self, world: RobosuiteWorld, style: Style, rng: np.random.Generator) -> None:
        self._world, self._style, self._rng = world, style, rng
        self._start = self._rotation()
        self._gripper = OPEN
        jaw = self._pad("finger1_pad_collision") - self._pad("finger2_pad_collision")
        self._jaw = float(np.arctan2(jaw[1], jaw[0]))

    @property
    def position(self) -> Float64[np.ndarray, " 3"]:
        """Position of the gripper [m]."""
        position: Float64[np.ndarray, " 3"] = self._world.data.site_xpos[self._world.env.robots[0].eef_site_id].copy()
        return position

    def move(
        self, goal: Float64[np.ndarray, " 3"], yaw: float, tolerance: float = TOLERANCE_M, *, centred: bool = False
    ) -> Script:
        """Go straight to a position and a yaw.

        Args:
            goal: target position [m].
            yaw: from the start pose [rad].
            tolerance: distance at which the goal counts as reached [m].
            centred: descend only while right above the goal, so that no finger lands on the object.
        """
        target = Rotation.from_euler("z", yaw) * self._start
        for _ in range(_STEPS):
            way = goal - self.position
            turn = (target * self._rotation().inv()).as_rotvec()
            if np.linalg.norm(way) < tolerance and np.linalg.norm(turn) < 0.1:
                return
            if centred and np.linalg.norm(way[:2]) > CENTRED_M:
                way[2] = max(0.0, way[2])
            yield self._action(way, turn)

    def grip(self, gripper: float, steps: int = GRIP_STEPS) -> Script:
        """Open or close, and wait for the fingers."""
        self._gripper = gripper
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def pick(self, thing: Shape, lift_to: float) -> Script:
        """Grasp an object and lift it until its lowest point is at `lift_to` [m]; retry once if it is not lifted."""
        for _ in range(2):
            height = thing.middle[2]
            yield from self._grasp_once(thing)
            rise = max(0.03, lift_to - thing.bottom)
            yield from self.move(_raised(self.position, rise), self._yaw(), tolerance=0.02)
            if thing.middle[2] > height + HELD_M:
                return
            yield from self.grip(OPEN, 4)

    def _grasp_once(self, thing: Shape) -> Script:
        """Approach from above, descend and close."""
        grasp = self._grasp(thing)
        above = _raised(grasp.position, HOVER_M + max(0.0, thing.top - grasp.position[2]))
        yield from self._travel(above, grasp.yaw)
        if self._style.pause_steps:
            for _ in range(self._style.pause_steps):
                yield self._action(np.zeros(3), np.zeros(3))
            yield from self.move(_raised(above, 0.03), grasp.yaw)
        yield from self.move(grasp.position, grasp.yaw, tolerance=0.007, centred=True)
        yield from self.grip(CLOSED)

    def put(self, thing: Shape, goal: Float64[np.ndarray, " 3"], over: float) -> Script:
        """Carry the held object until its middle is over `goal` and its lowest point at `goal`'s height, then release.

        Args:
            thing: the held object.
            goal: target of its lowest point [m].
            over: height that it must clear on the way [m].
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
        """Stay in place forever."""
        while True:
            yield self._action(np.zeros(3), np.zeros(3))

    def _grasp(self, thing: Shape) -> Grasp:
        """Return the cheapest grasp without collisions of the hand, or the cheapest of all if every grasp collides."""
        others = [other.points for other in self._others(thing)]
        costs = [(cost + _BLOCKED * self._hits(grasp, others), grasp) for cost, grasp in self._grasps(thing)]
        return min(costs, key=lambda costed: costed[0])[1]

    def _grasps(self, thing: Shape) -> Iterator[tuple[float, Grasp]]:
        """Yield grasps with their costs [m]: across the middle where it is narrow enough, and at the rim."""
        points, middle = thing.points, thing.middle
        aside = self._style.grasp_offset_m * self._rng.choice((-1.0, 1.0))
        widths = {float(yaw): np.ptp(points[:, :2] @ _direction(self._jaw + yaw)) for yaw in _YAWS}
        height = max(thing.top - DEPTH_M, thing.bottom + FLOOR_M)
        for yaw, width in widths.items():
            if width > JAW_M:
                continue
            flat = _direction(self._jaw + yaw + np.pi / 2)
            room = max(0.0, np.ptp(points[:, :2] @ flat) / 2 - _PAD_M)
            for along in (0.0, min(room, _ALONG_M), -min(room, _ALONG_M)):
                at = np.array([*(middle[:2] + (aside + along) * flat), height])
                yield width + _TURN * abs(yaw) + 0.2 * abs(along), Grasp(at, yaw)
        radius = max(widths.values()) / 2
        for yaw in _RIM_YAWS:
            for sign in (-1, 1):
                side = sign * (radius - RIM_INSET_M) * _direction(self._jaw + yaw)
                at = np.array([*(middle[:2] + side), thing.top - RIM_DEPTH_M])
                yield JAW_M + _TURN * abs(yaw), Grasp(at, float(yaw + aside / radius))

    def _others(self, thing: Shape) -> Iterator[Shape]:
        """Yield the other movable objects."""
        model = self._world.model
        for body in range(1, model.nbody):
            if model.body_parentid[body] == 0 and body != thing.body and model.body_dofnum[body] == _FREE_DOFS:
                yield Shape(self._world, mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, body))

    def _hits(self, grasp: Grasp, others: Sequence[Float64[np.ndarray, "n 3"]]) -> bool:
        """Return whether the open fingers, or the hand above them, would collide with an object."""
        across = _direction(self._jaw + grasp.yaw)
        flat = _direction(self._jaw + grasp.yaw + np.pi / 2)
        for points in others:
            from_grasp = points - grasp.position
            x, y, z = np.abs(from_grasp[:, :2] @ across), np.abs(from_grasp[:, :2] @ flat), from_grasp[:, 2]
            for half_width, half_depth, lowest in (_FINGERS_M, _HAND_M):
                if np.any((x < half_width) & (y < half_depth) & (z > lowest)):
                    return True
        return False

    def _travel(self, goal: Float64[np.ndarray, " 3"], yaw: float) -> Script:
        """Go to a position: first up if it is higher, then with the style's detour."""
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
        """Return the yaw from the start pose [rad]."""
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
