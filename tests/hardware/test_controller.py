"""The controller against the published protocol, its own rules, and whatever a socket may bring."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robotest.embodiment import rm75
from robotest.hardware.simulated.controller import Controller
from robotest.hardware.simulated.joints import ERROR_COLLISION, ERROR_TARGET_LIMIT, JOINT_ERROR_POSITION, Measured
from robotest.hardware.simulated.protocol import PushConfig

TRANSCRIPTS = [
    json.loads(line) for line in (Path(__file__).parent / "transcripts" / "realman.jsonl").read_text().splitlines()
]
SESSIONS = {name: list(rows) for name, rows in itertools.groupby(TRANSCRIPTS, key=lambda row: str(row["session"]))}
START = [0, 40000, 0, 86000, 0, 54000, -90000]
SENTINEL = -(2**31)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
KNOWN = [str(row["send"]["command"]) for row in TRANSCRIPTS if isinstance(row["send"], dict)]
KEYS = [key for row in TRANSCRIPTS if isinstance(row["send"], dict) for key in row["send"] if key != "command"]


def controller() -> Controller:
    return Controller(np.deg2rad(np.array(START) / 1000), PushConfig("127.0.0.1"))


def ask(arm: Controller, now: float = 0.0, **command: Any) -> list[Any]:
    return [json.loads(reply) for reply in arm.handle(json.dumps(command).encode(), now)]


def follow(arm: Controller, joints: list[Any], now: float) -> None:
    assert ask(arm, now, command="movej_canfd", joint=joints, follow=True) == []


def measured(joints: list[float] | list[int], opening: float = 1.0) -> Measured:
    return Measured(np.deg2rad(np.array(joints) / 1000), np.zeros(7), np.full(7, 0.5), opening)


def setpoint(arm: Controller) -> list[int]:
    return [round(float(q)) for q in np.rad2deg(arm.joints.setpoint) * 1000]


def state(arm: Controller) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(arm.state())
    return message


def moved(by: int, joint: int = 0) -> list[int]:
    return [q + by * (i == joint) for i, q in enumerate(START)]


@pytest.mark.parametrize("name", SESSIONS)
def test_replies_are_those_of_the_protocol(name: str) -> None:
    arm = controller()
    for row in SESSIONS[name]:
        line = json.dumps(row["send"]).encode() + b"\r"
        replies = arm.handle(line, 0.0)
        assert [json.loads(r) for r in replies] == row["replies"], row["send"]
        assert all(r.endswith(b"\r\n") and r.count(b"\n") == 1 for r in replies)


def test_the_state_is_what_the_sdk_reads() -> None:
    arm = controller()
    message = state(arm)
    assert message["state"] == "realtime_arm_joint_state"
    assert message["err"] == [0]
    assert message["joint_status"]["joint_position"] == START
    assert {len(values) for values in message["joint_status"].values()} == {7}
    assert "joint_speed" not in message["joint_status"]
    assert "arm_current_status" not in message
    ask(arm, command="set_realtime_push", custom={"joint_speed": True, "arm_current_status": True})
    assert state(arm)["joint_status"]["joint_speed"] == [0] * 7
    assert state(arm)["arm_current_status"] == "idle"


def test_units_of_the_state() -> None:
    arm = controller()
    ask(arm, command="set_realtime_push", custom={"joint_speed": True})
    m = Measured(np.full(7, 0.5), np.full(7, 2 * np.pi / 60), np.full(7, -1.25), 0.3, (0.1, -0.2, 0.3), (0, 1, 0, 0))
    arm.advance(m, 0.0)
    message = state(arm)
    assert message["joint_status"]["joint_position"] == [28648] * 7  # 0.001 deg
    assert message["joint_status"]["joint_speed"] == [100] * 7  # 0.01 rpm
    assert message["joint_status"]["joint_current"] == [-1_250_000] * 7  # 0.001 mA
    assert message["waypoint"]["position"] == [100_000, -200_000, 300_000]  # 1e-6 m
    assert message["waypoint"]["euler"] == [3142, 0, 0]  # 0.001 rad
    assert message["waypoint"]["quat"] == [0, 1_000_000, 0, 0]


# -- following ---------------------------------------------------------------------------------------------------------


def test_following_moves_the_set_point_and_the_status() -> None:
    arm = controller()
    for k in range(1, 51):
        follow(arm, moved(1500 * k // 50), 0.01 * k)
    assert setpoint(arm) == moved(1500)
    assert arm.joints.status == "move_through_joint"
    arm.advance(measured(moved(1500)), 2.0)
    assert arm.joints.status == "idle"
    assert arm.counts == {"frames": 50}


def test_a_joint_that_is_sent_too_far_does_not_respond_and_the_others_do() -> None:
    arm = controller()
    follow(arm, [q + 10_001 * (i == 2) + 500 * (i == 4) for i, q in enumerate(START)], 1.0)
    assert setpoint(arm) == moved(500, 4)
    assert arm.counts["jump"] == 1


def test_a_joint_that_is_sent_too_fast_does_not_respond() -> None:
    arm = controller()
    follow(arm, START, 0.0)
    follow(arm, moved(1800), 0.01)  # 180 deg/s
    assert setpoint(arm) == moved(1800)
    follow(arm, moved(9000), 0.02)
    assert setpoint(arm) == moved(1800)
    assert arm.counts["overspeed"] == 1


def test_frames_that_bunch_on_the_way_are_not_too_fast() -> None:
    arm = controller()
    for k, now in enumerate((0.0, 0.010, 0.029, 0.0291, 0.040, 0.050)):
        follow(arm, moved(1700 * k), now)
    assert setpoint(arm) == moved(1700 * 5)
    assert arm.counts == {"frames": 6, "late": 1}


def test_late_frames_are_counted_while_following_only() -> None:
    arm = controller()
    for now in (0.0, 0.01, 0.05, 0.06):
        follow(arm, START, now)
    arm.advance(measured(START), 5.0)
    follow(arm, START, 5.0)
    assert arm.counts["late"] == 1


@pytest.mark.parametrize("joint", range(7))
def test_the_soft_limits_refuse_a_frame_with_an_error_that_the_next_good_one_clears(joint: int) -> None:
    arm = controller()
    beyond = round(1000 * np.rad2deg(rm75.JOINT_LIMIT_RAD[joint])) + 1
    for value in (beyond, -beyond, SENTINEL, 2**40):
        follow(arm, [value if i == joint else q + 100 for i, q in enumerate(START)], 0.0)
        assert setpoint(arm) == START
        assert state(arm)["arm_err"] == ERROR_TARGET_LIMIT
        assert state(arm)["err"] == [ERROR_TARGET_LIMIT]
    follow(arm, START, 0.01)
    assert state(arm)["err"] == [0]
    assert arm.counts["limit"] == 4


@pytest.mark.parametrize("joints", [START[:6], [*START, 0], [0.0] * 7, [True] * 7, ["0"] * 7, None, 3, []])
def test_a_frame_of_another_shape_is_none(joints: Any) -> None:
    arm = controller()
    follow(arm, joints, 0.0)
    assert setpoint(arm) == START
    assert arm.counts["malformed"] == 1


# -- stops, power, errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "status"), [("set_arm_stop", "stop"), ("set_arm_slow_stop", "slow_stop")])
def test_a_stop_brakes_along_the_path_and_does_not_go_back(command: str, status: str) -> None:
    arm = controller()
    for k in range(1, 11):
        follow(arm, [q + 300 * k * (i in (0, 6)) for i, q in enumerate(START)], 0.01 * k)
    before = setpoint(arm)
    ask(arm, 0.1, command=command)
    assert arm.joints.status == status
    path = []
    for k in range(1000):
        arm.advance(measured(START), 0.1 + 0.004 * k)
        path.append(setpoint(arm))
    forward = np.diff([before, *path], axis=0)
    assert (forward[:, [0, 6]] >= -1).all()
    assert (forward[:, 1:6] == 0).all()
    assert np.abs(forward).max() <= 300
    assert arm.joints.status == "idle"
    travel = np.array(path[-1]) - before
    assert travel[0] == travel[6] < 1300  # 30 deg/s at 360 deg/s^2 take 1.25 deg


def test_a_stop_does_not_lock_the_arm() -> None:
    arm = controller()
    ask(arm, 0.0, command="set_arm_stop")
    follow(arm, moved(100), 0.02)
    assert setpoint(arm) == moved(100)


def test_without_power_the_arm_stays_where_it_is() -> None:
    arm = controller()
    follow(arm, moved(1000), 0.0)
    arm.advance(measured(moved(600)), 0.004)
    ask(arm, command="set_arm_power", arm_power=0)
    follow(arm, moved(700), 0.01)
    assert setpoint(arm) == moved(600)
    assert state(arm)["joint_status"]["joint_en_flag"] == [0] * 7
    assert arm.counts["refused"] == 1
    ask(arm, command="set_arm_power", arm_power=1)
    follow(arm, moved(700), 0.02)
    assert setpoint(arm) == moved(700)


def test_a_joint_without_power_holds_and_the_others_move() -> None:
    arm = controller()
    ask(arm, command="set_joint_en_state", joint_en_state=[1, 0])
    follow(arm, [q + 500 for q in START], 0.0)
    assert setpoint(arm) == [START[0], *(q + 500 for q in START[1:])]
    assert state(arm)["joint_status"]["joint_en_flag"] == [0, 1, 1, 1, 1, 1, 1]


def test_a_system_error_refuses_motion_until_it_is_cleared() -> None:
    arm = controller()
    arm.joints.fail(ERROR_COLLISION)
    follow(arm, moved(100), 0.0)
    assert setpoint(arm) == START
    assert (state(arm)["sys_err"], state(arm)["err"]) == (0x100D, [0x100D])
    assert ask(arm, command="movej", joint=START, v=10)[0]["receive_state"] is False
    ask(arm, command="clear_system_err")
    follow(arm, moved(100), 0.1)
    assert setpoint(arm) == moved(100)


def test_a_joints_error_takes_its_power_until_it_is_cleared_and_enabled() -> None:
    arm = controller()
    arm.joints.fail_joint(3, JOINT_ERROR_POSITION)
    assert state(arm)["joint_status"]["joint_err_code"] == [0, 0, 0x0800, 0, 0, 0, 0]
    assert ask(arm, command="set_joint_en_state", joint_en_state=[3, 1])[0]["joint_en_state"] is False
    ask(arm, command="set_joint_clear_err", joint_clear_err=3)
    assert state(arm)["joint_status"]["joint_en_flag"][2] == 0
    assert ask(arm, command="set_joint_en_state", joint_en_state=[3, 1])[0]["joint_en_state"] is True
    follow(arm, moved(100, 2), 0.0)
    assert setpoint(arm) == moved(100, 2)


def test_an_emergency_stop_takes_the_power_and_gives_none_back() -> None:
    arm = controller()
    arm.joints.press_stop(pressed=True)
    assert arm.joints.status == "stop"
    assert ask(arm, command="set_arm_power", arm_power=1)[0]["arm_power"] is False
    assert ask(arm, command="set_gripper_position", position=5)[0]["state"] is False
    assert ask(arm, command="clear_system_err")[0]["clear_state"] is False
    arm.joints.press_stop(pressed=False)
    assert state(arm)["joint_status"]["joint_en_flag"] == [0] * 7
    assert ask(arm, command="set_arm_power", arm_power=1)[0]["arm_power"] is True
    assert state(arm)["joint_status"]["joint_en_flag"] == [1] * 7


def test_reported_values_may_replace_measured_ones() -> None:
    arm = controller()
    arm.reported["joint_current"] = {2: 12_000_000}
    arm.reported["joint_temperature"] = {6: 95_000}
    assert state(arm)["joint_status"]["joint_current"][2] == 12_000_000
    assert state(arm)["joint_status"]["joint_temperature"][6] == 95_000
    arm.recover()
    assert state(arm)["joint_status"]["joint_current"] == [0] * 7


# -- planned motion and the gripper ------------------------------------------------------------------------------------


def test_planned_motion_keeps_its_speed_and_says_when_it_is_there() -> None:
    arm = controller()
    goal = [30000, 20000, 10000, 100000, -20000, 30000, 90000]
    assert ask(arm, 0.0, command="movej", joint=goal, v=20, r=0)[0]["receive_state"] is True
    path, events = [setpoint(arm)], []
    for k in range(1, 5000):
        events += arm.advance(measured(START), 0.004 * k)
        path.append(setpoint(arm))
    speeds = np.abs(np.diff(path, axis=0)).max(axis=0) / 0.004 / 1000
    assert (speeds <= 0.2 * np.rad2deg(rm75.JOINT_SPEED_RAD_S) + 1).all()
    assert path[-1] == goal
    assert [json.loads(e)["device"] for e in events] == [0]


@pytest.mark.parametrize("v", [0, 101, None, 5.0, True])
def test_planned_motion_needs_a_speed(v: Any) -> None:
    assert ask(controller(), command="movej", joint=START, v=v)[0]["receive_state"] is False


def test_a_blocking_gripper_command_is_followed_by_its_arrival() -> None:
    arm = controller()
    ask(arm, 0.0, command="set_gripper_position", position=400, block=True)
    assert arm.gripper.setpoint == 0.4
    openings = [1.0, 0.8, 0.6, 0.45, *[0.4] * 60]
    events = [e for k, o in enumerate(openings) for e in arm.advance(measured(START, o), 0.004 * k)]
    assert [json.loads(e)["device"] for e in events] == [1]


def test_the_grippers_route_bounds_it() -> None:
    arm = controller()
    ask(arm, command="set_gripper_route", min=200, max=700)
    ask(arm, command="set_gripper_position", position=1)
    assert arm.gripper.setpoint == 0.2
    ask(arm, command="set_gripper_release")
    assert arm.gripper.setpoint == 0.7


# -- whatever a socket may bring ---------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_raise(lines: list[bytes]) -> None:
    arm = controller()
    for line in lines:
        arm.handle(line, 0.0)
    assert setpoint(arm) == START


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # drawing JSON is, on a busy machine
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(set(KNOWN))), st.dictionaries(st.sampled_from(sorted(set(KEYS))), JSON, max_size=4)
        ),
        max_size=5,
    )
)
def test_no_json_raises_and_the_set_point_stays_within_the_limits(commands: list[tuple[str, dict[str, Any]]]) -> None:
    arm = controller()
    for k, (name, values) in enumerate(commands):
        replies = arm.handle(json.dumps({**values, "command": name}).encode(), 0.01 * k)
        arm.advance(measured(setpoint(arm)), 0.01 * k + 0.004)
        assert all(isinstance(json.loads(reply), dict) for reply in [*replies, arm.state()])
    assert (np.abs(arm.joints.setpoint) <= rm75.JOINT_LIMIT_RAD + 1e-9).all()


@given(
    st.lists(
        st.lists(st.one_of(st.just(SENTINEL), st.integers(-400_000, 400_000), st.integers()), min_size=7, max_size=7),
        max_size=8,
    )
)
def test_nothing_beyond_the_limits_reaches_the_set_point(frames: list[list[int]]) -> None:
    arm = controller()
    for k, joints in enumerate(frames):
        before = setpoint(arm)
        follow(arm, joints, 0.1 * k)
        assert np.abs(np.subtract(setpoint(arm), before)).max() <= 10_000
        if SENTINEL in joints:
            assert setpoint(arm) == before
    assert (np.abs(arm.joints.setpoint) <= rm75.JOINT_LIMIT_RAD + 1e-9).all()


@pytest.mark.parametrize(
    "line",
    [b"[" * 60_000, b'{"command":"movej_canfd","joint":[' + b"9" * 5000 + b"]}", b"\xff\xfe{", b"{}" * 40_000, b"NaN"],
    ids=["deep", "long number", "no text", "long line", "a number"],
)
def test_monstrous_lines_are_counted_and_dropped(line: bytes) -> None:
    arm = controller()
    assert arm.handle(line, 0.0) == []
    assert arm.counts["malformed"] == 1
