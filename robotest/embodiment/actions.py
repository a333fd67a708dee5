"""Conversion of a policy's actions to set-points of both arms, shared by simulation and real robot."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from robotest.embodiment import rm75, workcell
from robotest.embodiment.kinematics import DualArmKinematics

HOME_TIP: Final = np.array([[-0.30, -0.06, 0.20, 0.0], [0.30, -0.06, 0.20, 0.0]])
"""Tip poses at the start of every episode: x, y, z [m], yaw [rad]."""


class ArmCommands:
    """Converts actions to set-points; stateful, since actions are offsets from the commanded tips.

    Args:
        mode: ``tip`` or ``joint``, the action modes of the dual-arm suite.
        control_dt: duration of an action [s].
        low: lower corner of the box to which tips are clipped [m].
        high: upper corner [m].
        kinematics: of both arms.
    """

    def __init__(
        self,
        mode: str,
        control_dt: float,
        low: Float64[np.ndarray, " 3"],
        high: Float64[np.ndarray, " 3"],
        kinematics: DualArmKinematics,
    ) -> None:
        self._mode, self._low, self._high = mode, low, high
        self._kinematics = kinematics
        self._max_step = rm75.JOINT_SPEED_RAD_S * control_dt
        self.tips: Float64[np.ndarray, "2 4"] = np.zeros((2, 4))
        """Last commanded tip poses: x, y, z [m], yaw [rad]."""
        self.anchor: Float64[np.ndarray, "2 4"] = np.zeros((2, 4))
        """Tip poses commanded when the chunk started."""

    def start(self, tips: Float64[np.ndarray, "2 4"]) -> None:
        """Begin an episode at these tip poses."""
        self.tips, self.anchor = tips.copy(), tips.copy()

    def begin_chunk(self) -> None:
        """Make the currently commanded tips the reference of offsets."""
        self.anchor = self.tips.copy()

    def next(
        self, action: Float32[np.ndarray, " A"], joints: Float64[np.ndarray, "2 7"]
    ) -> tuple[Float64[np.ndarray, "2 7"], Float64[np.ndarray, " 2"]]:
        """Return the joint positions [rad] and gripper openings for an action, given the last commanded `joints`."""
        return self._tips(action, joints) if self._mode == "tip" else self._joints(action, joints)

    def _tips(
        self, action: Float32[np.ndarray, " A"], joints: Float64[np.ndarray, "2 7"]
    ) -> tuple[Float64[np.ndarray, "2 7"], Float64[np.ndarray, " 2"]]:
        per_arm = action.astype(np.float64).reshape(2, 5)
        target = self.anchor + per_arm[:, :4]
        np.clip(target[:, :3], self._low, self._high, out=target[:, :3])
        self.tips = target
        return self._kinematics.solve(joints, target, self._max_step), per_arm[:, 4]

    def _joints(
        self, action: Float32[np.ndarray, " A"], joints: Float64[np.ndarray, "2 7"]
    ) -> tuple[Float64[np.ndarray, "2 7"], Float64[np.ndarray, " 2"]]:
        per_arm = action.astype(np.float64).reshape(2, 8)
        target = np.clip(per_arm[:, :7], joints - self._max_step, joints + self._max_step)
        np.clip(target, -rm75.JOINT_LIMIT_RAD, rm75.JOINT_LIMIT_RAD, out=target)
        self.tips = self._kinematics.tips(target)
        return target, per_arm[:, 7]


def arm_state(
    joints: Float64[np.ndarray, "2 7"], tips: Float64[np.ndarray, "2 4"], openings: Float64[np.ndarray, " 2"]
) -> Float32[np.ndarray, " S"]:
    """Return the state of the dual-arm suite: per arm joints, commanded tip, measured opening."""
    return np.concatenate([np.concatenate([joints[a], tips[a], openings[a : a + 1]]) for a in (0, 1)], dtype=np.float32)


def home_joints(kinematics: DualArmKinematics) -> Float64[np.ndarray, "2 7"]:
    """Return the joint positions [rad] for the home tips, solved from the rest posture."""
    joints: Float64[np.ndarray, "2 7"] = workcell.DOWN_REST_RAD.copy()
    for _ in range(30):
        joints = kinematics.solve(joints, HOME_TIP, np.full(7, 0.2))
    return joints
