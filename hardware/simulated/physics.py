"""The dual-arm suite's world, moved by two controllers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import workcell
from robotest.envs.dual_arm.suite import DualArmEnv, suite
from robotest.envs.dual_arm.world import CONTROL_DT, PHYSICS_DT
from robotest.hardware.robot import RobotError, Setpoint
from robotest.hardware.simulated.joints import Measured
from robotest.types import EnvOptions

HOME_TOLERANCE_RAD: Final = 0.02
AMPERE_PER_NEWTON_METRE: Final = 0.1
"""Joint currents are the servos' torques times this: assumed, of the size that real arms report."""
_OPEN_ENOUGH: Final = 0.9
_STEPS_PER_CONTROL: Final = round(CONTROL_DT / PHYSICS_DT)


@dataclasses.dataclass(frozen=True)
class Start:
    """An episode: the environment's task, setting and wording, and the arguments of `DualArmEnv.reset`."""

    task: str = "place_block_pad"
    setting: str = "clean"
    wording: str = "seen"
    seed: int = 0
    episode: int = 0


class Physics:
    """Arms and objects of the current episode.

    Args:
        start: the first episode.
        stamp: current time [s].

    Attributes:
        start: the current episode.
        stamp: time of the current state [s].
        success: the suite's judgement; it does not change after `done`.
        done: nothing more can follow.

    Raises:
        UnknownNameError: there is no such task or setting.
    """

    def __init__(self, start: Start, stamp: float) -> None:
        self._envs: dict[tuple[str, str, str], DualArmEnv] = {}
        self.start, self.stamp = start, stamp
        self.success = self.done = False
        self._steps = 0
        self._env = self._environment(start)
        self._env.reset(start.seed, start.episode)
        self._flanges = self._bodies()

    @property
    def home(self) -> Float64[np.ndarray, "2 7"]:
        """Joint positions at the start of every episode [rad]."""
        return self._env.home

    @property
    def instruction(self) -> str:
        """The episode's task in words."""
        return self._env.instruction

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """Return the state, for `DualArmEnv.restore`."""
        return self._env.snapshot()

    def step(self, setpoint: Setpoint, stamp: float) -> tuple[Measured, Measured]:
        """Advance by `PHYSICS_DT` to the time `stamp`; return what the left and the right arm measure."""
        world = self._env.world
        world.servo(setpoint.joints, setpoint.openings)
        world.advance()
        self.stamp = stamp
        measured = self._measure()
        self._steps += 1
        if self._steps % _STEPS_PER_CONTROL == 0:
            self._judge()
        return measured

    def reset(self, start: Start, openings: Float64[np.ndarray, " 2"]) -> None:
        """Start an episode around the arms, which stay where they are.

        Args:
            start: of the episode.
            openings: set-points of the grippers.

        Raises:
            RobotError: the arms are not at home, or a gripper is not open.
            UnknownNameError: there is no such task or setting.
        """
        self._require_home(openings)
        env = self._environment(start)
        arms = self._env.world.arms()
        env.reset(start.seed, start.episode)
        env.world.put_arms(arms)
        self.start, self._env = start, env
        self._flanges = self._bodies()
        self.success = self.done = False
        self._steps = 0

    def close(self) -> None:
        """Free the environments."""
        for env in self._envs.values():
            env.close()

    def _environment(self, start: Start) -> DualArmEnv:
        key = (start.task, start.setting, start.wording)
        if key not in self._envs:
            if start.wording not in ("seen", "unseen"):
                raise RobotError(f"wording {start.wording!r}; known: seen, unseen")
            options = EnvOptions(setting=start.setting, wording=cast("Any", start.wording))
            self._envs[key] = suite.make(start.task, options)
        return self._envs[key]

    def _bodies(self) -> list[int]:
        return [self._env.world.model.body(f"{side}_hand").id for side in workcell.SIDES]

    def _require_home(self, openings: Float64[np.ndarray, " 2"]) -> None:
        world = self._env.world
        away = np.abs(world.joints() - self._env.home)
        for arm, side in enumerate(workcell.SIDES):
            worst = int(np.argmax(away[arm]))
            if away[arm, worst] > HOME_TOLERANCE_RAD:
                raise RobotError(
                    f"the {side} arm's joint {worst + 1} is {away[arm, worst]:.3f} rad from home; at most"
                    f" {HOME_TOLERANCE_RAD} are allowed: bring both arms to the joints of 'home_pose' first"
                )
            if min(world.openings()[arm], openings[arm]) < _OPEN_ENOUGH:
                raise RobotError(f"the {side} gripper is not open; open both first")

    def _judge(self) -> None:
        self._env.world.refresh()
        success, done = self._env.judge()
        if not self.done:
            self.success, self.done = success, done

    def _measure(self) -> tuple[Measured, Measured]:
        world = self._env.world
        joints, speeds, openings = world.joints(), world.joint_speeds(), world.openings()
        currents = AMPERE_PER_NEWTON_METRE * world.joint_torques()
        left, right = (
            Measured(joints[i], speeds[i], currents[i], float(openings[i]), *self._flange(i)) for i in (0, 1)
        )
        return left, right

    def _flange(self, arm: int) -> tuple[tuple[float, float, float], tuple[float, float, float, float]]:
        """Return a flange's pose in its arm's base frame, which is turned about the vertical only."""
        data, body = self._env.world.data, self._flanges[arm]
        x, y, z = (data.xpos[body] - workcell.BASE_POSITION_M[arm]).tolist()
        qw, qx, qy, qz = data.xquat[body].tolist()
        c, s = math.cos(workcell.BASE_YAW_RAD), math.sin(workcell.BASE_YAW_RAD)
        h, k = math.cos(workcell.BASE_YAW_RAD / 2), math.sin(workcell.BASE_YAW_RAD / 2)
        turned = (h * qw + k * qz, h * qx + k * qy, h * qy - k * qx, h * qz - k * qw)
        return (c * x + s * y, c * y - s * x, z), turned
