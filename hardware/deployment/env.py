"""Two arms and their cameras as an `Env`, for the same rollout loop as simulators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8

from robotest import interrupt
from robotest.embodiment.actions import HOME_TIP, ArmCommands, arm_state
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.suite import ACTIONS, STATE, WORKSPACE_HIGH_M, WORKSPACE_LOW_M
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.errors import InvalidActionError
from robotest.hardware.cameras.watch import WatchedCamera
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.deployment.arms import Arms
from robotest.hardware.deployment.supervisor import Supervisor
from robotest.specs import EnvSpec
from robotest.types import EnvOptions, Observation, StepStatus

TIP_FLOOR_M: Final = 0.015
"""Lowest tip over the table: the pads reach 10 mm below it, and the governor keeps 2 mm clear."""


class RobotEnv:
    """One task on one robot. Implements `robotest.types.Env`.

    Args:
        client: of the executor, for the state of the arms.
        arms: execute the chunks.
        cameras: what the policy sees, by its names for them.
        supervisor: lays out and judges.
        task: name of the task.
        max_steps: step limit of an episode.
        options: setting, action mode and picture size.
        table_z: height of the table over the world's origin [m].
    """

    def __init__(
        self,
        client: ExecutorClient,
        arms: Arms,
        cameras: Mapping[str, WatchedCamera],
        supervisor: Supervisor,
        task: str,
        max_steps: int,
        options: EnvOptions,
        table_z: float = 0.0,
    ) -> None:
        self._client, self._arms, self._cameras, self._supervisor = client, arms, cameras, supervisor
        self.filmed: Callable[[], object] | None = None
        """Called after every action; None: nothing is filmed."""
        low = np.array([*WORKSPACE_LOW_M[:2], table_z + TIP_FLOOR_M])
        self._commands = ArmCommands(options.action_mode, CONTROL_DT, low, WORKSPACE_HIGH_M, DualArmKinematics())
        self.spec: Final = EnvSpec(
            name=client.greeting.capabilities.name,
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
        self._in_chunk = 0
        self._announced: Float32[np.ndarray, "h A"] = np.zeros((0, self.spec.action.size), np.float32)
        self._observed = 0.0

    def reset(self, seed: int, episode: int = 0) -> None:
        """Bring the arms home, have the episode laid out, and start it."""
        self._arms.home()
        self._instruction = self._supervisor.prepare(self.spec.task, seed, episode)
        self._commands.start(HOME_TIP)
        self._steps = self._in_chunk = 0
        self._announced = self._announced[:0]

    def observe(self) -> Observation:
        """Read cameras and arms; a picture that is old, repeated or missing is an error."""
        images: dict[str, UInt8[np.ndarray, "height width 3"]] = {
            name: camera.look().image for name, camera in self._cameras.items()
        }
        measured = self._client.require_well().require_measured()
        self._observed = float(measured.stamps.min())
        state = arm_state(measured.joints, self._commands.tips, measured.openings)
        return Observation(images, state, self._instruction, self._steps * CONTROL_DT)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Start a chunk. The executor checks all of it before it moves the arms.

        A rejected chunk is a `RobotFaultError` at the next `apply`; nothing of it is executed.
        """
        announced = np.asarray(actions, np.float32)
        if announced.ndim != 2 or announced.shape[1:] != self._low.shape or not np.isfinite(announced).all():
            needed = f"{self.spec.action.mode} takes (H, {len(self._low)}) finite numbers"
            raise InvalidActionError(f"actions of shape {announced.shape}; {needed}")
        self._announced = np.clip(announced, self._low, self._high)
        joints = self._arms.anchor(self._commands)
        self._commands.begin_chunk()
        waypoints, openings = [], []
        for action in self._announced:
            joints, opening = self._commands.next(action, joints)
            waypoints.append(joints)
            openings.append(opening)
        self._in_chunk = 0
        self._arms.follow(np.stack(waypoints), np.stack(openings), self._observed)

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """Wait until the next announced action is executed, and judge the episode."""
        interrupt.check()
        k = self._in_chunk
        if k >= len(self._announced) or not np.array_equal(np.clip(action, self._low, self._high), self._announced[k]):
            raise InvalidActionError(f"action {k} of the chunk is not the announced one; call begin_chunk first")
        self._arms.wait(k)
        self._in_chunk += 1
        self._steps += 1
        if self.filmed is not None:
            self.filmed()
        verdict = self._supervisor.judge()
        return StepStatus(success=verdict.success, done=verdict.done, sent=self._announced[k])

    def stop(self) -> None:
        """Let the arms come to rest and hold them there."""
        self._arms.hold()

    def close(self) -> None:
        """Do nothing: client, arms, cameras and supervisor are shared between environments."""
