"""The twin against the vendor's own arithmetic, against the project's kinematics, and against plain geometry."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from robotest.embodiment import collision as module
from robotest.embodiment import rm75, workcell
from robotest.embodiment.collision import ARM_CLEARANCE_M, TABLE_CLEARANCE_M, Twin
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.hardware.limits import DEFAULT_LIMITS

REST = workcell.DOWN_REST_RAD
needs_sdk = pytest.mark.skipif(
    importlib.util.find_spec("Robotic_Arm") is None,
    reason="RealMan's SDK is missing: pip install 'robotest[realman]'",
)
WORLD_FROM_BASE = Rotation.from_euler("z", workcell.BASE_YAW_RAD).as_matrix()


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


def near_rest(rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    poses: np.ndarray = REST + rng.normal(0, spread, (n, 2, 7))
    return poses.clip(-rm75.JOINT_LIMIT_RAD, rm75.JOINT_LIMIT_RAD)


# --- the vendor's SDK -------------------------------------------------------------------------------------------------

# In a process of its own: the library keeps its state in globals and writes to standard output from C.
ORACLE = """
import json, os, sys
answers = os.dup(1)
os.dup2(2, 1)
import numpy as np
from Robotic_Arm.rm_robot_interface import Algo, rm_force_type_e, rm_robot_arm_model_e
algo = Algo(rm_robot_arm_model_e.RM_MODEL_RM_75_E, rm_force_type_e.RM_MODEL_RM_SF_E)
degrees = np.load(sys.argv[1]).tolist()
poses = [algo.rm_algo_forward_kinematics(q, 0) for q in degrees]
collisions = [algo.rm_algo_safety_robot_self_collision_detection(q) for q in degrees]
os.write(answers, b"")
with os.fdopen(answers, "w") as file:
    json.dump({"poses": poses, "collisions": collisions}, file)
