"""The governor against adversaries: whatever is asked of it, what it gives out stays within every limit, exactly.

Limits are checked here in whole thousandths of a degree, from the data sheet's degrees and not from the governor's own
numbers, with a twin of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from robotest.embodiment import workcell
from robotest.embodiment.collision import Twin
from robotest.errors import RobotestError
from robotest.hardware.control.governor import (
    Governor,
    JointTrajectory,
    RejectedChunkError,
    Shaped,
    Tolerances,
    fastest,
)
from robotest.hardware.limits import DEFAULT_LIMITS, arm_limits

TICK = 0.01
UNIT = float(np.deg2rad(0.001))
REST = workcell.DOWN_REST_RAD
# In units of 0.001 deg: limits less the margin of 0.01 rad, 180 deg/s over a tick, 600 deg/s^2 over a tick squared.
LIMIT = np.tile(np.array([178, 130, 178, 135, 178, 128, 360]) * 1000 - np.rad2deg(0.01) * 1000, (2, 1))
SPEED, ACCELERATION = 1800, 60
# What the arms are sent at: each is beyond what is allowed, or passes through it.
BAD_POSES = {
    "table": REST + np.array([0, 0.6, 0, 0, 0, 0, 0]),
    "other arm": np.stack([REST[0] - np.array([1.4, 0, 0, 0, 0, 0, 0]), REST[1]]),
    "both arms": REST + np.array([[-0.9] + [0] * 6, [0.9] + [0] * 6]),
    "own column": np.stack([[0.0, -0.3, 0.0, 2.33, 0.0, 2.0, 0.0], REST[1]]),
    "straight up": np.zeros((2, 7)),
    "behind": REST + np.array([3.0, 0, 0, 0, 0, 0, 0]),
    "limits": np.tile([0.0, 0.7, 0.0, 1.5, 3.09, 2.22, 6.27], (2, 1)),
    "other limits": np.tile([0.0, 0.7, 0.0, 1.5, -3.09, 0.94, -6.27], (2, 1)),
}
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Raw(JointTrajectory):
    """A chunk as it comes over the wire: nothing looked at its types, as in use but not under the tests' checks."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)


@pytest.fixture(scope="module")
def twin() -> Twin:
    return Twin()


def governor_at(twin: Twin, joints: np.ndarray = REST, **tolerances: Any) -> Governor:
    governor = Governor(DEFAULT_LIMITS, twin, TICK, UNIT, Tolerances(**tolerances))
    governor.start_at(joints, np.ones(2))
    return governor


@pytest.fixture
def governor(twin: Twin) -> Governor:
    return governor_at(twin)


def chunk(joints: np.ndarray, /, number: int = 0, dt: float = 0.1, **fields: Any) -> Raw:
    values = {"number": number, "joints": joints, "openings": np.ones((len(joints), 2)), "dt": dt, "observed": 0.0}
    return Raw(**values | fields)


def still(steps: int = 3, **fields: Any) -> Raw:
    return chunk(np.repeat(REST[None], steps, 0), **fields)


def pose(arm: int, **changes: float) -> np.ndarray:
    joints: np.ndarray = REST.copy()
    for name, value in changes.items():
        joints[arm, int(name[1:]) - 1] = value
    return joints


def towards(start: np.ndarray, end: np.ndarray, dt: float = 0.1, fraction: float = 0.9) -> np.ndarray:
    """Waypoints on the straight line, the quickest joint at a fraction of 180 deg/s."""
    steps = max(1, int(np.ceil(np.abs(end - start).max() / (fraction * np.pi * dt))))
    line: np.ndarray = start + (end - start) * (np.arange(1, steps + 1) / steps)[:, None, None]
    return line


