"""What the rollout and the executor exchange arrives as it was sent, and what is no message is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.hardware.control.governor import JointTrajectory
from robotest.hardware.control.messages import (
    Beat,
    Enable,
    Follow,
    Greeting,
    Halt,
    Hold,
    Opening,
    Quit,
    Request,
    Reset,
    Unknown,
    refusal,
    request_from_message,
    request_to_message,
)
from robotest.hardware.control.status import Fault, Measured, Mode, Status
from robotest.hardware.robot import Capabilities, RobotError, Setpoint, Stop
from robotest.runtime import wire

CHUNK = JointTrajectory(3, np.ones((4, 2, 7)), np.zeros((4, 2)), 0.1, 12.5)
MEASURED = Measured(np.ones((2, 7)), np.zeros(2), np.array([1.5, 1.6]), np.ones((2, 7), bool))
STATUS = Status(
    time=2.5,
    mode=Mode.STOPPING,
    fault=Fault("operator", "enough", Stop.HOLD),
    chunk=3,
    step=1,
    at_rest=False,
    commanded=Setpoint(np.full((2, 7), 0.25), np.ones(2)),
    measured=MEASURED,
    notes=("clipped",),
    late=0.001,
    missed=2,
)


def sent(message: object) -> Any:
    return wire.unpack(wire.pack(message))


def assert_equal(actual: Any, expected: Any) -> None:
    np.testing.assert_equal(dataclasses.asdict(actual), dataclasses.asdict(expected))
    assert type(actual) is type(expected)


@pytest.mark.parametrize(
    "request_", [Beat(), Follow(CHUNK), Halt(Stop.DISABLE_NOW, "off"), Hold(), Enable(), Reset(), Quit()], ids=repr
)
def test_a_request_arrives(request_: Request) -> None:
    assert_equal(request_from_message(sent(request_to_message(request_))), request_)


@pytest.mark.parametrize("message", [None, 7, [], {}, {"do": "disable"}, {"do": ["beat"]}, {"do": "stop"}], ids=repr)
def test_anything_else_is_unknown(message: object) -> None:
    assert request_from_message(message) == Unknown(str(message))


def test_an_array_for_a_request_is_unknown() -> None:
    assert isinstance(request_from_message({"do": np.zeros(3)}), Unknown)


@pytest.mark.parametrize("changes", [{}, {"fault": None}, {"measured": None}], ids=repr)
def test_a_status_arrives(changes: dict[str, Any]) -> None:
    status = dataclasses.replace(STATUS, **changes)
    arrived = Status.from_message(sent(status.to_message()))
    assert_equal(arrived, status)
    assert (arrived.mode, arrived.fault) == (status.mode, status.fault)


@pytest.mark.parametrize(
    "message",
    [
        7,
        {},
        STATUS.to_message() | {"mode": "dancing"},
        STATUS.to_message() | {"more": 1},
        STATUS.to_message() | {"fault": {"name": "x"}},
        {k: v for k, v in STATUS.to_message().items() if k != "time"},
    ],
    ids=range(6),
)
def test_anything_else_is_no_status(message: object) -> None:
    with pytest.raises(wire.WireError, match="not a status"):
        Status.from_message(message)


def test_the_opening_and_both_answers_arrive(tmp_path: Path) -> None:
    opening = Opening("rm75-dual", {"hosts": ["a", "b"]}, tmp_path / "box", 0.1, realtime=True)
    assert Opening.from_message(sent(opening.to_message())) == opening
    greeting = Greeting(True, Capabilities("rm75-dual", 1e-5))
    assert Greeting.from_message(sent(greeting.to_message())) == greeting
    with pytest.raises(RobotError, match=r"^no room$"):
        Greeting.from_message(sent(refusal("no room")))
