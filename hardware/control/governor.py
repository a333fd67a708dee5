"""Between a policy and the motors: admits or rejects chunks, and shapes every set-point.

Nothing here waits, reads a clock or sends. Positions are integers in units of the wire's resolution and velocities
integers per tick, so that the set-points checked are to the last bit those sent, and limits hold exactly.

A set-point is returned only if the arms can still brake from it within limits: joint limits by arithmetic (`fastest`),
workspace and collisions by checking the whole braking path. The previous set-point's braking path was checked too, so
braking is always possible. Where there is little room the arms slow down; where there is none the chunk is abandoned.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from robotest.embodiment.collision import Twin
from robotest.embodiment.workcell import SIDES
from robotest.errors import RobotestError
from robotest.hardware.robot import Limits, Setpoint

TICK_S: Final = 0.01
"""Time between set-points [s]: RealMan's high following."""
_LONGEST_STOP_S: Final = 1.0
_SAME_DT_S: Final = 1e-6


class RejectedChunkError(RobotestError):
    """The chunk is implausible or unsafe; nothing of it is executed."""


@dataclasses.dataclass(frozen=True)
class JointTrajectory:
    """A chunk in joint space.

    Attributes:
        number: of the chunk; larger than that of the previous one.
        joints: positions at the end of each step [rad].
        openings: of the grippers, 0 closed to 1 open.
        dt: duration of a step [s].
        observed: when the state arrived on which the chunk was decided [s].
    """

    number: int
    joints: Float64[np.ndarray, "H 2 7"]
    openings: Float64[np.ndarray, "H 2"]
    dt: float
    observed: float


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """How implausible a chunk may be before it is rejected. Smaller excess is clipped and noted.

    Attributes:
        steps: in a chunk, at most.
        dt: shortest and longest step [s].
        age: of the observation when the chunk arrives [s].
        joint: beyond a joint's limit [rad].
        opening: beyond closed or open.
        speed: of a step, as a multiple of the joint's limit; the first step starts at the last set-point.
        lag: of the set-points behind the chunk, beyond which it is abandoned [rad].
    """

    steps: int = 256
    dt: tuple[float, float] = (0.02, 0.5)
    age: float = 2.0
    joint: float = 0.02
    opening: float = 0.25
    speed: float = 1.1
    lag: float = 0.6


@dataclasses.dataclass(frozen=True)
class Shaped:
    """One tick's set-point.

    Attributes:
        setpoint: to send.
        step: of the chunk, counted from 0; None without a chunk.
        lag: largest distance of a joint behind the chunk [rad].
        held: why the chunk was abandoned; None if it was not.
    """

    setpoint: Setpoint
    step: int | None = None
    lag: float = 0.0
    held: str | None = None