@dataclasses.dataclass
class Course:
    """Drives a governor and looks at every set-point that it gives out."""

    governor: Governor
    twin: Twin

    def __post_init__(self) -> None:
        self.position = self._units(self.governor.commanded.joints)
        self.velocity = np.zeros((2, 7), np.int64)
        self.openings = self.governor.commanded.openings
        self.number = 0

    def _units(self, joints: np.ndarray) -> np.ndarray:
        units: np.ndarray = np.rint(np.rad2deg(joints) * 1000).astype(np.int64)
        np.testing.assert_array_equal(units * UNIT, joints)  # on the grid, to the last bit
        return units

    def look(self, shaped: Shaped) -> Shaped:
        position = self._units(shaped.setpoint.joints)
        velocity = position - self.position
        assert np.all(np.abs(position) <= LIMIT)
        assert np.abs(velocity).max() <= SPEED
        assert np.abs(velocity - self.velocity).max() <= ACCELERATION
        assert self.twin.contact(shaped.setpoint.joints) is None
        tips = self.twin.tips()
        assert np.all(tips >= DEFAULT_LIMITS.workspace_low)
        assert np.all(tips <= DEFAULT_LIMITS.workspace_high)
        openings = shaped.setpoint.openings
        assert np.all((openings >= 0) & (openings <= 1))
        assert np.abs(openings - self.openings).max() <= DEFAULT_LIMITS.opening_speed * TICK + 1e-12
        assert self.governor.at_rest == (not velocity.any())
        self.position, self.velocity, self.openings = position, velocity, openings
        return shaped

    def admit(self, **fields: Any) -> bool:
        """Whether it was admitted; if not, nothing may have changed but that the arms brake now."""
        before = self.governor.commanded
        fields = {"number": self.number, "dt": 0.1, "observed": 0.0} | fields
        try:
            self.governor.admit(Raw(**fields), 0.05)
        except (RejectedChunkError, TypeError, ValueError):  # the executor takes all three for a rejection
            assert not self.governor.busy
            after = self.governor.commanded
            np.testing.assert_array_equal(after.joints, before.joints)
            np.testing.assert_array_equal(after.openings, before.openings)
            return False
        self.number = fields["number"] + 1
        return True

    def follow(self, ticks: int) -> None:
        for _ in range(ticks):
            self.look(self.governor.follow())

    def stop(self, step: Callable[[], Shaped] | None = None) -> None:
        """Brake; standing still may take no longer than the largest speed needs."""
        step = step or self.governor.brake
        for _ in range(SPEED // ACCELERATION + 2):
            slower = np.abs(self.velocity)
            self.look(step())
            assert np.all(np.abs(self.velocity) <= slower)
        assert self.governor.at_rest


# --- whatever sequence of chunks --------------------------------------------------------------------------------------


def waypoints(kind: str, rng: np.random.Generator, course: Course, dt: float) -> Any:
    """Joints of a chunk of some kind, good or bad, from where the arms are."""
    here = course.governor.commanded.joints
    steps = int(rng.integers(1, 9))
    if kind in BAD_POSES:
        line = towards(here, BAD_POSES[kind] + rng.normal(0, 0.05, (2, 7)), dt, rng.uniform(0.3, 1.05))[:40]
        safe = list(itertools.takewhile(lambda q: course.governor._unsafe(np.rint(q / UNIT).astype(int)) is None, line))
        # Right up to what is in the way, which is then met at full speed; or, with few waypoints, through it.
        return np.array(safe) if safe and rng.random() < 0.8 else line[::3]
    if kind == "walk":
        return here + np.cumsum(rng.normal(0, rng.choice([0.01, 0.05, 0.15]) * dt / 0.1, (steps, 2, 7)), axis=0)
    if kind == "zigzag":
        turns = np.where(np.arange(steps) % 2, 0, rng.uniform(-1, 1, (2, 7, 1)) * np.pi * dt)
        return here + np.moveaxis(turns, -1, 0)
    if kind == "jump":
        return here + rng.uniform(-1, 1, (steps, 2, 7))
    here_often = np.repeat(here[None], steps, 0)
    some = rng.random((steps, 2, 7)) < 0.1
    some[0, 0, 0] = True
    nonsense: dict[str, Any] = {
        "nan": np.where(some, np.nan, here),
        "inf": np.where(some, np.inf, here),
        "huge": np.full((steps, 2, 7), np.iinfo(np.int64).max),
        "degrees": np.rad2deg(here_often),
        "complex": here_often.astype(complex),
        "bool": np.zeros((steps, 2, 7), bool),
        "text": np.full((steps, 2, 7), "0.1"),
        "ragged": [here.tolist(), here.tolist()[:1]],
        "none": None,
        "half precision": here_often.astype(np.float16),
        "empty": np.zeros((0, 2, 7)),
        "long": np.repeat(here[None], 257, 0),
    }
    return nonsense[kind]


USABLE = [*BAD_POSES, "walk", "zigzag"]
NONSENSE = ["jump", "nan", "inf", "huge", "degrees", "complex", "bool", "text", "ragged", "none", "empty", "long"]
moves = st.tuples(
    st.sampled_from([*USABLE, *USABLE, "half precision", *NONSENSE]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.03, 0.1, 0.1, 0.25, 0.5]),
    st.sampled_from([1, 2, 7, 15, 40]),
    st.sampled_from(["follow", "follow", "brake", "mixed"]),
)


