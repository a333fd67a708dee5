"""The interface to a pair of arms: states in, set-points out, three ways to stop.

Joint positions are (2, 7) arrays in rad, left arm first; gripper openings go from 0, closed, to 1, open. Times are
`Clock.now` of the process that owns the robot: on Linux the machine's monotonic clock, shared by all processes.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from robotest.errors import RobotestError


class RobotError(RobotestError):
    """The robot cannot be reached, refuses a command, or must not be moved in its state."""


class Stop(enum.Enum):
    """How to stop, after the stop categories of IEC 60204-1. None is an emergency stop, which is a hardware input."""

    HOLD = "hold"
    """Brake along the path and stay there, powered (category 2)."""
    DECEL_THEN_DISABLE = "decel_then_disable"
    """Brake along the path, then remove power (category 1)."""
    DISABLE_NOW = "disable_now"
    """Remove power at once (category 0)."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of commands and measurements. `docs/safety.md` gives the source of every default.

    Attributes:
        joint_low: [rad].
        joint_high: [rad].
        speed: of each joint [rad/s].
        acceleration: of each joint [rad/s^2].
        workspace_low: corner of the box in which both tips stay, world frame [m].
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
    """Target of both arms at the next tick.

    Attributes:
        joints: positions [rad].
        openings: of the grippers, 0 closed to 1 open.
    """

    joints: Float64[np.ndarray, "2 7"]
    openings: Float64[np.ndarray, " 2"]


@dataclasses.dataclass(frozen=True)
class RobotState:
    """Latest state of both arms.

    Attributes:
        joints: measured positions [rad].
        openings: measured gripper openings, 0 closed to 1 open.
        currents: of each joint [A].
        temperatures: of each joint [deg C].
        enabled: whether each joint has power.
        stopped: whether an emergency stop is pressed.
        errors: reported by the arms, in words with their codes.
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
    """A driver. It only carries out commands: the governor decides what may be sent, the executor when.

    No method but `connect`, `enable` and `disconnect` may wait for the robot.
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
        """Connect to both arms and wait for their first states; `RobotError` within 3 s if that fails."""
        ...

    def enable(self) -> None:
        """Power the joints; `RobotError` if an arm refuses or reports an error."""
        ...

    def state(self) -> RobotState:
        """Return the latest state without waiting; its age shows whether the arms are still connected."""
        ...

    def command(self, setpoint: Setpoint) -> Setpoint:
        """Send a set-point to both arms and return it as sent, rounded to the wire's resolution.

        `RobotError` if a link is gone.
        """
        ...

    def stop(self, kind: Stop) -> None:
        """Carry out the driver's part of a stop. Never raises; may be called at any time and more than once.

        The caller brakes along the path: HOLD does nothing here, and DECEL_THEN_DISABLE is called at standstill.
        """
        ...

    def disconnect(self) -> None:
        """Close the links; the arms stay powered or not, as they are. May be called twice."""
        ...
