"""Scripted experts of the dual-arm suite.

An expert sees the true state of the world and yields, for each control step, target poses of both tips and openings of
both grippers. Each arm runs its own script (a generator), so that both can act at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from robotest.embodiment.actions import HOME_TIP
from robotest.envs.dual_arm.suite import DualArmEnv
from robotest.envs.dual_arm.tasks import BAR_HALF_M, BUTTON_TOP_M, CUBE_M, HANDLE_X_M, N_POINTS
from robotest.envs.expert_styles import STYLES, Style
from robotest.errors import RobotestError
from robotest.types import Command, Env, EnvOptions, Experts

Pose = Float64[np.ndarray, " 4"]  # x, y, z [m], yaw [rad]
Script = Iterator[tuple[Pose, float]]  # next target pose of an arm's tip, and its gripper's opening [0, 1]

SPEED_M: Final = 0.022  # tip travel per control step
TURN_RAD: Final = 0.15  # tip turn per control step
HOVER_M: Final = 0.09  # above the grasp point
CARRY_M: Final = 0.15  # tip height above the table while carrying
OPEN: Final = 1.0
CLOSED: Final = 0.0


MIXTURE: Final = {
    "clean": 0.65,
    "off_centre": 0.07,
    "detour": 0.07,
    "hesitant": 0.07,
    "early_release": 0.07,
    "other_arm_first": 0.07,
}
"""Share of each style in the demonstrations of the shipped policy."""


class Arm:
    """Motion primitives of one arm: every method is a script that starts where the last one ended."""

    def __init__(self, env: DualArmEnv, index: int, style: Style, rng: np.random.Generator) -> None:
        self.index = index
        self._world = env.world
        self._style = style
        self._rng = rng
        self._pose: Pose = HOME_TIP[index].copy()
        self._opening = OPEN

    @property
    def pose(self) -> Pose:
        """The last commanded pose of the tip."""
        pose: Pose = self._pose.copy()
        return pose

    def move(self, xyz: Float64[np.ndarray, " 3"], yaw: float, speed: float = SPEED_M) -> Script:
        """Go straight, easing in and out."""
        goal = np.array([*xyz, yaw])
        start = self.pose
        travel = max(np.linalg.norm(goal[:3] - start[:3]) / speed, abs(goal[3] - start[3]) / TURN_RAD)
        n = max(1, int(np.ceil(1.15 * travel)))
        for i in range(1, n + 1):
            s = i / n
            self._pose = start + (goal - start) * (0.4 * s + 0.6 * s * s * (3 - 2 * s))
            yield self._pose, self._opening

    def travel(self, xyz: Float64[np.ndarray, " 3"], yaw: float) -> Script:
        """Go to a position, with the style's detour."""
        if self._style.detour_m and np.linalg.norm(xyz[:2] - self._pose[:2]) > 0.06:
            way = xyz - self._pose[:3]
            side = np.array([-way[1], way[0], 0.0]) / (np.linalg.norm(way[:2]) + 1e-9)
            swing = self._style.detour_m * self._rng.choice((-1.0, 1.0)) * side
            yield from self.move(self._pose[:3] + way / 2 + _shift(swing, z=0.03), (self._pose[3] + yaw) / 2)
        yield from self.move(xyz, yaw)

    def grip(self, opening: float, steps: int) -> Script:
        """Open or close, and wait for the fingers."""
        self._opening = opening
        for _ in range(steps):
            yield self._pose, self._opening

    def hesitate(self) -> Script:
        """Hover, draw back and return, if the style hesitates."""
        if not self._style.pause_steps:
            return
        here = self.pose
        yield from self.grip(self._opening, self._style.pause_steps // 2)
        yield from self.move(_shift(here[:3], z=0.04), here[3], 0.02)
        yield from self.grip(self._opening, self._style.pause_steps - self._style.pause_steps // 2)
        yield from self.move(here[:3], here[3], 0.02)

    def reach(self, point: Float64[np.ndarray, " 3"], yaw: float, along: float = 0.0) -> Script:
        """Go above a grasp point and down to it, `along` [m] off in the direction of the jaws' flat side."""
        offset = along + self._style.grasp_offset_m * self._rng.choice((-1.0, 1.0))
        at = point + offset * np.array([np.cos(yaw), np.sin(yaw), 0.0])
        yield from self.travel(_shift(at, z=HOVER_M), yaw)
        yield from self.hesitate()
        yield from self.move(at, yaw)

    def pick(self, point: Float64[np.ndarray, " 3"], yaw: float, along: float = 0.0) -> Script:
        """Reach a grasp point, close, and lift to carrying height."""
        yield from self.reach(point, yaw, along)
        yield from self.grip(CLOSED, 4)
        yield from self.rise(CARRY_M)

    def rise(self, height: float) -> Script:
        """Go straight up to a height above the table [m]."""
        yield from self.move(np.array([*self._pose[:2], self._world.table_z + height]), self._pose[3])

    def put(self, point: Float64[np.ndarray, " 3"], yaw: float) -> Script:
        """Carry the object above `point`, lower it there, release it, and retreat upwards."""
        yield from self.travel(np.array([*point[:2], max(self._pose[2], point[2] + 0.05)]), yaw)
        yield from self.move(_shift(point, z=self._style.release_height_m), yaw)
        yield from self.grip(OPEN, 3)
        yield from self.rise(point[2] - self._world.table_z + 0.08)

    def go_home(self) -> Script:
        """Return to the start pose."""
        home = HOME_TIP[self.index]
        yield from self.move(home[:3], home[3])


class Expert:
    """The expert of one episode; call `commands` after `env.reset`."""

    def __init__(self, env: DualArmEnv, style: str, rng: np.random.Generator) -> None:
        self._env = env
        self._world = env.world
        self._scene = env.scene
        self._style = STYLES[style]
        self._rng = rng
        self._arms = tuple(Arm(env, i, self._style, rng) for i in (0, 1))

    def commands(self) -> Iterator[tuple[Float64[np.ndarray, "2 4"], Float64[np.ndarray, " 2"]]]:
        """Yield tip poses (x, y, z [m], yaw [rad]) and gripper openings for every control step, holding at the end."""
        left, right = _SCRIPTS[self._env.spec.task](self)
        poses = np.stack([arm.pose for arm in self._arms])
        openings = np.array([OPEN, OPEN])
        while True:
            for i, script in enumerate((left, right)):
                step = next(script, None)
                if step is not None:
                    poses[i], openings[i] = step
            yield poses.copy(), openings.copy()

    # -- tasks: a script for the left and one for the right arm -----------------------------------------------------

    def place_block_pad(self) -> tuple[Script, Script]:
        """The block's arm puts it on the pad."""
        return self._pick_and_put(0.0)

    def stack_blocks_two(self) -> tuple[Script, Script]:
        """The side's arm puts one block on the other."""
        return self._pick_and_put(2 * CUBE_M)

    def _pick_and_put(self, height: float) -> tuple[Script, Script]:
        def work(arm: Arm) -> Script:
            body, target = self._scene.roles["object"], self._scene.roles["target"]
            yield from arm.pick(self._world.position(body), self._world.yaw(body))
            # The object may have slipped in the grasp: bring the object, not the tip, to the target.
            slip = self._world.position(body) - self._world.tip(arm.index)
            goal = self._world.position(target)
            goal[2] = (goal[2] if height else self._world.table_z + CUBE_M) + height
            yield from arm.put(goal - slip, arm.pose[3])
            yield from arm.go_home()

        scripts: list[Script] = [_nothing(), _nothing()]
        scripts[self._scene.arm] = work(self._arms[self._scene.arm])
        if self._style.other_first:
            scripts[1 - self._scene.arm] = self._idle_reach(self._arms[1 - self._scene.arm])
            scripts[self._scene.arm] = _after(8, work(self._arms[self._scene.arm]), self._arms[self._scene.arm])
        return scripts[0], scripts[1]

    def _idle_reach(self, arm: Arm) -> Script:
        """Move the idle arm towards the middle and back."""
        here = arm.pose
        yield from arm.move(here[:3] * (0.75, 1.0, 1.0) + (0, 0.04, -0.04), 0.0)
        yield from arm.go_home()

    def handover_block(self) -> tuple[Script, Script]:
        """Giver: pick, bring to the middle, release once the receiver holds it. Receiver: take, put on the pad."""
        giver, receiver = self._arms[self._scene.arm], self._arms[1 - self._scene.arm]
        side = -1.0 if self._scene.arm == 0 else 1.0
        grasp = 0.055  # from the bar's middle
        meet = np.array([0.0, 0.02, self._world.table_z + 0.16])
        state = {"offered": False, "taken": False}

        def give() -> Script:
            yield from giver.pick(self._world.position("bar"), self._world.yaw("bar"), side * grasp)
            yield from giver.travel(_shift(meet, x=side * grasp), 0.0)
            yield from giver.grip(CLOSED, 1)
            state["offered"] = True
            while not state["taken"]:
                yield from giver.grip(CLOSED, 1)
            yield from giver.grip(OPEN, 3)
            yield from giver.move(_shift(giver.pose[:3], x=side * 0.02, z=0.08), 0.0)
            yield from giver.go_home()

        def receive() -> Script:
            early = self._style.other_first
            if early:
                yield from receiver.move(_shift(meet, x=-side * (grasp + 0.08), z=HOVER_M), 0.0)
            while not state["offered"]:
                yield from receiver.grip(OPEN, 1)
            bar = self._world.position("bar")
            yield from receiver.reach(bar, self._world.yaw("bar"), -side * grasp)
            yield from receiver.grip(CLOSED, 4)
            state["taken"] = True
            yield from receiver.grip(CLOSED, 4)
            yield from receiver.move(_shift(receiver.pose[:3], x=-side * 0.04, z=0.01), receiver.pose[3])
            slip = self._world.position("bar") - self._world.tip(receiver.index)
            goal = self._world.position(self._scene.roles["target"])
            goal[2] = self._world.table_z + BAR_HALF_M[2] + 0.002
            yield from receiver.put(goal - slip, receiver.pose[3])
            yield from receiver.go_home()

        scripts = (give(), receive())
        return scripts if self._scene.arm == 0 else scripts[::-1]

    def lift_tray(self) -> tuple[Script, Script]:
        """Both reach their handles, wait for each other, close and lift together."""
        ready = [False, False]
        yaw = self._world.yaw("tray")

        def lift(arm: Arm) -> Script:
            sign = (-1.0, 1.0)[arm.index]
            handle = self._world.position("tray") + sign * HANDLE_X_M * np.array([np.cos(yaw), np.sin(yaw), 0.0])
            yield from arm.reach(_shift(handle, z=0.018 + self._style.release_height_m / 3), yaw)
            if not self._style.other_first:
                ready[arm.index] = True
            while not all(ready) and not self._style.other_first:
                yield from arm.grip(OPEN, 1)
            yield from arm.grip(CLOSED, 4)
            ready[arm.index] = True
            while not all(ready):
                yield from arm.grip(CLOSED, 1)
            yield from arm.rise(0.16)

        scripts = [lift(arm) for arm in self._arms]
        if self._style.other_first:
            late = int(self._rng.integers(2))
            scripts[late] = _after(6, scripts[late], self._arms[late])
        return scripts[0], scripts[1]

    def pick_dual_bottles(self) -> tuple[Script, Script]:
        """Both pick at once, or one after the other, depending on the style."""

        def pick(arm: Arm) -> Script:
            bottle = self._world.position(self._scene.order[arm.index])
            grasp = _shift(bottle, z=0.005 + self._style.release_height_m)
            yield from arm.reach(grasp, 0.0)
            yield from arm.grip(CLOSED, 4)
            yield from arm.move(_shift(arm.pose[:3], z=0.12), 0.0)

        scripts = [pick(arm) for arm in self._arms]
        if self._style.other_first:
            late = int(self._rng.integers(2))
            scripts[late] = _after(14, scripts[late], self._arms[late])
        return scripts[0], scripts[1]

    def push_buttons_in_order(self) -> tuple[Script, Script]:
        """The arm of a button's side presses it while the other waits at home."""
        caps = self._scene.order
        done = [0]

        def arm_of(cap: str) -> int:
            x = float(self._world.position(cap)[0])
            near = int(x > 0)
            # Near the middle both arms reach; the style `other_arm_first` uses the farther one.
            return 1 - near if self._style.other_first and abs(x) < 0.12 else near

        def press(arm: Arm) -> Script:
            yield from arm.grip(CLOSED, 1)
            for i, cap in enumerate(caps):
                if arm_of(cap) != arm.index:
                    continue
                while done[0] < i:
                    yield from arm.grip(CLOSED, 1)
                top = self._world.position(cap)
                top[2] = self._world.table_z + BUTTON_TOP_M
                yield from arm.reach(_shift(top, z=0.02), 0.0)
                yield from arm.move(_shift(top, z=-0.006), 0.0, 0.015)
                yield from arm.grip(CLOSED, 1)
                done[0] += 1
                yield from arm.move(_shift(top, z=0.07), 0.0)
                if i + 1 < len(caps) and arm_of(caps[i + 1]) != arm.index:
                    yield from arm.go_home()

        return press(self._arms[0]), press(self._arms[1])


def _shift(point: Float64[np.ndarray, " 3"], x: float = 0.0, z: float = 0.0) -> Float64[np.ndarray, " 3"]:
    shifted: Float64[np.ndarray, " 3"] = point + np.array([x, 0.0, z])
    return shifted


def _nothing() -> Script:
    yield from ()


def _after(steps: int, script: Script, arm: Arm) -> Script:
    yield from arm.grip(OPEN, steps)
    yield from script


_SCRIPTS: Final[dict[str, Callable[[Expert], tuple[Script, Script]]]] = {
    "handover_block": Expert.handover_block,
    "stack_blocks_two": Expert.stack_blocks_two,
    "place_block_pad": Expert.place_block_pad,
    "lift_tray": Expert.lift_tray,
    "pick_dual_bottles": Expert.pick_dual_bottles,
    "push_buttons_in_order": Expert.push_buttons_in_order,
}

_NOISE_M: Final = 0.003


@dataclasses.dataclass(frozen=True)
class DualArmExperts:
    """Implements `robotest.types.Experts`."""

    tasks: tuple[str, ...] = tuple(_SCRIPTS)
    mixture: Mapping[str, float] = dataclasses.field(default_factory=lambda: MIXTURE)
    options: EnvOptions = dataclasses.field(default_factory=EnvOptions)
    n_points: int = N_POINTS

    @property
    def noise(self) -> Float64[np.ndarray, " A"]:
        """Noise on the tips' positions [m]."""
        return np.tile([_NOISE_M] * 3 + [0.0] * 2, 2)

    def commands(self, env: Env, style: str, rng: np.random.Generator) -> Iterator[Command]:
        """Yield target poses of the tips and openings of the grippers."""
        dual_arm = _dual_arm(env)
        for pose, opening in Expert(dual_arm, style, rng).commands():
            yield Command(_pack(pose, opening), _pack(dual_arm.commanded, np.zeros(2)))

    def points(self, env: Env) -> Float32[np.ndarray, "K 2"]:
        """See `DualArmEnv.points`."""
        return _dual_arm(env).points()


def _dual_arm(env: Env) -> DualArmEnv:
    if not isinstance(env, DualArmEnv) or env.spec.action.mode != "tip":
        raise RobotestError(
            f"these experts act in dual_arm's 'tip' mode, not in {env.spec.name}'s {env.spec.action.mode!r}"
        )
    return env


def _pack(tips: Float64[np.ndarray, "2 4"], openings: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " A"]:
    return np.concatenate([tips, openings[:, None]], axis=1).ravel()


experts: Final[Experts] = DualArmExperts()