@settings(QUICK, max_examples=40)
@given(st.lists(moves, min_size=1, max_size=7), st.sampled_from([0.3, 9.0]))
@example(
    [("limits", 1, 0.1, 40, "follow"), ("walk", 2, 0.02, 15, "follow"), ("other limits", 1, 0.1, 40, "follow")], 9.0
)
@example([("both arms", 3, 0.5, 40, "follow"), ("both arms", 4, 0.1, 40, "follow"), ("nan", 0, 0.1, 2, "mixed")], 0.3)
def test_every_setpoint_is_within_every_limit(
    twin: Twin, script: list[tuple[str, int, float, int, str]], lag: float
) -> None:
    course = Course(governor_at(twin, lag=lag), twin)
    for kind, seed, dt, ticks, way in script:
        rng = np.random.default_rng(seed)
        joints = waypoints(kind, rng, course, dt)
        length = len(joints) if joints is not None else 1
        admitted = course.admit(joints=joints, openings=rng.uniform(-0.3, 1.3, (length, 2)), dt=dt)
        assert not admitted or kind not in NONSENSE or kind == "jump"
        for k in range(ticks):
            braking = way == "brake" or (way == "mixed" and k % 5 == 4)
            course.look(course.governor.brake() if braking else course.governor.follow())
    course.stop()


@QUICK
@given(st.sampled_from(USABLE), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 9.0]))
def test_every_chunk_comes_to_an_end(twin: Twin, kind: str, seed: int, lag: float) -> None:
    """Reached or given up: nothing makes the arms creep or wait for ever before what is in the way."""
    rng = np.random.default_rng(seed)
    course = Course(governor_at(twin, lag=lag), twin)
    dt = float(rng.choice([0.02, 0.1]))
    joints = waypoints(kind, rng, course, dt)[:12]
    assume(course.admit(joints=joints, openings=np.ones((len(joints), 2)), dt=dt))
    for _ in range(len(joints) * round(dt / TICK) + 200):
        if not course.governor.busy:
            break
        course.follow(1)
    assert not course.governor.busy


@pytest.mark.parametrize("kind", BAD_POSES)
@pytest.mark.parametrize("dt", [0.02, 0.1, 0.5])
def test_arms_aimed_at_an_obstacle_at_full_speed_stop_before_it(twin: Twin, kind: str, dt: float) -> None:
    course = Course(governor_at(twin, lag=9.0), twin)
    line = towards(REST, BAD_POSES[kind], dt)
    safe = [q for q in line if course.governor._unsafe(np.rint(q / UNIT).astype(np.int64)) is None]
    if not safe:  # the first waypoint lies in the way already
        assert not course.admit(joints=line, openings=np.ones((len(line), 2)), dt=dt)
    elif course.admit(joints=np.array(safe), openings=np.ones((len(safe), 2)), dt=dt):
        while course.governor.busy:
            course.follow(1)
    course.stop()


def test_an_obstacle_between_allowed_waypoints_is_found_on_the_way(twin: Twin) -> None:
    """The left forearm would go through the right one, within one step; it is free on either side."""
    right = pose(1, j1=0.55)[1]
    before, after = (np.stack([pose(0, j1=x)[0], right]) for x in (-0.45, -1.2))
    course = Course(governor_at(twin, before), twin)
    assert course.admit(joints=after[None], openings=np.ones((1, 2)), dt=0.5)
    held = [h for h in (course.look(course.governor.follow()).held for _ in range(100)) if h]
    assert len(held) == 1
    assert re.search("(left|right) .* and (left|right) .* mm apart", held[0])
    assert course.governor.at_rest


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_after_any_prefix_braking_is_over_poses_that_were_looked_at_before(seed: int, ticks: int) -> None:
    looked: set[bytes] = set()

    class Watched(Twin):
        def contact(self, joints: Any) -> str | None:
            looked.add(np.asarray(joints).tobytes())
            return super().contact(joints)

    rng = np.random.default_rng(seed)
    course = Course(governor_at(Watched()), _plain_twin())
    for kind in rng.choice(USABLE, 2):
        joints = waypoints(str(kind), rng, course, 0.1)
        course.admit(joints=joints, openings=np.ones((len(joints), 2)))
        course.follow(ticks)
    known = set(looked)

    def brake() -> Shaped:
        shaped = course.governor.brake()
        assert shaped.setpoint.joints.tobytes() in known
        return shaped

    course.stop(brake)


