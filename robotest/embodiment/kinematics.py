"""Differential inverse kinematics of the dual arm: tip poses to joint positions.

Simulation and the robot bridge use this same conversion. A tip pose is (x, y, z, yaw) in the world frame: the grasp
point, with the gripper pointing straight down and turned by yaw about the vertical; at yaw 0 the jaws close along y.
"""

from __future__ import annotations

import mujoco
import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75
from robotest.embodiment.workcell import DOWN_REST_RAD, SIDES, kinematic_xml

_DAMPING = 1e-2  # lambda of the damped least squares: 1 cm of task space
_POSTURE_GAIN = 0.03  # pull of the free elbow motion towards the rest posture, per iteration
_ITERATIONS = 4
_TOLERANCE = 2e-4
_LIMIT_MARGIN_RAD = 0.02


class DualArmKinematics:
    """Forward and inverse kinematics of both arms on a kinematic model.

    Buss, "Introduction to Inverse Kinematics with Jacobian Transpose, Pseudoinverse and Damped Least Squares
    methods" (2004), eq. 11, with the null-space posture task of Liegeois (1977).
    """

    def __init__(self) -> None:
        self._model = mujoco.MjModel.from_xml_string(kinematic_xml())
        self._data = mujoco.MjData(self._model)
        self._sites = [mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_SITE, f"{s}_tip") for s in SIDES]
        self._jacobian = np.zeros((6, self._model.nv))

    def tips(self, joints: Float64[np.ndarray, "2 7"]) -> Float64[np.ndarray, "2 4"]:
        """Return both tip poses (x, y, z [m], yaw [rad]) for joint positions [rad]."""
        self._forward(joints)
        poses = np.empty((2, 4))
        for arm, site in enumerate(self._sites):
            rotation = self._data.site_xmat[site]
            poses[arm, :3] = self._data.site_xpos[site]
            poses[arm, 3] = np.arctan2(rotation[3], rotation[0])
        return poses

    def solve(
        self,
        joints: Float64[np.ndarray, "2 7"],
        targets: Float64[np.ndarray, "2 4"],
        max_step: Float64[np.ndarray, " 7"],
    ) -> Float64[np.ndarray, "2 7"]:
        """Return joint positions near `joints` whose tips are at `targets`.

        Args:
            joints: initial solution: the last *commanded* positions [rad].
            targets: tip poses (x, y, z [m], yaw [rad]).
            max_step: largest change of each joint [rad]; the result stays within it and within the joint limits.

        For a target out of reach it returns the nearest pose that the damped iteration finds, without error or jump.
        """
        limit = rm75.JOINT_LIMIT_RAD - _LIMIT_MARGIN_RAD
        solution: Float64[np.ndarray, "2 7"] = joints.copy()
        for _ in range(_ITERATIONS):
            self._forward(solution)
            worst = 0.0
            for arm, site in enumerate(self._sites):
                error = self._error(site, targets[arm])
                worst = max(worst, float(np.abs(error).max()))
                solution[arm] += self._step(arm, site, error, solution[arm])
            np.clip(solution, joints - max_step, joints + max_step, out=solution)
            np.clip(solution, -limit, limit, out=solution)
            if worst < _TOLERANCE:
                break
        return solution

    def _forward(self, joints: Float64[np.ndarray, "2 7"]) -> None:
        self._data.qpos[:] = joints.ravel()
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)

    def _error(self, site: int, target: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, " 6"]:
        rotation = self._data.site_xmat[site].reshape(3, 3)
        c, s = np.cos(target[3]), np.sin(target[3])
        # Small-angle rotation error: half the summed cross products of current and target axes.
        target_axes = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
        turn = 0.5 * np.cross(rotation, target_axes, axisa=0, axisb=0).sum(axis=0)
        return np.concatenate([target[:3] - self._data.site_xpos[site], turn])

    def _step(
        self, arm: int, site: int, error: Float64[np.ndarray, " 6"], joints: Float64[np.ndarray, " 7"]
    ) -> Float64[np.ndarray, " 7"]:
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], site)
        jacobian = self._jacobian[:, 7 * arm : 7 * arm + 7]
        gram = jacobian @ jacobian.T
        gram.flat[::7] += _DAMPING**2
        posture = _POSTURE_GAIN * (DOWN_REST_RAD[arm] - joints)
        step: Float64[np.ndarray, " 7"] = posture + jacobian.T @ np.linalg.solve(gram, error - jacobian @ posture)
        return step
