"""What a pair of arms is to the rest of the project: states in, set-points out, three ways to stop.

Joint positions are [rad] as (2, 7) arrays, left arm first; gripper openings are fractions from 0, closed, to 1, open.
Times are `Clock.now` of the process that owns the robot: on Linux the one monotonic clock of the machine.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from robotest.errors import RobotestError


class RobotError(RobotestError):
    """The robot cannot be reached, refuses, or is in a state in which it must not be moved."""


class Stop(enum.Enum):
    """How to stop, after the stop categories of IEC 60204-1. None is an emergency stop: that is a hardware input."""

    HOLD = "hold"
    """Brake along the path and stay there, powered (category 2)."""
    DECEL_THEN_DISABLE = "decel_then_disable"
    """Brake along the path, then take the power away (category 1)."""
    DISABLE_NOW = "disable_now"
    """Take the power away at once (category 0)."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What no command may exceed, and what no measurement may. `docs/safety.md` has the source of every default.

    Attributes:
        joint_low: [rad].
        joint_high: [rad].
        speed: of each joint [rad/s].
        acceleration: of each joint [rad/s^2].
        workspace_low: corner of the box that both tips stay in, world frame [m].
        workspace_high: the opposite corner [m].
        opening_speed: of a gripper, in full openings per second [1/s].
        current: of each joint [A].
        temperature: of each joint [deg C].
    """

    joint_low: Float64[np.ndarray, "2 7"]
    joint_high: Float64[np.ndarray, "2 7"]
    speed: Float64[np.ndarray, "2 7"]
    acceleration: Float64[np.ndarray, "2 7"]
    workspace_low: Float64[np.ndarray, " 3"]
    workspace_high: Float64[np.ndarray, " 3"]
    opening_speed: float
    current: float
    temperature: float


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """Properties of a driver.

    Attributes:
        name: of the robot, as registered.
        resolution: of a joint position on the wire [rad].
    """

    name: str
    resolution: float


@dataclasses.dataclass(frozen=True)
class Setpoint:
    """Where to be at the next tick.

    Attributes:
        joints: positions [rad].
        openings: of the grippers, 0 closed to 1 open.
    """

    joints: Float64[np.ndarray, "2 7"]
    openings: Float64[np.ndarray, " 2"]


@dataclasses.dataclass(frozen=True)
class RobotState:
    """What both arms last told.

    Attributes:
        joints: measured positions [rad].
        openings: measured gripper openings, 0 closed to 1 open.
        currents: of each joint [A].
        temperatures: of each joint [deg C].
        enabled: whether each joint has power.
        stopped: whether an emergency stop is pressed.
        errors: what the arms complain of, in words with their codes; empty if nothing.
        stamps: when each arm's state arrived [s].
    """

    joints: Float64[np.ndarray, "2 7"]
    openings: Float64[np.ndarray, " 2"]
    currents: Float64[np.ndarray, "2 7"]
    temperatures: Float64[np.ndarray, "2 7"]
    enabled: Bool[np.ndarray, "2 7"]
    stopped: bool
    errors: tuple[str, ...]
    stamps: Float64[np.ndarray, " 2"]

    def age(self, now: float) -> float:
        """Age of the older arm's state [s]."""
        return now - float(self.stamps.min())


@runtime_checkable
class Robot(Protocol):
    """A driver. It only moves things: what may be sent is the governor's to say, when is the executor's.

    After `connect` nothing but `connect`, `enable` and `disconnect` may wait for the robot.
    """

    @property
    def limits(self) -> Limits:
        """Constant over the driver's life."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """Constant over the driver's life."""
        ...

    def connect(self) -> None:
        """Reach both arms and wait for their first states; `RobotError` within 3 s if that is not possible."""
        ...

    def enable(self) -> None:
        """Give the joints power; `RobotError` if an arm refuses or reports an error."""
        ...

    def state(self) -> RobotState:
        """Return what arrived last, without waiting; its age tells whether the arms are still there."""
        ...

    def command(self, setpoint: Setpoint) -> Setpoint:
        """Send a set-point to both arms and return what was really sent, after the wire's rounding.

        `RobotError` if a link is gone.
        """
        ...

    def stop(self, kind: Stop) -> None:
        """Do a stop's part that is the robot's own. Never raises, may be called at any time and more than once.

        Braking along the path is the caller's: HOLD does nothing here, DECEL_THEN_DISABLE is called at standstill.
        """
        ...

    def disconnect(self) -> None:
        """Close the links; the arms keep their last state. May be called twice."""
        ...