_TWINS: list[Twin] = []


def _plain_twin() -> Twin:
    if not _TWINS:
        _TWINS.append(Twin())
    return _TWINS[0]


@QUICK
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.05, 0.1, 0.5]), st.floats(0.05, 0.6))
def test_a_chunk_within_reach_is_followed_to_its_end(twin: Twin, seed: int, dt: float, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    course = Course(governor_at(twin), twin)
    end = REST + rng.uniform(-0.15, 0.15, (2, 7))
    line = towards(REST, end, dt, fraction)
    if not course.admit(joints=line, openings=np.full((len(line), 2), 0.25), dt=dt):
        return
    ticks = 0
    while course.governor.busy:
        shaped = course.look(course.governor.follow())
        ticks += 1
    if shaped.held:  # too near to the table to come to it at this speed
        assert "table" in shaped.held
        return
    assert ticks <= len(line) * round(dt / TICK) + 2 * (SPEED // ACCELERATION + 1)
    assert np.abs(course.position - np.rad2deg(line[-1]) * 1000).max() <= 1
    assert np.abs(course.openings - 0.25).max() < 1e-12 or ticks < 20
    assert course.governor.at_rest


@pytest.mark.parametrize("degrees_per_s", [20, 45, 90, 170])
def test_the_end_of_a_chunk_is_not_run_past(twin: Twin, degrees_per_s: int) -> None:
    course = Course(governor_at(twin), twin)
    turn = np.deg2rad(degrees_per_s) * 0.1 * np.arange(1, 9)[:, None, None] * np.array([0, 0, 0, 0, 0, 0, 1])
    assert course.admit(joints=REST + turn, openings=np.ones((8, 2)))
    end, furthest = np.rad2deg(REST + turn[-1])[:, 6] * 1000, -np.inf
    while course.governor.busy:
        course.follow(1)
        furthest = max(furthest, float((course.position[:, 6] - end).max()))
    assert furthest <= 100, f"{furthest / 1000:.2f} deg past the last waypoint"


def test_waypoints_are_passed_when_they_should_be(governor: Governor, twin: Twin) -> None:
    """A slow chunk is followed tick by tick, not only at its end."""
    course = Course(governor, twin)
    line = REST + np.linspace(0, 0.1, 12)[1:, None, None] * np.array([1, 0, 0, 0, 0, 0, 1])
    assert course.admit(joints=line, openings=np.ones((11, 2)))
    course.follow(5 * 10)
    assert np.abs(course.position - np.rad2deg(line[4]) * 1000).max() <= 1
    assert course.look(governor.follow()).step == 5
    assert course.look(governor.follow()).lag < 2 * UNIT


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_chunk_replaced_at_full_speed_makes_no_jump_of_position_or_speed(twin: Twin, seed: int, ticks: int) -> None:
    rng = np.random.default_rng(seed)
    course = Course(governor_at(twin, lag=9.0), twin)
    turn = np.array([[0.0] * 6 + [2.0], [0.0] * 6 + [-2.0]])
    line = towards(REST, REST + turn, 0.1, 1.0)
    assert course.admit(joints=line, openings=np.ones((len(line), 2)))
    course.follow(ticks)
    back = towards(course.governor.commanded.joints, REST - turn, 0.1, rng.uniform(0.5, 1.0))
    assert course.admit(joints=back, openings=np.zeros((len(back), 2)))
    course.follow(ticks)
    assert not course.admit(joints=back + 9, openings=np.zeros((len(back), 2)))
    course.stop(course.governor.follow)  # without a chunk following is braking


def test_held_arms_stay_where_they_are_to_the_bit(governor: Governor, twin: Twin) -> None:
    course = Course(governor, twin)
    first = governor.commanded.joints
    course.follow(5)
    np.testing.assert_array_equal(governor.commanded.joints, first)
    assert governor.follow().step is None


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_limit_of_a_joint_is_reached_and_never_passed(twin: Twin, sign: int) -> None:
    start, end = REST.copy(), REST.copy()
    start[:, 6] = sign * 4.7
    end[:, 6] = sign * (np.deg2rad(360.0) + 0.005)  # beyond by less than what is tolerated
    course = Course(governor_at(twin, start, lag=9.0), twin)
    line = towards(start, end, 0.1, 1.0)
    assert course.admit(joints=line, openings=np.ones((len(line), 2)))
    while course.governor.busy:
        course.follow(1)
    np.testing.assert_array_equal(sign * course.position[:, 6], np.floor(LIMIT[:, 6]))


def test_a_chunk_too_far_ahead_is_given_up(twin: Twin) -> None:
    """Turning round at full speed takes 0.6 s: the chunk is a radian further by then."""
    course = Course(governor_at(twin), twin)
    ahead, back = (REST + np.array([0, 0, 0, 0, 0, 0, x]) for x in (1.55, 0.0))
    assert course.admit(joints=np.stack([ahead, back, ahead, back]), openings=np.ones((4, 2)), dt=0.5)
    held = next(shaped.held for shaped in (course.look(course.governor.follow()) for _ in range(300)) if shaped.held)
    assert "behind the chunk" in held
    assert not course.governor.busy, "said to brake in place of following, and follows"
    course.stop(course.governor.follow)


# --- openings ---------------------------------------------------------------------------------------------------------


@QUICK
@given(st.lists(st.tuples(st.floats(-0.25, 1.25), st.floats(-0.25, 1.25)), min_size=1, max_size=6), st.booleans())
def test_openings_stay_within_closed_and_open_and_move_no_faster_than_allowed(
    twin: Twin, openings: list[tuple[float, float]], brake: bool
) -> None:
    course = Course(governor_at(twin), twin)
    assert course.admit(joints=np.repeat(REST[None], len(openings), 0), openings=np.array(openings))
    course.follow(10 * len(openings))
    if brake:
        kept = course.openings
        course.stop()
        np.testing.assert_array_equal(course.openings, kept)
    else:
        course.follow(30)


# --- what is clipped, what is rejected --------------------------------------------------------------------------------


def test_notes_name_the_clipped_values(governor: Governor) -> None:
    end = float(DEFAULT_LIMITS.joint_high[0, 6])
    governor.start_at(pose(0, j7=end - 0.001), np.ones(2))
    joints = np.stack([pose(0, j7=end), pose(0, j7=end + 0.0125)])
    openings = np.array([[1.0, 1.0], [0.5, -0.125]])
    notes = governor.admit(chunk(joints, openings=openings), 0.0)
    assert notes == [
        "step 1: joint 7 of the left arm clipped by 0.0125 rad to its limit",
        "step 1: opening of the right gripper clipped by 0.125",
    ]


REJECTED: dict[str, tuple[Callable[[], Raw], float, str]] = {
    "shape": (
        lambda: chunk(np.zeros((3, 2, 6))),
        0.0,
        r"joints of shape \(3, 2, 6\) and openings of shape \(3, 2\); \(H, 2, 7\) and \(H, 2\) with H from 1 to 256",
    ),
    "one step without its axis": (lambda: chunk(REST), 0.0, r"joints of shape \(2, 7\)"),
    "other openings": (lambda: still(openings=np.ones(3)), 0.0, r"openings of shape \(3,\)"),
    "no step": (lambda: still(0), 0.0, r"joints of shape \(0, 2, 7\)"),
    "257 steps": (lambda: still(257), 0.0, r"joints of shape \(257, 2, 7\)"),
    "None": (lambda: still(joints=None), 0.0, r"joints of shape \(\)"),
    "a map": (lambda: still(joints={"left": 1}), 0.0, r"joints of shape \(\)"),
    "NaN": (lambda: chunk(np.full((1, 2, 7), np.nan)), 0.0, "joints contain values that are not finite numbers"),
    "infinity": (lambda: chunk(np.full((1, 2, 7), -np.inf)), 0.0, "joints contain values that are not finite numbers"),
    "truth": (lambda: chunk(np.zeros((1, 2, 7), bool)), 0.0, "joints contain values that are not finite numbers"),
    "complex": (lambda: chunk(np.zeros((1, 2, 7), complex)), 0.0, "joints contain values that are not finite numbers"),
    "text": (lambda: chunk(np.full((1, 2, 7), "0")), 0.0, "joints contain values that are not finite numbers"),
    "times": (lambda: chunk(np.zeros((1, 2, 7), "m8[s]")), 0.0, "joints contain values that are not finite numbers"),
    "objects": (lambda: chunk(np.full((1, 2, 7), None)), 0.0, "joints contain values that are not finite numbers"),
    "NaN opening": (
        lambda: still(1, openings=np.full((1, 2), np.nan)),
        0.0,
        "openings contain values that are not fi",
    ),
    "dt 0": (lambda: still(dt=0), 0.0, r"steps of 0 s; 0\.02 to 0\.5 s are allowed"),
    "dt -1": (lambda: still(dt=-1.0), 0.0, r"steps of -1\.0 s; 0\.02 to 0\.5 s are allowed"),
    "dt NaN": (lambda: still(dt=float("nan")), 0.0, r"steps of nan s; 0\.02 to 0\.5 s are allowed"),
    "dt 1e9": (lambda: still(dt=1e9), 0.0, r"steps of 1000000000\.0 s; 0\.02 to 0\.5 s are allowed"),
    "dt in milliseconds": (lambda: still(dt=100), 0.0, "steps of 100 s"),
    "dt a little short": (lambda: still(dt=0.0199), 0.0, r"steps of 0\.0199 s"),
    "from the future": (lambda: still(observed=1.0), 0.0, r"decided on a state -1\.00 s old; 0 to 2 s are allowed"),
    "stale": (lambda: still(observed=0.0), 2.5, r"decided on a state 2\.50 s old; 0 to 2 s are allowed"),
    "no time": (lambda: still(observed=float("nan")), 0.0, "decided on a state nan s old"),
    "never": (lambda: still(observed=float("-inf")), 0.0, "decided on a state inf s old"),
    "same number": (lambda: still(number=7), 0.0, "chunk 7 after chunk 7"),
    "earlier number": (lambda: still(number=3), 0.0, "chunk 3 after chunk 7"),
    "degrees": (
        lambda: chunk(np.rad2deg(REST)[None]),
        0.0,
        r"step 0: -90\.000 rad for joint 7 of the left arm is beyond its limits .* \(are these degrees\?\)$",
    ),
    "beyond a limit": (
        lambda: chunk(np.stack([REST, pose(1, j6=2.3)])),
        0.0,
        r"step 1: 2\.300 rad for joint 6 of the right arm is beyond its limits -2\.224 to 2\.224$",
    ),
    "huge integers": (lambda: chunk(np.full((1, 2, 7), 2**62)), 0.0, r"rad for joint \d of the left arm is beyond"),
    "huge numbers": (lambda: chunk(np.full((1, 2, 7), 1.7e308)), 0.0, r"rad for joint \d of the left arm is beyond"),
    "opening": (
        lambda: still(2, openings=np.array([[1, 1], [1, 1.5]])),
        0.0,
        r"step 1: opening 1\.500 of the right gripper; 0 to 1",
    ),
    "jump at the first step": (
        lambda: chunk(pose(1, j3=0.5)[None]),
        0.0,
        r"step 0: joint 3 of the right arm jumps by 0\.500 rad; 0\.346 are allowed in 0\.1 s",
    ),
    "jump later": (
        lambda: chunk(np.stack([REST, REST, pose(0, j7=0.0)])),
        0.0,
        r"step 2: joint 7 of the left arm jumps by 1\.571 rad; 0\.346 are allowed in 0\.1 s",
    ),
    "table": (
        lambda: chunk(pose(0, j2=1.0)[None]),
        0.0,
        "step 0: table and left (finger|pad) [ab] ([0-9]+ mm apart|meet)$",
    ),
    "workspace": (
        lambda: chunk(pose(1, j1=-0.9)[None], 0, 0.5),
        0.0,
        r"step 0: the right tip at x = 0\.4\d\d m, outside the workspace",
    ),
    "other arm": (
        lambda: chunk(np.stack([pose(0, j1=-0.7)[0], pose(1, j1=0.7)[1]])[None], 0, 0.5),
        0.0,
        r"step 0: (left|right) [a-z0-9 ]+ and (left|right) [a-z0-9 ]+ (\d+ mm apart|meet)$",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_a_rejection_names_the_value_and_the_allowed_range(governor: Governor, name: str) -> None:
    make, now, message = REJECTED[name]
    rejected = make()
    if "number" not in name or name == "huge numbers":
        object.__setattr__(rejected, "number", 8)
    governor.admit(still(number=7), 0.0)
    before = governor.commanded.joints
    with pytest.raises(RejectedChunkError, match=message) as caught:
        governor.admit(rejected, now)
    assert "\n" not in str(caught.value)
    assert not governor.busy
    np.testing.assert_array_equal(governor.follow().setpoint.joints, before)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1.5, True, "2", None, 2**63, -1, np.array([3])])
def test_a_chunks_number_is_an_integer_that_every_record_can_hold(governor: Governor, number: Any) -> None:
    with pytest.raises(RejectedChunkError):
        governor.admit(still(number=number), 0.0)
    governor.admit(still(number=3), 0.0)
    with pytest.raises(RejectedChunkError, match="chunk 3 after chunk 3"):
        governor.admit(still(number=3), 0.0)


def test_a_rejected_chunk_does_not_use_up_its_number(governor: Governor) -> None:
    with pytest.raises(RejectedChunkError):
        governor.admit(still(number=4, dt=0.0), 0.0)
    governor.admit(still(number=4), 0.0)


def test_after_a_rejection_in_mid_motion_the_arms_brake(governor: Governor, twin: Twin) -> None:
    course = Course(governor, twin)
    line = towards(REST, REST + np.array([0, 0, 0, 0, 0, 0, 2.0]))
    assert course.admit(joints=line, openings=np.ones((len(line), 2)))
    course.follow(20)
    assert np.abs(course.velocity).max() > 1000
    assert not course.admit(joints=np.full((1, 2, 7), np.nan), openings=np.ones((1, 2)))
    course.stop(governor.follow)


def test_the_largest_step_that_is_allowed_is_admitted_and_a_unit_more_is_not(governor: Governor) -> None:
    step = int(1800 * 10 * 1.1)
    for units, admitted in ((step, True), (step + 20, False)):
        expected = contextlib.nullcontext() if admitted else pytest.raises(RejectedChunkError, match="jumps")
        with expected:
            governor.admit(chunk((REST + np.array([0, 0, 0, 0, 0, 0, units * UNIT]))[None], units), 0.0)


# --- where to begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (
            np.zeros((2, 7)),
            r"cannot start from here: the left tip at z = 1\.129 m, outside the workspace\. Move them by",
        ),
        (pose(0, j2=1.0), "cannot start from here: table and left"),
        (pose(1, j6=2.25), r"cannot start from here: a joint 1\.\d\d deg beyond its limit"),
        (np.full((2, 7), np.nan), "cannot start from here"),
        (np.full((2, 7), np.inf), "cannot start from here"),
    ],
)
def test_arms_do_not_start_where_they_must_not_be(governor: Governor, joints: np.ndarray, message: str) -> None:
    before = governor.commanded.joints
    with pytest.raises(RobotestError, match=message):
        governor.start_at(joints, np.ones(2))
    np.testing.assert_array_equal(governor.commanded.joints, before)