class Governor:
    """Follows one chunk after the other, within limits.

    Args:
        limits: of the robot.
        twin: checks for collisions.
        tick: time between set-points [s].
        resolution: of a position on the wire [rad].
        tolerances: for chunks.
    """

    def __init__(
        self, limits: Limits, twin: Twin, tick: float, resolution: float, tolerances: Tolerances | None = None
    ) -> None:
        self.limits: Final = limits
        self.tick: Final = tick
        self.resolution: Final = resolution
        self._twin = twin
        self._tolerances = tolerances or Tolerances()
        self._low = np.ceil(limits.joint_low / resolution).astype(np.int64)
        self._high = np.floor(limits.joint_high / resolution).astype(np.int64)
        self._speed = np.floor(limits.speed * tick / resolution).astype(np.int64)
        self._acceleration = np.floor(limits.acceleration * tick**2 / resolution).astype(np.int64)
        if self._acceleration.min() < 1:
            raise RobotestError(
                f"accelerations of {limits.acceleration.min():g} rad/s^2 are below the wire's resolution"
            )
        longest = float((self._speed / self._acceleration).max()) * tick
        if longest > _LONGEST_STOP_S:  # every tick checks the whole braking path
            raise RobotestError(
                f"with these limits braking takes {longest:.1f} s; at most {_LONGEST_STOP_S:g} s is supported. Narrow"
                " the speed as well"
            )
        self._position = np.zeros((2, 7), np.int64)
        self._velocity = np.zeros((2, 7), np.int64)
        self._openings = np.ones(2)
        self._plan: _Plan | None = None
        self._number = -1

    @property
    def commanded(self) -> Setpoint:
        """The last set-point."""
        return Setpoint(self._position * self.resolution, self._openings.copy())

    @property
    def at_rest(self) -> bool:
        """Whether the set-points stand still."""
        return not self._velocity.any()

    @property
    def busy(self) -> bool:
        """Whether the set-points have not yet reached the end of the chunk."""
        return self._plan is not None

    def start_at(self, joints: Float64[np.ndarray, "2 7"], openings: Float64[np.ndarray, " 2"]) -> None:
        """Start from the measured position, at rest, without a chunk.

        Raises:
            RobotestError: the arms violate a limit there and have to be moved by hand.
        """
        if not np.isfinite(joints).all() or not np.isfinite(openings).all():
            raise RobotestError("the arms cannot start from here: their positions are not finite numbers")
        position = np.rint(joints / self.resolution).astype(np.int64)
        beyond = np.maximum(self._low - position, position - self._high).max() * self.resolution
        unsafe = f"a joint {np.rad2deg(beyond):.2f} deg beyond its limit" if beyond > 0 else self._unsafe(position)
        if unsafe:
            raise RobotestError(f"the arms cannot start from here: {unsafe}. Move them by hand, then try again")
        self._position, self._velocity, self._plan = position, np.zeros((2, 7), np.int64), None
        self._openings = np.clip(openings, 0.0, 1.0)

    def admit(self, chunk: JointTrajectory, now: float) -> list[str]:
        """Replace the current chunk by a new one, and return notes of what was clipped.

        Raises:
            RejectedChunkError: the new chunk is rejected, and the current one abandoned.
        """
        self._plan = None
        allowed = self._tolerances
        joints, openings = _numbers(chunk, allowed)
        self._require_timely(chunk, now)
        beyond = np.maximum(self.limits.joint_low - joints, joints - self.limits.joint_high)
        if beyond.max() > allowed.joint:
            step, arm, joint = _where(beyond)
            degrees = " (are these degrees?)" if np.abs(joints).max() > 2 * np.pi + allowed.joint else ""
            raise RejectedChunkError(
                f"step {step}: {joints[step, arm, joint]:.3f} rad for {_joint(arm, joint)} is beyond its limits"
                f" {self.limits.joint_low[arm, joint]:.3f} to {self.limits.joint_high[arm, joint]:.3f}{degrees}"
            )
        outside = np.maximum(-openings, openings - 1)
        if outside.max() > allowed.opening:
            step, arm = _where(outside)
            raise RejectedChunkError(
                f"step {step}: opening {openings[step, arm]:.3f} of the {SIDES[arm]} gripper; 0 to 1"
            )
        waypoints = np.clip(np.rint(joints / self.resolution).astype(np.int64), self._low, self._high)
        ticks = round(chunk.dt / self.tick)
        if abs(ticks * self.tick - chunk.dt) > _SAME_DT_S:
            raise RejectedChunkError(f"steps of {chunk.dt:g} s; multiples of {self.tick:g} s are allowed")
        self._require_slow(waypoints, ticks)
        for step, waypoint in enumerate(waypoints):
            if unsafe := self._unsafe(waypoint):
                raise RejectedChunkError(f"step {step}: {unsafe}")
        self._number = chunk.number
        self._plan = _Plan(np.concatenate([self._position[None], waypoints]), np.clip(openings, 0.0, 1.0), ticks)
        return _notes(beyond, outside)

    def follow(self) -> Shaped:
        """Return the next set-point along the chunk; at its end, or without one, the arms hold."""
        if self._plan is None:
            return self.brake()
        plan = self._plan
        target, rate, openings, step = plan.next()
        velocity = self._towards(target, rate, plan.extent(step))
        held = self._unsafe_ahead(self._position + velocity, velocity)
        if held:
            if self.at_rest:  # no way forward, however slowly
                return dataclasses.replace(self.brake(), step=step, held=held)
            # At a lower speed the arms need less room to stop, so the next tick may go on.
            velocity, held = _braked(self._velocity, self._acceleration), None
        self._move(velocity, openings)
        lag = float(np.abs(target - self._position).max()) * self.resolution
        if lag > self._tolerances.lag:
            held, self._plan = f"set-points are {lag:.2f} rad behind the chunk", None
        if plan.over and lag == 0.0 and self.at_rest:
            self._plan = None
        return Shaped(self.commanded, step, lag, held)

    def brake(self) -> Shaped:
        """Return the next set-point of a braking motion, or at rest the same one; the chunk is abandoned."""
        self._plan = None
        self._move(_braked(self._velocity, self._acceleration), self._openings)
        return Shaped(self.commanded)

    def halt(self, setpoint: Setpoint) -> None:
        """Assume that the arms stand still at `setpoint`, the last one sent: nothing was sent for a while since."""
        self._plan, self._velocity = None, np.zeros((2, 7), np.int64)
        self._position = np.rint(setpoint.joints / self.resolution).astype(np.int64)
        self._openings = setpoint.openings

    def _require_timely(self, chunk: JointTrajectory, now: float) -> None:
        age = now - chunk.observed
        if not 0 <= age <= self._tolerances.age:
            raise RejectedChunkError(f"decided on a state {age:.2f} s old; 0 to {self._tolerances.age:g} s are allowed")
        if chunk.number <= self._number:
            raise RejectedChunkError(f"chunk {chunk.number} after chunk {self._number}")

    def _require_slow(self, waypoints: Int64[np.ndarray, "H 2 7"], ticks: int) -> None:
        steps = np.abs(np.diff(np.concatenate([self._position[None], waypoints]), axis=0))
        allowed = self._speed * ticks * self._tolerances.speed
        if np.any(steps > allowed):
            step, arm, joint = _where(steps - allowed)
            raise RejectedChunkError(
                f"step {step}: {_joint(arm, joint)} jumps by {steps[step, arm, joint] * self.resolution:.3f} rad;"
                f" {allowed[arm, joint] * self.resolution:.3f} are allowed in {ticks * self.tick:g} s"
            )

    def _towards(
        self,
        target: Int64[np.ndarray, "2 7"],
        rate: Int64[np.ndarray, "2 7"],
        extent: tuple[Int64[np.ndarray, "2 7"], Int64[np.ndarray, "2 7"]],
    ) -> Int64[np.ndarray, "2 7"]:
        """Return the velocity that best reaches `target` in one tick and goes on at `rate`.

        The arms can stop within `extent`, the range of the rest of the chunk; if they are outside, as soon as possible.
        """
        behind = target - rate - self._position
        wanted = rate + np.sign(behind) * fastest(np.abs(behind), self._acceleration)
        low, high = (np.maximum(0, sign * (end - self._position)) for sign, end in zip((-1, 1), extent, strict=True))
        wanted = np.clip(wanted, -fastest(low, self._acceleration), fastest(high, self._acceleration))
        reach = np.clip(wanted, self._velocity - self._acceleration, self._velocity + self._acceleration)
        up = np.minimum(self._speed, fastest(self._high - self._position, self._acceleration))
        down = np.minimum(self._speed, fastest(self._position - self._low, self._acceleration))
        velocity: Int64[np.ndarray, "2 7"] = np.clip(reach, -down, up)
        return velocity

    def _move(self, velocity: Int64[np.ndarray, "2 7"], openings: Float64[np.ndarray, " 2"]) -> None:
        self._velocity = velocity
        self._position = self._position + velocity
        reach = self.limits.opening_speed * self.tick
        self._openings = np.clip(openings, self._openings - reach, self._openings + reach)

    def _unsafe_ahead(self, position: Int64[np.ndarray, "2 7"], velocity: Int64[np.ndarray, "2 7"]) -> str | None:
        """Return what is unsafe at `position` or along the braking path from there."""
        while not (unsafe := self._unsafe(position)) and velocity.any():
            velocity = _braked(velocity, self._acceleration)
            position = position + velocity
        return unsafe

    def _unsafe(self, position: Int64[np.ndarray, "2 7"]) -> str | None:
        if contact := self._twin.contact(position * self.resolution):
            return contact
        tips = self._twin.tips()
        outside = np.maximum(self.limits.workspace_low - tips, tips - self.limits.workspace_high)
        if outside.max() <= 0:
            return None
        arm, axis = _where(outside)
        return f"the {SIDES[arm]} tip at {'xyz'[axis]} = {tips[arm, axis]:.3f} m, outside the workspace"


