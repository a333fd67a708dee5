"""A robot's limits: a configuration narrows them, joint by joint, and never widens them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.embodiment import rm75
from robotest.errors import RobotestError, UnknownNameError
from robotest.hardware.limits import DEFAULT_LIMITS, LIMIT_MARGIN_RAD, arm_limits
from robotest.toml import from_table


@dataclasses.dataclass(frozen=True)
class Config:
    hosts: tuple[str, str] = ("here", "there")
    port: int = 1
    local_ip: str | None = None
    period: float = 0.1
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def test_nothing_said_is_the_default() -> None:
    for field in dataclasses.fields(DEFAULT_LIMITS):
        np.testing.assert_array_equal(getattr(arm_limits({}), field.name), getattr(DEFAULT_LIMITS, field.name))


def test_the_defaults_are_within_the_data_sheets_limits() -> None:
    assert np.all(DEFAULT_LIMITS.joint_high <= rm75.JOINT_LIMIT_RAD - LIMIT_MARGIN_RAD)
    np.testing.assert_array_equal(DEFAULT_LIMITS.joint_low, -DEFAULT_LIMITS.joint_high)
    assert np.all(DEFAULT_LIMITS.speed <= rm75.JOINT_SPEED_RAD_S)
    assert np.all(DEFAULT_LIMITS.speed <= np.deg2rad(180.0)), "beyond, controllers ignore frames"


def test_one_number_is_for_every_joint_of_both_arms() -> None:
    np.testing.assert_array_equal(arm_limits({"speed": 1.0}).speed, np.ones((2, 7)))


def test_seven_numbers_are_for_both_arms_and_fourteen_for_each() -> None:
    seven = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    np.testing.assert_array_equal(arm_limits({"joint_high": seven}).joint_high, [seven, seven])
    each = [seven, [0.5] * 7]
    limits = arm_limits({"acceleration": each, "current": 5, "workspace_low": [-0.3, -0.1, 0.02]})
    np.testing.assert_array_equal(limits.acceleration, each)
    np.testing.assert_array_equal(limits.workspace_low, [-0.3, -0.1, 0.02])
    assert limits.current == 5.0
    np.testing.assert_array_equal(limits.joint_high, DEFAULT_LIMITS.joint_high)


def test_narrowing_does_not_change_the_default() -> None:
    arm_limits({"speed": 1.0}).speed[:] = 9
    assert DEFAULT_LIMITS.speed.max() < 4


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": 3.2},
        {"speed": [1, 1, 1, 1, 1, 1, 3.2]},
        {"joint_high": 2.3},
        {"joint_low": -3.2},
        {"acceleration": 1e9},
        {"workspace_low": [-0.47, -0.22, -0.01]},
        {"workspace_high": [0.47, 0.30, 0.46]},
        {"opening_speed": 4.1},
        {"current": 8.5},
        {"temperature": 71},
        {"speed": float("inf")},
        {"speed": float("nan")},
        {"joint_low": float("-inf")},
        {"temperature": float("nan")},
    ],
)
def test_wider_is_refused(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(RobotestError, match=rf"^limit {name} = .* is wider than .*; narrow it$") as caught:
        arm_limits(changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["speed", "acceleration", "opening_speed", "current", "temperature"])
@pytest.mark.parametrize("value", [0, -1.0])
def test_limits_that_are_not_positions_are_positive(name: str, value: float) -> None:
    """With a negative speed the bounds of a clip would cross, and the other bound would be commanded."""
    with pytest.raises(RobotestError, match=f"limit {name} = {value}; more than 0 is needed"):
        arm_limits({name: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"joint_low": 1.0, "joint_high": -1.0},
        {"joint_low": 0.5, "joint_high": 0.5},
        {"workspace_low": [0.1, 0, 0.1], "workspace_high": [0.0, 0.2, 0.2]},
    ],
)
def test_limits_leave_something_between_them(changes: dict[str, Any]) -> None:
    with pytest.raises(RobotestError, match="leave nothing between them"):
        arm_limits(changes)


@pytest.mark.parametrize("value", ["fast", [1.0, 2.0], [[1.0] * 7] * 3, {"joint1": 1.0}, [[1.0], [1.0, 2.0]]])
def test_values_of_the_wrong_type_or_shape_are_refused(value: Any) -> None:
    with pytest.raises(RobotestError, match=r"limit speed = .*: a number or \(2, 7\) numbers are needed"):
        arm_limits({"speed": value})


def test_an_unknown_limit_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown limit in robot\.toml 'speeds'\. Did you mean 'speed'\?"):
        arm_limits({"speeds": 1.0})


@given(st.sampled_from(["speed", "acceleration", "joint_high"]), st.integers(0, 6), st.floats(0.01, 100))
def test_any_joints_limit_is_narrowed_or_refused_never_widened(name: str, joint: int, value: float) -> None:
    given_ = getattr(DEFAULT_LIMITS, name).copy()
    given_[1, joint] = value
    default = getattr(DEFAULT_LIMITS, name)[1, joint]
    if value > default:
        with pytest.raises(RobotestError, match="is wider than"):
            arm_limits({name: given_.tolist()})
    else:
        np.testing.assert_array_equal(getattr(arm_limits({name: given_.tolist()}), name), given_)


def test_a_table_becomes_a_dataclass_with_tuples_for_lists() -> None:
    table = {"hosts": ["a", "b"], "period": 1, "local_ip": "c", "limits": {"speed": 1.0}}
    assert from_table(Config, table, "robot", "robot.toml") == Config(("a", "b"), 1, "c", 1, {"speed": 1.0})
    assert from_table(Config, {}, "robot", "robot.toml") == Config()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"hosts": "a"}, r"robot\.hosts = 'a' in robot\.toml; a list of 2, each text is needed"),
        ({"hosts": ["a"]}, r"robot\.hosts = \['a'\] in robot\.toml; a list of 2, each text is needed"),
        ({"hosts": ["a", 2]}, r"robot\.hosts = \['a', 2\] in robot\.toml; a list of 2"),
        ({"port": "8080"}, r"robot\.port = '8080' in robot\.toml; an integer is needed"),
        ({"port": 1.5}, r"robot\.port = 1\.5 in robot\.toml; an integer is needed"),
        ({"port": True}, r"robot\.port = True in robot\.toml; an integer is needed"),
        ({"period": "1"}, r"robot\.period = '1' in robot\.toml; a number is needed"),
        ({"local_ip": 7}, r"robot\.local_ip = 7 in robot\.toml; text is needed"),
        ({"limits": 5}, r"robot\.limits = 5 in robot\.toml; a table is needed"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RobotestError, match=f"^{message}"):
        from_table(Config, table, "robot", "robot.toml")


def test_an_unknown_key_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown key of \[robot\] in robot\.toml 'host'\. Did you mean 'hosts'"
    ):
        from_table(Config, {"host": "a"}, "robot", "robot.toml")