os._exit(0)
"""


@dataclasses.dataclass(frozen=True)
class Oracle:
    """The SDK's results for joint positions of one arm.

    Attributes:
        joints: [rad].
        positions: of the flange in the arm's base frame [m].
        rotations: of the flange in the arm's base frame.
        collides: with itself.
    """

    joints: np.ndarray
    positions: np.ndarray
    rotations: np.ndarray
    collides: np.ndarray


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    joints = np.random.default_rng(0).uniform(-0.999, 0.999, (4000, 7)) * rm75.JOINT_LIMIT_RAD
    path: Path = tmp_path_factory.mktemp("sdk") / "degrees.npy"
    np.save(path, np.rad2deg(joints))
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", ORACLE, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    output: Mapping[str, Any] = json.loads(done.stdout)
    poses = np.array(output["poses"])
    rotations = Rotation.from_quat(poses[:, [4, 5, 6, 3]]).as_matrix()
    return Oracle(joints, poses[:, :3], rotations, np.array(output["collisions"]) != 0)


@needs_sdk
@pytest.mark.slow
@pytest.mark.parametrize("arm", [0, 1])
def test_flanges_are_where_the_vendor_says(twin: Twin, oracle: Oracle, arm: int) -> None:
    joints = REST.copy()
    assert min(map(len, (oracle.joints, oracle.positions, oracle.rotations))) >= 1000
    for q, position, rotation in zip(oracle.joints[:1000], oracle.positions, oracle.rotations, strict=False):
        joints[arm] = q
        twin.move(joints)
        flange = twin._data.body(f"{workcell.SIDES[arm]}_hand")
        expected = np.array(workcell.BASE_POSITION_M[arm]) + WORLD_FROM_BASE @ position
        assert np.linalg.norm(flange.xpos - expected) < 1e-5
        np.testing.assert_allclose(flange.xmat.reshape(3, 3), WORLD_FROM_BASE @ rotation, atol=1e-5)


def own_contacts(twin: Twin, joints: np.ndarray) -> list[tuple[str, str]]:
    """Return the self-colliding pairs of parts of the left arm, with the right arm at rest."""
    twin.contact(np.stack([joints, REST[1]]))
    names = (tuple(twin._model.geom(int(g)).name for g in c.geom) for c in twin._data.contact)
    return [(one, other) for one, other in names if all(n.startswith("left_") for n in (one, other))]


@needs_sdk
@pytest.mark.slow
def test_self_collisions_are_as_the_vendor_says_in_all_but_few_poses(twin: Twin, oracle: Oracle) -> None:
    """Of 4,000 random poses the SDK calls 95 collisions, the twin 143: it has a gripper, and keeps 2 cm of clearance.

    The SDK's base is thicker than the twin's: 7 poses it alone rejects. All of them are within 35 mm by the twin, and
    6 of them the twin rejects for the pedestal, the table or the workspace. The seventh, a palm 21 mm from the base, is
    admitted: 1 of 4,000.
    """
    ours = np.array([
        any("pedestal" not in one + other for one, other in own_contacts(twin, q)) for q in oracle.joints
    ])  # fmt: skip
    missed = np.flatnonzero(oracle.collides & ~ours)
    assert np.mean(oracle.collides != ours) < 0.03
    assert len(missed) / oracle.collides.sum() < 0.1
    admitted = []
    for q in oracle.joints[missed]:
        contact = twin.contact(np.stack([q, REST[1]]))
        tip = twin.tips()[0]
        if not contact and np.all((tip >= DEFAULT_LIMITS.workspace_low) & (tip <= DEFAULT_LIMITS.workspace_high)):
            admitted.append(q)
    assert len(admitted) / len(ours) <= 0.0005
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ARM_CLEARANCE_M", 0.035)
        wider = Twin()
    assert all(own_contacts(wider, q) for q in admitted)


# --- the project's kinematics -----------------------------------------------------------------------------------------


def test_tips_are_those_of_the_kinematics(twin: Twin) -> None:
    kinematics = DualArmKinematics()
    for pose in near_rest(np.random.default_rng(1), 100, 1.0):
        twin.move(pose)
        np.testing.assert_allclose(twin.tips(), kinematics.tips(pose)[:, :3], atol=1e-12)


def test_after_a_contact_was_looked_for_tips_are_those_of_its_pose(twin: Twin) -> None:
    first, second = near_rest(np.random.default_rng(2), 2, 0.1)
    twin.move(second)
    expected = twin.tips()
    twin.contact(first)
    given_ = twin.tips()
    twin.contact(second)
    np.testing.assert_array_equal(twin.tips(), expected)
    assert not np.array_equal(given_, expected), "what was returned before does not change"


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    poses = near_rest(np.random.default_rng(3), 60, 0.5)
    twin = Twin()
    answers = [twin.contact(q) for q in poses]
    assert [twin.contact(q) for q in poses[::-1]] == answers[::-1]
    assert [Twin().contact(q) for q in poses[:5]] == answers[:5]


# --- what is near what ------------------------------------------------------------------------------------------------


def _changed(**fields: float) -> np.ndarray:
    """The rest pose with joints of one arm changed: l2=1.0 is joint 2 of the left arm."""
    pose: np.ndarray = REST.copy()
    for name, value in fields.items():
        pose["lr".index(name[0]), int(name[1:]) - 1] = value
    return pose


@pytest.mark.parametrize(
    ("pose", "parts"),
    [
        (_changed(l2=1.0), r"table and left (finger|pad) [ab]"),
        (_changed(r2=1.0), r"table and right (finger|pad) [ab]"),
        (_changed(l1=-0.7, r1=0.7), r"left .* and right .*"),
        (_changed(l2=-0.3, l4=2.33, l6=2.2), r"left (link1|link2) and left .*"),
        (_changed(l1=1.57, l2=1.9, l4=1.4, l6=0.3), r"left .* and left pedestal|left pedestal and left .*"),
        (_changed(l1=-1.5, l2=1.3, l4=0.9), r"(left .* and right .*|right .* and left .*)"),
    ],
)
def test_a_message_names_both_parts_and_their_distance(twin: Twin, pose: np.ndarray, parts: str) -> None:
    contact = twin.contact(pose)
    assert contact is not None
    assert re.fullmatch(rf"({parts}) (\d+ mm apart|meet)", contact), contact


def test_the_rest_pose_touches_nothing(twin: Twin) -> None:
    assert twin.contact(REST) is None


def test_the_table_is_where_it_is_said_to_be() -> None:
    lowest = _changed(l2=0.9)
    assert Twin(0.0).contact(lowest) is None
    assert "table" in str(Twin(0.03).contact(lowest))
    assert "table" in str(Twin(0.0).contact(_changed(l2=1.0)))
    assert Twin(-0.06).contact(_changed(l2=1.0)) is None


@pytest.mark.parametrize("name", ["ARM_CLEARANCE_M", "TABLE_CLEARANCE_M"])
def test_whoever_is_too_near_for_a_clearance_is_too_near_for_a_larger_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = []
    for clearance in (0.0, 0.002, 0.02, 0.05):
        monkeypatch.setattr(module, name, clearance)
        twins.append(Twin())
    counts = np.zeros(4, int)
    for pose in near_rest(np.random.default_rng(4), 300, 0.5):
        found = [t.contact(pose) is not None for t in twins]
        assert found == sorted(found)
        counts += found
    assert counts[0] < counts[-1]


def test_arms_that_come_nearer_come_into_contact_once(twin: Twin) -> None:
    """Follow a motion that approaches, and then crosses, the clearance."""
    found = [twin.contact(_changed(l1=-x, r1=x)) is not None for x in np.linspace(0, 0.6, 300)]
    assert found == sorted(found)
    assert found[-1]


def test_every_part_of_one_arm_is_watched_against_every_part_of_the_other(twin: Twin) -> None:
    model = twin._model
    pairs = {frozenset((model.geom(int(a)).name, model.geom(int(b)).name)): float(margin)
             for a, b, margin in zip(model.pair_geom1, model.pair_geom2, model.pair_margin, strict=True)}  # fmt: skip
    names = [model.geom(i).name for i in range(model.ngeom)]
    left, right = ([n for n in names if n.startswith(side) and "pedestal" not in n] for side in workcell.SIDES)
    assert len(left) == len(right) == 12
    for one, other in itertools.product(left, right):
        assert pairs[frozenset((one, other))] == ARM_CLEARANCE_M
    for part in (*left, *right):
        if part.split("_")[1] not in ("link1", "link2"):  # the column that stands on its pedestal
            for thing in ("table", "left_pedestal", "right_pedestal"):
                assert pairs[frozenset((part, thing))] == TABLE_CLEARANCE_M
    hands = {"palm", "finger_a", "finger_b", "pad_a", "pad_b", "link7"}
    for link, hand in itertools.product(("link1", "link2", "link3", "link4"), hands):
        assert frozenset((f"left_{link}", f"left_{hand}")) in pairs


# --- plain geometry ---------------------------------------------------------------------------------------------------


def _segment_and_radius(twin: Twin, geom: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre, half axes and radius: a capsule is a segment with a radius, a box a parallelepiped with none."""
    data, model = twin._data, twin._model
    rotation, size = data.geom_xmat[geom].reshape(3, 3), model.geom_size[geom]
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return data.geom_xpos[geom], rotation[:, 2:] * size[1], float(size[0])
    assert model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
    return data.geom_xpos[geom], rotation * size, 0.0