class _Plan:
    """An admitted chunk, interpolated linearly between its waypoints."""

    def __init__(
        self, waypoints: Int64[np.ndarray, "steps 2 7"], openings: Float64[np.ndarray, "H 2"], ticks: int
    ) -> None:
        self._waypoints, self._openings, self._ticks = waypoints, openings, ticks
        self._done = 0
        ahead = waypoints[:0:-1]  # from last to first
        self._low = np.minimum.accumulate(ahead)[::-1]
        self._high = np.maximum.accumulate(ahead)[::-1]

    @property
    def over(self) -> bool:
        """Whether every step has been returned."""
        return self._done >= self._ticks * len(self._openings)

    def extent(self, step: int) -> tuple[Int64[np.ndarray, "2 7"], Int64[np.ndarray, "2 7"]]:
        """Return the smallest and largest position of every joint from the end of `step` on."""
        return self._low[step], self._high[step]

    def next(self) -> tuple[Int64[np.ndarray, "2 7"], Int64[np.ndarray, "2 7"], Float64[np.ndarray, " 2"], int]:
        """Return the position one tick ahead, the change per tick, the openings, and the step."""
        if self.over:
            last = len(self._openings) - 1
            return self._waypoints[-1], np.zeros((2, 7), np.int64), self._openings[-1], last
        step, ticks = divmod(self._done, self._ticks)
        before, after = (self._between(step, ticks + k) for k in (0, 1))
        self._done += 1
        return after, after - before, self._openings[step], step

    def _between(self, step: int, ticks: int) -> Int64[np.ndarray, "2 7"]:
        start, end = self._waypoints[step], self._waypoints[step + 1]
        between: Int64[np.ndarray, "2 7"] = start + (end - start) * ticks // self._ticks
        return between