def test_openings_that_are_not_measured_are_not_made_up(governor: Governor) -> None:
    with pytest.raises(RobotestError):
        governor.start_at(REST, np.full(2, np.nan))


def test_starting_is_from_the_nearest_point_of_the_grid_at_rest_without_a_chunk(governor: Governor) -> None:
    governor.admit(still(), 0.0)
    governor.start_at(REST + 0.4 * UNIT, np.array([1.2, -0.1]))
    assert np.abs(governor.commanded.joints - REST).max() <= UNIT
    np.testing.assert_array_equal(governor.commanded.openings, [1.0, 0.0])
    assert governor.at_rest
    assert not governor.busy


def test_the_commanded_set_point_is_a_copy(governor: Governor) -> None:
    given = governor.commanded
    given.joints[:] = 9
    given.openings[:] = 9
    assert np.abs(governor.commanded.joints).max() < 2
    assert governor.commanded.openings.max() <= 1


def test_accelerations_below_the_resolution_are_refused(twin: Twin) -> None:
    with pytest.raises(RobotestError, match=r"accelerations of 0\.01 rad/s\^2 are below the wire's resolution"):
        Governor(arm_limits({"acceleration": 0.01}), twin, TICK, UNIT)


def test_narrower_limits_hold_too(twin: Twin) -> None:
    """Half the speed for the wrist, a lower ceiling, less of a joint's range."""
    speed = np.full(7, np.deg2rad(90.0))
    governor = Governor(arm_limits({"speed": speed, "joint_high": [0.5, 1, 1, 2, 1, 2, 0.5]}), twin, TICK, UNIT)
    governor.start_at(REST, np.ones(2))
    with pytest.raises(RejectedChunkError, match="jumps"):
        governor.admit(chunk((REST + np.array([0, 0, 0, 0, 0, 0, 0.25]))[None]), 0.0)
    line = REST + np.linspace(0, 1, 20)[1:, None, None] * np.array([0, 0, 0, 0, 0, 0, 2.0])
    governor.admit(chunk(line), 0.0)
    course = Course(governor, twin)
    while governor.busy:
        course.follow(1)
        assert np.abs(course.velocity).max() <= 900
    assert course.position[:, 4:].max() <= np.rad2deg(1) * 1000