def distance(twin: Twin, one: int, other: int) -> float:
    """Least distance of two geoms by quadratic programming [m]; where boxes overlap, minus their capsules' radii."""
    (a, axes_a, radius_a), (b, axes_b, radius_b) = (_segment_and_radius(twin, g) for g in (one, other))
    nearest = lsq_linear(np.hstack([axes_a, -axes_b]), b - a, (-1, 1), tol=1e-12)
    return float(np.sqrt(2 * nearest.cost)) - radius_a - radius_b


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 0.9]))
def test_contacts_are_those_of_plain_geometry(twin: Twin, seed: int, spread: float) -> None:
    (pose,) = near_rest(np.random.default_rng(seed), 1, spread)
    contact, model = twin.contact(pose), twin._model
    reach = [float(model.geom_rbound[g]) for g in range(model.ngeom)]
    excess = [np.inf]
    for one, other, margin in zip(model.pair_geom1, model.pair_geom2, model.pair_margin, strict=True):
        if mujoco.mjtGeom.mjGEOM_CYLINDER in model.geom_type[[one, other]]:
            continue
        apart = float(np.linalg.norm(twin._data.geom_xpos[one] - twin._data.geom_xpos[other]))
        if apart < reach[one] + reach[other] + margin:
            excess.append(distance(twin, int(one), int(other)) - margin)
    if min(excess) < -1e-5:
        assert contact is not None
    elif min(excess) > 1e-5:
        assert contact is None or "pedestal" in contact


def test_a_pedestal_is_kept_clear_of(twin: Twin) -> None:
    """The gripper on its way down beside its own column, against the distance from the column's axis."""
    radius, half = workcell.PEDESTAL_M
    top = workcell.PEDESTAL_Z_M + half
    found = {True: 0, False: 0}
    for turn, bend in itertools.product(np.linspace(1.0, 3.0, 25), np.linspace(1.2, 2.2, 12)):
        pose = _changed(l1=turn, l2=bend, l4=1.8, l6=0.3)
        twin.contact(pose)
        names = [{twin._model.geom(int(g)).name for g in c.geom} for c in twin._data.contact]
        touching = {"left_pedestal", "left_link7"} in names
        centre, axes, thickness = _segment_and_radius(twin, twin._model.geom("left_link7").id)
        points = centre + np.linspace(-1, 1, 400)[:, None] * axes.T - [*workcell.BASE_POSITION_M[0][:2], 0]
        outside = np.hypot(
            np.maximum(np.hypot(points[:, 0], points[:, 1]) - radius, 0), np.maximum(points[:, 2] - top, 0)
        )
        apart = outside.min() - thickness - TABLE_CLEARANCE_M
        if abs(apart) > 1e-3:
            assert touching == (apart < 0)
            found[touching] += 1
    assert min(found.values()) > 5
