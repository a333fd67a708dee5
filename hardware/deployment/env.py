"""Two arms and their cameras as an `Env`, for the same loop that simulators run in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest import interrupt
from robotest.embodiment.actions import HOME_TIP, ArmCommands, arm_state, home_joints
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.suite import ACTIONS, STATE, WORKSPACE_HIGH_M, WORKSPACE_LOW_M
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.errors import InvalidActionError
from robotest.hardware.cameras.watch import WatchedCamera
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.control.governor import JointTrajectory
from robotest.hardware.deployment.supervisor import Supervisor
from robotest.hardware.robot import RobotError
from robotest.specs import EnvSpec
from robotest.types import Clock, EnvOptions, Observation, StepStatus

TIP_FLOOR_M: Final = 0.015
"""Lowest tip over the table: the pads reach 10 mm below it, and the governor keeps 2 mm."""
HOMING_RAD_S: Final = 0.5
_LIFT_M = 0.25
_HOMING_STEPS = 250
_SETTLE_S = 2.0


class RobotEnv:
    """One task on one robot. Implements `robotest.types.Env`.

    Args:
        client: to the executor.
        cameras: what the policy sees, by its names for them.
        supervisor: lays out and judges.
        task: its name.
        max_steps: of an episode.
        options: setting, action mode and picture size.
        clock: of the executor.
        table_z: height of the table over the world's origin [m].
    """

    def __init__(
        self,
        client: ExecutorClient,
        cameras: Mapping[str, WatchedCamera],
        supervisor: Supervisor,
        task: str,
        max_steps: int,
        options: EnvOptions,
        clock: Clock,
        table_z: float = 0.0,
    ) -> None:
        self._client, self._cameras, self._supervisor, self._clock = client, cameras, supervisor, clock
        self.filmed: Callable[[], object] | None = None
        """Called after every action; None: nothing is filmed."""
        kinematics = DualArmKinematics()
        self._home = home_joints(kinematics)
        self._kinematics = kinematics
        low = np.array([*WORKSPACE_LOW_M[:2], table_z + TIP_FLOOR_M])
        self._commands = ArmCommands(options.action_mode, CONTROL_DT, low, WORKSPACE_HIGH_M, kinematics)
        self.spec: Final = EnvSpec(
            name=client.about["capabilities"]["name"],
            task=task,
            setting=options.setting,
            action=ACTIONS[options.action_mode],
            state=STATE,
            cameras={name: camera.size for name, camera in cameras.items()},
            control_dt=CONTROL_DT,
            max_steps=max_steps,
            repeatable=False,
        )
        self._low, self._high = self.spec.action.low, self.spec.action.high
        self._instruction = ""
        self._steps = 0
        self._number = 0
        self._in_chunk = 0
        self._announced: Float32[np.ndarray, "h A"] = np.zeros((0, self.spec.action.size), np.float32)
        self._observed = 0.0

    def reset(self, seed: int, episode: int = 0) -> None:
        """Bring the arms home slowly, have the episode laid out, and start it."""
        self.home()
        self._instruction = self._supervisor.prepare(self.spec.task, seed, episode)
        self._commands.start(HOME_TIP)
        self._steps = 0

    def observe(self) -> Observation:
        """Look through the cameras and read the arms; whatever is old, repeated or missing is an error."""
        images: dict[str, UInt8[np.ndarray, "height width 3"]] = {
            name: camera.look().image for name, camera in self._cameras.items()
        }
        status = self._client.require_well()
        self._observed = float(status["stamps"].min())
        state = arm_state(status["joints"], self._commands.tips, status["openings"])
        return Observation(images, state, self._instruction, self._steps * CONTROL_DT)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Hand all of a chunk to the executor, which looks at it before it moves.

        Raises:
            RobotFaultError: it is rejected; nothing of it was executed.
        """
        announced = np.asarray(actions, np.float32)
        if announced.ndim != 2 or announced.shape[1:] != self._low.shape or not np.isfinite(announced).all():
            needed = f"{self.spec.action.mode} takes (H, {len(self._low)}) finite numbers"
            raise InvalidActionError(f"actions of shape {announced.shape}; {needed}")
        self._announced = np.clip(announced, self._low, self._high)
        joints = self._from(self._client.require_well())
        self._commands.begin_chunk()
        waypoints, openings = [], []
        for action in self._announced:
            joints, opening = self._commands.next(action, joints)
            waypoints.append(joints)
            openings.append(opening)
        self._follow(np.stack(waypoints), np.stack(openings))

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """Wait until the next of the announced actions is executed, and say how the episode stands."""
        interrupt.check()
        k = self._in_chunk
        if k >= len(self._announced) or not np.array_equal(np.clip(action, self._low, self._high), self._announced[k]):
            raise InvalidActionError(f"action {k} of the chunk is not the one that was announced; announce it first")
        self._wait(k)
        self._in_chunk += 1
        self._steps += 1
        if self.filmed is not None:
            self.filmed()
        verdict = self._supervisor.judge()
        return StepStatus(success=verdict.success, done=verdict.done, sent=self._announced[k])

    def stop(self) -> None:
        """Hold the arms where they are. Called on every exit; a fault is not worth another here."""
        try:
            self._client.send({"do": "hold"})
        except RobotError:
            return

    def close(self) -> None:
        """Nothing: client, cameras and supervisor belong to whoever made them."""

    def home(self) -> None:
        """Bring the arms to where every episode starts, grippers open, slowly; over the table if the way is not free.

        Raises:
            RobotFaultError: neither way is free; the arms have to be moved by hand.
        """
        status = self._client.require_well()
        if status["mode"] == "following":
            self._client.send({"do": "hold"})
            status = self._at_rest()
        start = status["commanded"]
        lifted = self._lifted(start)
        self._go(start, lifted)
        self._go(lifted, self._home)

    def open_gripper(self, openings: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " 2"]:
        """Move the grippers, the arms staying where they are, and return the measured openings."""
        joints = self._client.require_well()["commanded"]
        self._observed = self._clock.now()
        self._follow(np.repeat(joints[None], 10, 0), np.repeat(openings[None], 10, 0))
        measured: Float64[np.ndarray, " 2"] = self._at_rest()["openings"]
        return measured

    def _from(self, status: Mapping[str, Any]) -> Float64[np.ndarray, "2 7"]:
        """Return the joint positions that a chunk starts from."""
        joints: Float64[np.ndarray, "2 7"] = status["commanded"]
        return joints

    def _lifted(self, joints: Float64[np.ndarray, "2 7"]) -> Float64[np.ndarray, "2 7"]:
        tips = self._kinematics.tips(joints)
        tips[:, 2] = np.maximum(tips[:, 2], _LIFT_M)
        for _ in range(30):
            joints = self._kinematics.solve(joints, tips, np.full(7, 0.1))
        return joints

    def _go(self, start: Float64[np.ndarray, "2 7"], goal: Float64[np.ndarray, "2 7"]) -> None:
        n = int(np.ceil(np.abs(goal - start).max() / (HOMING_RAD_S * CONTROL_DT)))
        if n > _HOMING_STEPS:
            raise RobotError("the arms are too far from home; move them nearer by hand")
        if n > 0:
            way = np.linspace(start, goal, n + 1)[1:]
            self._observed = self._clock.now()
            self._follow(way, np.ones((n, 2)))
            self._at_rest(n * CONTROL_DT)

    def _follow(self, joints: Float64[np.ndarray, "H 2 7"], openings: Float64[np.ndarray, "H 2"]) -> None:
        # Numbers go on over environments of one robot: the governor takes an old one for an old chunk.
        self._number = max(self._number, int(self._client.status["chunk"])) + 1
        self._in_chunk = 0
        self._client.follow(JointTrajectory(self._number, joints, openings, CONTROL_DT, self._observed))

    def _wait(self, k: int) -> None:
        """Wait until step `k` of the chunk is executed; its last, until the arms have come to its end."""

        def executed(status: dict[str, Any]) -> bool:
            return status["chunk"] == self._number and bool(status["step"] > k or status["mode"] == "holding")

        self._client.wait(executed, (k + 1) * CONTROL_DT + _SETTLE_S, f"step {k} of the chunk")

    def _at_rest(self, longer_s: float = 0.0) -> dict[str, Any]:
        def rests(status: dict[str, Any]) -> bool:
            return bool(status["at_rest"]) and status["mode"] == "holding" and status["chunk"] == self._number

        return self._client.wait(rests, longer_s + 3 * _SETTLE_S, "the arms to come to rest")
