"""The executor's state as the rollout sees it, and its form on the wire."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from robotest.hardware.robot import RobotError, RobotState, Setpoint, Stop
from robotest.runtime.wire import WireError


class Mode(enum.Enum):
    """What the arms are doing."""

    DISABLED = "disabled"
    """No set-points are sent."""
    HOLDING = "holding"
    """The same set-point is sent at every tick."""
    FOLLOWING = "following"
    """The arms execute a chunk."""
    STOPPING = "stopping"
    """The arms brake, or stand still after a fault."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why the arms were stopped. It latches.

    Attributes:
        name: a key of the table in `docs/safety.md`, for programs.
        text: one line, for the operator.
        stop: how the arms were stopped.
    """

    name: str
    text: str
    stop: Stop


@dataclasses.dataclass(frozen=True)
class Measured:
    """The part of a `RobotState` that the rollout needs.

    Attributes:
        joints: positions [rad].
        openings: of the grippers, 0 closed to 1 open.
        stamps: when each arm's state arrived [s].
        enabled: whether each joint has power.
    """

    joints: Float64[np.ndarray, "2 7"]
    openings: Float64[np.ndarray, " 2"]
    stamps: Float64[np.ndarray, " 2"]
    enabled: Bool[np.ndarray, "2 7"]

    @classmethod
    def of(cls, state: RobotState) -> Measured:
        """Select it from a driver's state."""
        return cls(state.joints, state.openings, state.stamps, state.enabled)


@dataclasses.dataclass(frozen=True)
class Status:
    """The executor after one tick.

    Attributes:
        time: of the tick [s].
        mode: of the executor.
        fault: the latched fault, if any.
        chunk: number of the chunk admitted last; -1: none yet.
        step: of that chunk, counted from 0; -1: not begun.
        at_rest: whether the set-points stand still.
        commanded: last set-point; where the arms are while they are disabled.
        measured: None if the driver could not be read.
        notes: what was clipped of chunks admitted in this tick.
        late: how far behind its deadline the tick ran [s].
        missed: ticks left out since the executor started.
    """

    time: float
    mode: Mode
    fault: Fault | None
    chunk: int
    step: int
    at_rest: bool
    commanded: Setpoint
    measured: Measured | None
    notes: tuple[str, ...] = ()
    late: float = 0.0
    missed: int = 0

    def require_measured(self) -> Measured:
        """Return the measurements; `RobotError` if there are none."""
        if self.measured is None:
            raise RobotError("the arms' state could not be read")
        return self.measured

    def to_message(self) -> dict[str, Any]:
        """Return a map for `robotest.runtime.wire`."""
        return {
            **vars(self),
            "mode": self.mode.value,
            "fault": self.fault and {**vars(self.fault), "stop": self.fault.stop.value},
            "commanded": vars(self.commanded),
            "measured": self.measured and vars(self.measured),
        }

    @classmethod
    def from_message(cls, message: Any) -> Status:
        """Inverse of `to_message`; `WireError` if it is not a status."""
        try:
            fault, measured = message["fault"], message["measured"]
            parts = {
                "mode": Mode(message["mode"]),
                "fault": fault and Fault(**{**fault, "stop": Stop(fault["stop"])}),
                "commanded": Setpoint(**message["commanded"]),
                "measured": measured and Measured(**measured),
                "notes": tuple(message["notes"]),
            }
            return cls(**{**message, **parts})
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"not a status: {error!r}") from error
