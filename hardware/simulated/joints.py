"""The joints of one simulated arm: set-points, power and errors, as a RealMan controller keeps them.

No socket, no clock, no physics. Angles are in the wire's unit, 0.001 deg. Where the vendor's documents are silent,
`robotest.hardware.simulated.controller` lists what is assumed.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75

MAX_STEP_DEG: Final = 10.0
"""A joint ignores a frame further than this from its set-point [deg]."""
MAX_SPEED_DEG_S: Final = 180.0
"""A joint ignores frames that ask for more than this [deg/s]."""
FOLLOW_PERIOD_S: Final = 0.010
"""High following: the client must send at least this often [s]."""
ERROR_TARGET_LIMIT: Final = 0x1002
ERROR_COLLISION: Final = 0x100D
ERROR_JOINT_DISABLED: Final = 0x1010
JOINT_ERROR_POSITION: Final = 0x0800
LIMIT: Final = [round(1000 * math.degrees(x)) for x in rm75.JOINT_LIMIT_RAD]
"""Joint limits, both ways [0.001 deg]."""
SPEED: Final = [1000 * math.degrees(x) for x in rm75.JOINT_SPEED_RAD_S]
"""Largest joint speeds [0.001 deg/s]."""

_N: Final = rm75.N_JOINTS
_RAD_PER_UNIT: Final = math.pi / 180_000
_PERIOD_TOLERANCE_S: Final = 0.001  # network jitter; without it every second frame of a 100 Hz client is late
_FOLLOW_END_S: Final = 0.5  # silence that ends following
_STOP_STATUS_S: Final = 0.1
_STOP_DECELERATION: Final = 3_000_000.0  # [0.001 deg/s^2], the joints' largest (500 rpm/s)
_SLOW_DECELERATION: Final = 360_000.0
_PLAN_ACCELERATION: Final = 360_000.0
_THERE: Final = 50.0  # a planned motion ends this near its target [0.001 deg]
_ARRIVAL_S: Final = 0.5  # or this long after its set-point


@dataclasses.dataclass(frozen=True)
class Measured:
    """Sensor values of one arm.

    Attributes:
        joints: positions [rad].
        speeds: [rad/s].
        currents: [A].
        opening: of the gripper, 0 closed to 1 open.
        position: of the flange in the arm's base frame [m].
        quaternion: of the flange in the arm's base frame, w first.
    """

    joints: Float64[np.ndarray, " 7"]
    speeds: Float64[np.ndarray, " 7"]
    currents: Float64[np.ndarray, " 7"]
    opening: float
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class _Motion:
    """A motion along a straight line of joint positions [0.001 deg], over when `duration` is."""

    status: str
    start: float
    duration: float
    origin: tuple[float, ...]
    change: tuple[float, ...]
    shape: Callable[[float], float]

    def at(self, now: float) -> list[float]:
        share = 1.0 if now >= self.start + self.duration else max(0.0, now - self.start) / self.duration
        done = self.shape(share)
        return [q + done * d for q, d in zip(self.origin, self.change, strict=True)]


def _smooth(share: float) -> float:
    return share * share * (3 - 2 * share)


def _braking(share: float) -> float:
    return share * (2 - share)


class Joints:
    """Set-points, power and errors of seven joints. Joints are counted from 1.

    Args:
        joints: measured positions [rad].
        counts: of frames, by their fate; see `robotest.hardware.simulated.controller.Controller`.

    Attributes:
        powered: whether the arm has power.
        stopped: whether the emergency stop is pressed.
        arm_error: code of the last planning error; 0: none.
        system_error: code; 0: none.
        joint_errors: code of each joint; 0: none.
    """

    def __init__(self, joints: Float64[np.ndarray, " 7"], counts: collections.Counter[str]) -> None:
        self._counts = counts
        self._measured = joints
        self._target = self._measured_units()  # [0.001 deg]
        self._speed = [0.0] * _N  # of the set-point [0.001 deg/s]
        self._carry = [0.0] * _N  # travel that the last frame left unused [0.001 deg]
        self.powered = True
        self.stopped = False
        self.arm_error = 0
        self.system_error = 0
        self.joint_errors = [0] * _N
        self._enabled = [True] * _N
        self._motion: _Motion | None = None
        self._last_frame = -math.inf
        self._following = False

    @property
    def setpoint(self) -> Float64[np.ndarray, " 7"]:
        """Joint positions for the servos [rad]."""
        target: Float64[np.ndarray, " 7"] = np.array(self._target, np.float64) * _RAD_PER_UNIT
        return target

    @property
    def units(self) -> list[int]:
        """Measured positions [0.001 deg]."""
        return [round(q) for q in self._measured_units()]

    @property
    def enable_flags(self) -> list[int]:
        """1 for each joint with power, 0 for the others."""
        return [int(on) for on in self._enabled]

    @property
    def errors(self) -> list[int]:
        """Codes of all errors but those of single joints; a single 0 if there are none."""
        return [e for e in (self.system_error, self.arm_error) if e] or [0]

    @property
    def status(self) -> str:
        """Value of ``arm_current_status``."""
        if self.stopped:
            return "stop"
        if self._motion is not None:
            return self._motion.status
        return "move_through_joint" if self._following else "idle"

    @property
    def planned(self) -> bool:
        """Whether a planned motion is under way."""
        return self._motion is not None and self._motion.status == "move_J"

    def advance(self, measured: Float64[np.ndarray, " 7"], now: float) -> bool:
        """Take new measurements [rad] and move the set-point of a planned motion on; return whether it arrived."""
        self._measured = measured
        if self._following and now - self._last_frame > _FOLLOW_END_S:
            self._following = False
            self._speed = [0.0] * _N
        return self._motion is not None and self._continue(self._motion, now)

    # -- motion ----------------------------------------------------------------------------------------------------

    def follow(self, joints: list[int], now: float, *, high: bool) -> None:
        """Obey a following frame, or count why not.

        Args:
            joints: set-points [0.001 deg].
            now: time [s].
            high: high following, with its period.
        """
        if not self._may_move():
            self._counts["refused"] += 1
        elif self._beyond_limits(joints):
            self._counts["limit"] += 1
        else:
            self.arm_error = 0
            self._motion = None
            self._respond(joints, now, high=high)

    def plan(self, joints: list[int], speed: int, now: float) -> bool:
        """Plan a motion to a target [0.001 deg] at a share of full speed [%]; return whether it is accepted."""
        if not (1 <= speed <= 100 and self._may_move() and all(self._enabled) and not self._beyond_limits(joints)):
            return False
        self.arm_error = 0
        change = tuple(q - t for q, t in zip(joints, self._target, strict=True))
        # The cubic's peaks: speed 1.5 change / T, acceleration 6 change / T^2.
        duration = max(1.5 * abs(d) / (speed / 100 * s) for d, s in zip(change, SPEED, strict=True))
        duration = max(duration, math.sqrt(6 * max(map(abs, change)) / _PLAN_ACCELERATION), 0.01)
        self._begin(_Motion("move_J", now, duration, tuple(self._target), change, _smooth))
        return True

    def stop(self, now: float) -> None:
        """Brake along the path."""
        self._brake_along("stop", _STOP_DECELERATION, now, _STOP_STATUS_S)

    def slow_stop(self, now: float) -> None:
        """Brake along the path, gently."""
        self._brake_along("slow_stop", _SLOW_DECELERATION, now, 0.01)

    def _respond(self, joints: list[int], now: float, *, high: bool) -> None:
        elapsed = now - self._last_frame
        if self._following and high and elapsed > FOLLOW_PERIOD_S + _PERIOD_TOLERANCE_S:
            self._counts["late"] += 1
        self._following, self._last_frame = True, now
        spare = 1000 * MAX_SPEED_DEG_S * FOLLOW_PERIOD_S  # frames may bunch on the way by one period
        for i, target in enumerate(joints):
            change = target - self._target[i]
            allowed = self._carry[i] + 1000 * MAX_SPEED_DEG_S * elapsed
            self._speed[i] = 0.0
            if not self._enabled[i]:
                continue
            if abs(change) > 1000 * MAX_STEP_DEG:
                self._counts["jump"] += 1
            elif abs(change) > allowed:
                self._counts["overspeed"] += 1
            else:
                self._target[i] = float(target)
                self._speed[i] = change / max(elapsed, FOLLOW_PERIOD_S)
                allowed -= abs(change)
            self._carry[i] = min(allowed, spare)

    def _begin(self, motion: _Motion) -> None:
        self._motion, self._following = motion, False

    def _continue(self, motion: _Motion, now: float) -> bool:
        before = motion.at(now - 0.001)
        self._target = [q if on else t for q, t, on in zip(motion.at(now), self._target, self._enabled, strict=True)]
        self._speed = [(q - b) / 0.001 for q, b in zip(self._target, before, strict=True)]
        late = now - motion.start - motion.duration
        if late < 0 or (motion.status == "move_J" and late < _ARRIVAL_S and not self._is_there()):
            return False
        self._motion, self._speed = None, [0.0] * _N
        return motion.status == "move_J"

    def _is_there(self) -> bool:
        return all(abs(m - t) < _THERE for m, t in zip(self._measured_units(), self._target, strict=True))

    def _brake_along(self, status: str, deceleration: float, now: float, least: float) -> None:
        if self._following and now - self._last_frame > 2 * FOLLOW_PERIOD_S:
            self._speed = [0.0] * _N  # the last frame is too old: the arm stands still
        braking = max(0.001, max(map(abs, self._speed)) / deceleration)
        duration = max(least, braking)
        ends = [t + v * braking / 2 for t, v in zip(self._target, self._speed, strict=True)]
        change = tuple(min(max(e, -limit), limit) - t for e, limit, t in zip(ends, LIMIT, self._target, strict=True))
        share = duration / braking
        self._begin(
            _Motion(status, now, duration, tuple(self._target), change, lambda s: _braking(min(1.0, s * share)))
        )

    def _may_move(self) -> bool:
        return not (self.stopped or self.system_error or any(self.joint_errors)) and self.powered

    def _beyond_limits(self, joints: Sequence[int]) -> bool:
        beyond = any(abs(q) > limit for q, limit in zip(joints, LIMIT, strict=True))
        if beyond:
            self.arm_error = ERROR_TARGET_LIMIT
        return beyond

    def _halt(self) -> None:
        """Stop where the arm is."""
        self._motion, self._following = None, False
        self._speed = [0.0] * _N
        self._target = self._measured_units()

    def _brake(self, index: int) -> None:
        self._enabled[index] = False
        self._target[index] = self._measured_units()[index]

    # -- power and errors ------------------------------------------------------------------------------------------

    def set_power(self, *, on: bool) -> bool:
        """Power all joints, or none; return whether that is accepted."""
        if not self.stopped:
            self._power(on=on)
        return not self.stopped

    def set_enabled(self, joint: int, *, on: bool) -> bool:
        """Power one joint or not; return whether that is accepted."""
        accepted = not self.stopped and (not on or (self.powered and not self.joint_errors[joint - 1]))
        if accepted and on != self._enabled[joint - 1]:
            self._brake(joint - 1)  # starts from where it is, in both directions
            self._enabled[joint - 1] = on
        return accepted

    def clear_joint(self, joint: int) -> bool:
        """Clear a joint's error; return whether that is accepted."""
        if not self.stopped:
            self.joint_errors[joint - 1] = 0
        return not self.stopped

    def clear_system(self) -> bool:
        """Clear system and planning errors; return whether that is accepted."""
        if not self.stopped:
            self.system_error = self.arm_error = 0
        return not self.stopped

    def press_stop(self, pressed: bool) -> None:
        """Press or release the emergency stop: pressed, the joints lose power and no command is obeyed.

        Once it is released, they stay without power until a client gives it.
        """
        self.stopped = pressed
        if pressed:
            self._power(on=False)

    def fail(self, code: int) -> None:
        """Raise a system error: the arm stops and refuses motion until the error is cleared."""
        self.system_error = code
        self._halt()

    def fail_joint(self, joint: int, code: int) -> None:
        """Raise a joint's error: it loses its power."""
        self.joint_errors[joint - 1] = code
        self._brake(joint - 1)
        self._halt()

    def drop_joint(self, joint: int) -> None:
        """Let a joint lose its power, which is a system error as well."""
        self._brake(joint - 1)
        self.fail(ERROR_JOINT_DISABLED)

    def recover(self) -> None:
        """Clear all errors and release the emergency stop; power stays off."""
        self.system_error = self.arm_error = 0
        self.joint_errors = [0] * _N
        self.press_stop(pressed=False)

    def _power(self, *, on: bool) -> None:
        if on != self.powered:
            self._halt()
        self.powered = on
        self._enabled = [on and not error for error in self.joint_errors]

    def _measured_units(self) -> list[float]:
        units: list[float] = (self._measured / _RAD_PER_UNIT).tolist()
        return units
