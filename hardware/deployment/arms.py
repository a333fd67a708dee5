"""What executes the chunks of a `RobotEnv`: the executor, or in shadow mode nothing."""

from __future__ import annotations

import contextlib
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from robotest.embodiment.actions import ArmCommands, home_joints
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.control.governor import JointTrajectory
from robotest.hardware.control.status import Mode, Status
from robotest.hardware.robot import RobotError
from robotest.types import Clock

HOMING_RAD_S: Final = 0.5
_LIFT_M = 0.25
_HOMING_STEPS = 250
_GRIPPER_STEPS = 10
_SETTLE_S = 2.0


@runtime_checkable
class Arms(Protocol):
    """Both arms, as an environment moves them. Steps take `CONTROL_DT`."""

    def home(self) -> None:
        """Bring the arms to the pose in which every episode starts."""
        ...

    def anchor(self, commands: ArmCommands) -> Float64[np.ndarray, "2 7"]:
        """Return the joint positions [rad] from which the next chunk starts; may restart `commands` from them."""
        ...

    def follow(
        self, joints: Float64[np.ndarray, "H 2 7"], openings: Float64[np.ndarray, "H 2"], observed: float
    ) -> None:
        """Start a chunk.

        Args:
            joints: positions at the end of each step [rad].
            openings: of the grippers, 0 closed to 1 open.
            observed: when the state arrived on which the chunk was decided [s].
        """
        ...

    def wait(self, step: int) -> None:
        """Wait until a step of the chunk is executed; for the last one, until the arms have reached it."""
        ...

    def hold(self) -> None:
        """Let the arms come to rest. Never raises."""
        ...


class ExecutorArms:
    """Arms that the executor moves. Implements `Arms`.

    Args:
        client: of the executor.
        clock: the executor's.
    """

    def __init__(self, client: ExecutorClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._kinematics = DualArmKinematics()
        self._home = home_joints(self._kinematics)
        self._number = client.status.chunk

    def home(self) -> None:
        """Bring the arms home slowly, grippers open. Both tips are lifted over the table first.

        Raises:
            RobotFaultError: the way is not free; the arms have to be moved by hand.
            RobotError: the arms are too far from home.
        """
        status = self._client.require_well()
        if status.mode is Mode.FOLLOWING:
            self._client.hold()
            status = self._at_rest()
        start = status.commanded.joints
        lifted = self._lifted(start)
        self._go(start, lifted)
        self._go(lifted, self._home)

    def move_grippers(self, openings: Float64[np.ndarray, " 2"]) -> Float64[np.ndarray, " 2"]:
        """Move the grippers while the arms stand still, and return the measured openings."""
        joints = self._client.require_well().commanded.joints
        n = _GRIPPER_STEPS
        self.follow(np.repeat(joints[None], n, 0), np.repeat(openings[None], n, 0), self._clock.now())
        return self._at_rest().require_measured().openings

    def anchor(self, commands: ArmCommands) -> Float64[np.ndarray, "2 7"]:  # noqa: ARG002 - the last command holds
        """Return the last set-point."""
        return self._client.require_well().commanded.joints

    def follow(
        self, joints: Float64[np.ndarray, "H 2 7"], openings: Float64[np.ndarray, "H 2"], observed: float
    ) -> None:
        """Send a chunk to the executor, under a new number: the governor rejects old ones."""
        self._number += 1
        self._client.follow(JointTrajectory(self._number, joints, openings, CONTROL_DT, observed))

    def wait(self, step: int) -> None:
        """Wait until the executor is past a step.

        Raises:
            RobotFaultError: the arms were stopped.
            RobotError: it takes longer than it should.
        """

        def executed(status: Status) -> bool:
            return status.chunk == self._number and (status.step > step or status.mode is Mode.HOLDING)

        self._client.wait(executed, (step + 1) * CONTROL_DT + _SETTLE_S, f"step {step} of the chunk")

    def hold(self) -> None:
        """Let the arms come to rest. If the executor is gone, there is nothing to be done from here."""
        with contextlib.suppress(RobotError):
            self._client.hold()

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
            self.follow(np.linspace(start, goal, n + 1)[1:], np.ones((n, 2)), self._clock.now())
            self._at_rest(n * CONTROL_DT)

    def _at_rest(self, duration_s: float = 0.0) -> Status:
        """Wait for the end of a motion that takes `duration_s` [s]."""

        def rests(status: Status) -> bool:
            return status.at_rest and status.mode is Mode.HOLDING and status.chunk == self._number

        return self._client.wait(rests, duration_s + 3 * _SETTLE_S, "the arms to come to rest")
