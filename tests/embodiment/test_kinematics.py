"""The arms' geometry against numbers of the vendor's SDK, and the inverse kinematics against the forward."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robotest.embodiment import rm75, workcell
from robotest.embodiment.kinematics import DualArmKinematics

MAX_STEP = rm75.JOINT_SPEED_RAD_S * 0.1


@pytest.fixture(scope="module")
def kinematics() -> DualArmKinematics:
    return DualArmKinematics()


def flange(joints_deg: list[float]) -> np.ndarray:
    """Flange position in the left arm's base frame [m]."""
    model = mujoco.MjModel.from_xml_string(workcell.kinematic_xml())
    data = mujoco.MjData(model)
    data.qpos[:7] = np.deg2rad(joints_deg)
    mujoco.mj_kinematics(model, data)
    base, hand = data.body("left_base"), data.body("left_hand")
    return np.asarray(base.xmat.reshape(3, 3).T @ (hand.xpos - base.xpos))


# Printed by Robotic_Arm 1.1.6, Algo(RM_MODEL_RM_75_E, RM_MODEL_RM_SF_E).rm_algo_forward_kinematics(joints, 1).
@pytest.mark.parametrize(
    ("joints_deg", "expected_m"),
    [
        ([0, 0, 0, 0, 0, 0, 0], [0.0, 0.0, 0.8790000081]),
        ([10, 20, 30, 40, 50, 60, 70], [0.2603611648, 0.2805736661, 0.5776922698]),
        ([0, 90, 0, 0, 0, 0, 0], [0.6385000348, 0.0, 0.2404999595]),
        ([0, 0, 0, 90, 0, 0, 0], [0.3824999928, 0.0, 0.4965000152]),
        ([0, 0, 0, 0, 0, 90, 0], [0.1724999994, 0.0, 0.7064999938]),
    ],
)
def test_flange_is_where_the_vendor_says(joints_deg: list[float], expected_m: list[float]) -> None:
    np.testing.assert_allclose(flange(joints_deg), expected_m, atol=1e-5)


# Where both arms reach with the gripper down; the mirror image is the right arm's.
reachable = st.tuples(st.floats(-0.33, -0.02), st.floats(-0.08, 0.07), st.floats(0.02, 0.18), st.floats(-0.6, 0.6))


@settings(max_examples=60, deadline=None)
@given(reachable, reachable)
def test_solving_reaches_the_target(left: tuple[float, ...], right: tuple[float, ...]) -> None:
    kinematics = DualArmKinematics()
    targets = np.array([left, right])
    targets[1, 0] *= -1
    joints = workcell.DOWN_REST_RAD.copy()
    for _ in range(25):
        joints = kinematics.solve(joints, targets, MAX_STEP)
    np.testing.assert_allclose(kinematics.tips(joints), targets, atol=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8))
def test_no_target_makes_a_jump_or_leaves_the_limits(numbers: list[float]) -> None:
    kinematics = DualArmKinematics()
    joints = workcell.DOWN_REST_RAD.copy()
    for _ in range(10):
        after = kinematics.solve(joints, np.array(numbers).reshape(2, 4), MAX_STEP)
        assert np.all(np.abs(after - joints) <= MAX_STEP + 1e-12)
        assert np.all(np.abs(after) <= rm75.JOINT_LIMIT_RAD)
        joints = after


def test_a_reached_target_is_a_fixed_point(kinematics: DualArmKinematics) -> None:
    tips = kinematics.tips(workcell.DOWN_REST_RAD)
    joints = kinematics.solve(workcell.DOWN_REST_RAD, tips, MAX_STEP)
    np.testing.assert_allclose(joints, workcell.DOWN_REST_RAD, atol=5e-3)