def fastest(distance: Int64[np.ndarray, "*n"], acceleration: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Return the largest velocity that can stop within `distance`, the coming tick included.

    Braking from v by a per tick covers v + (v - a) + (v - 2a) + ... = (n + 1) v - a n (n + 1) / 2, with n = v // a.

    Args:
        distance: at least 0.
        acceleration: change of velocity per tick, at least 1.
    """
    n = np.floor((np.sqrt(1 + 8 * distance / acceleration) - 1) / 2).astype(np.int64)
    # The root is a float and may be one off near integers.
    n = np.where(acceleration * n * (n + 1) // 2 > distance, n - 1, n)
    n = np.where(acceleration * (n + 1) * (n + 2) // 2 <= distance, n + 1, n)
    velocity: Int64[np.ndarray, "*n"] = (distance + acceleration * n * (n + 1) // 2) // (n + 1)
    return velocity


def _braked(velocity: Int64[np.ndarray, "2 7"], acceleration: Int64[np.ndarray, "2 7"]) -> Int64[np.ndarray, "2 7"]:
    braked: Int64[np.ndarray, "2 7"] = velocity - np.clip(velocity, -acceleration, acceleration)
    return braked


def _numbers(
    chunk: JointTrajectory, allowed: Tolerances
) -> tuple[Float64[np.ndarray, "H 2 7"], Float64[np.ndarray, "H 2"]]:
    """Return the chunk's arrays; `RejectedChunkError` if a field has a wrong type, shape or range, or is not finite."""
    joints, openings = np.asarray(chunk.joints), np.asarray(chunk.openings)
    n = len(joints) if joints.ndim == 3 else 0
    if joints.shape != (n, 2, 7) or openings.shape != (n, 2) or not 1 <= n <= allowed.steps:
        raise RejectedChunkError(
            f"joints of shape {joints.shape} and openings of shape {openings.shape}; (H, 2, 7) and (H, 2) with H from 1"
            f" to {allowed.steps} are needed"
        )
    if type(chunk.number) is not int or not 0 <= chunk.number < 2**63:
        raise RejectedChunkError(f"number {chunk.number!r}; an integer of 0 or more is needed")
    for name, seconds in (("dt", chunk.dt), ("observed", chunk.observed)):
        if type(seconds) not in (int, float):
            raise RejectedChunkError(f"{name} = {seconds!r}; seconds are needed")
    for name, values in (("joints", joints), ("openings", openings)):
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise RejectedChunkError(f"{name} contain values that are not finite numbers")
    if not allowed.dt[0] <= chunk.dt <= allowed.dt[1]:  # also false for NaN
        raise RejectedChunkError(f"steps of {chunk.dt} s; {allowed.dt[0]:g} to {allowed.dt[1]:g} s are allowed")
    return joints.astype(np.float64), openings.astype(np.float64)


def _notes(beyond: Float64[np.ndarray, "H 2 7"], outside: Float64[np.ndarray, "H 2"]) -> list[str]:
    notes = []
    if beyond.max() > 0:
        step, arm, joint = _where(beyond)
        notes.append(f"step {step}: {_joint(arm, joint)} clipped by {beyond.max():.4f} rad to its limit")
    if outside.max() > 0:
        step, arm = _where(outside)
        notes.append(f"step {step}: opening of the {SIDES[arm]} gripper clipped by {outside.max():.3f}")
    return notes


def _where(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(np.argmax(values), values.shape))


def _joint(arm: int, joint: int) -> str:
    return f"joint {joint + 1} of the {SIDES[arm]} arm"