def test_looking_ahead_is_bounded_whatever_the_limits() -> None:
    """A braking path of seconds, looked along at every tick, would take longer than the tick."""
    looks = 0

    class Counted(Twin):
        def contact(self, joints: Any) -> str | None:
            nonlocal looks
            looks += 1
            return None

    try:
        governor = Governor(arm_limits({"acceleration": np.deg2rad(20.0)}), Counted(), TICK, UNIT)
    except RobotestError:
        return  # refusing such limits is as good
    governor.start_at(pose(0, j7=-6.0), np.ones(2))
    governor.admit(chunk(towards(pose(0, j7=-6.0), pose(0, j7=6.0), 0.5), dt=0.5), 0.0)
    worst = 0
    for _ in range(200):
        looks = 0
        governor.follow()
        worst = max(worst, looks)
    assert worst <= 150


# --- the largest velocity that can still be stopped -------------------------------------------------------------------


def way(velocity: int, acceleration: int) -> int:
    """How far it is to a standstill, the coming tick included."""
    return sum(range(velocity, 0, -acceleration))


def test_fastest_is_the_oracles_for_every_small_distance() -> None:
    for acceleration in (*range(1, 12), 59, 60, 61):
        ways = np.array([way(v, acceleration) for v in range(400)])
        distances = np.arange(2000)
        expected = np.searchsorted(ways, distances, side="right") - 1
        given_ = fastest(distances, np.full(2000, acceleration))
        np.testing.assert_array_equal(given_[distances < ways[-1]], expected[distances < ways[-1]])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**7), st.integers(1, 10**4))
def test_fastest_can_be_stopped_in_time_and_one_more_cannot(distance: int, acceleration: int) -> None:
    velocity = int(fastest(np.array([distance]), np.array([acceleration]))[0])
    assert way(velocity, acceleration) <= distance < way(velocity + 1, acceleration)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 800), st.integers(1, 2000), st.integers(-1, 1))
def test_fastest_is_exact_next_to_whole_numbers_of_ticks(n: int, acceleration: int, off: int) -> None:
    """Where the square root is a whole number, and a float may be on either side."""
    distance = acceleration * n * (n + 1) // 2 + off
    velocity = int(fastest(np.array([distance]), np.array([acceleration]))[0])
    assert velocity == n * acceleration + (0 if off >= 0 else -1) + off // (n + 1) * (off > 0)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 500), st.data())
def test_braking_never_asks_for_more_than_the_acceleration(distance: int, acceleration: int, data: Any) -> None:
    """Why both limits can hold at once: whoever could stop a tick ago can, braking, stop now."""
    velocity = data.draw(st.integers(0, int(fastest(np.array([distance]), np.array([acceleration]))[0])))
    after = int(fastest(np.array([distance - velocity]), np.array([acceleration]))[0])
    assert after >= velocity - acceleration


def test_nothing_reads_a_clock_or_draws(twin: Twin) -> None:
    """Two governors given the same are the same, tick for tick."""

    def setpoints() -> Iterator[bytes]:
        governor = governor_at(twin)
        for number in range(5):
            line = towards(governor.commanded.joints, REST + 0.05 * number)
            governor.admit(chunk(line, number), 0.0)
            for _ in range(17):
                yield governor.follow().setpoint.joints.tobytes()

    assert list(setpoints()) == list(setpoints())
