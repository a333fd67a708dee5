"""One control tick of the robot: handle requests, read the arms, check for faults, send the next set-point.

`Executor.tick` neither waits nor raises. Faults latch: once stopped, the arms stay stopped until they are reset and
enabled again. `robotest.hardware.control.station` calls it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from robotest.errors import RobotestError
from robotest.hardware.control.black_box import BlackBox, Entry
from robotest.hardware.control.governor import Governor, JointTrajectory, RejectedChunkError, Shaped
from robotest.hardware.control.messages import Beat, Enable, Follow, Halt, Hold, Quit, Request, Reset, Unknown
from robotest.hardware.control.status import Fault, Measured, Mode, Status
from robotest.hardware.robot import Robot, RobotState, Setpoint, Stop
from robotest.types import Clock


@dataclasses.dataclass(frozen=True)
class Watchdogs:
    """Thresholds beyond which the arms are stopped.

    Attributes:
        heartbeat: time since the last message of the rollout [s]. Generous, because libraries can block the thread
            that beats. Where the operating system reports that the process is gone or stopped, that comes first.
        state: age of an arm's state [s]. Time in which the executor itself did not run is not counted until the next
            tick: states that arrived meanwhile may not have been read yet.
        following: distance of a joint behind its set-point [rad].
        late: time between two ticks of the executor [s].
    """

    heartbeat: float = 1.0
    state: float = 0.05
    following: float = 0.35
    late: float = 0.1


_TEXT: Final = 300  # maximum length of a fault's text, which may quote anything
_SEVERITY: Final = {Stop.HOLD: 0, Stop.DECEL_THEN_DISABLE: 1, Stop.DISABLE_NOW: 2}


class Executor:
    """Controls one robot. Does nothing between ticks.

    Args:
        robot: connected.
        governor: with the robot's limits.
        box: records every tick.
        clock: that times the ticks.
        watchdogs: thresholds.
    """

    def __init__(
        self, robot: Robot, governor: Governor, box: BlackBox, clock: Clock, watchdogs: Watchdogs | None = None
    ) -> None:
        self._robot, self._governor, self._box, self._clock = robot, governor, box, clock
        self._watchdogs = watchdogs or Watchdogs()
        self._mode = Mode.DISABLED
        self._fault: Fault | None = None
        self._beat = now = clock.now()
        self._ticked: float | None = now
        self._absent = 0.0
        self._chunk = -1
        self._step = -1
        self._notes: list[str] = []
        self._switched_off = False

    @property
    def fault(self) -> Fault | None:
        """The latched fault, if any."""
        return self._fault

    @property
    def powered(self) -> bool:
        """Whether set-points are being sent."""
        return self._mode is not Mode.DISABLED

    def tick(self, now: float, requests: Sequence[Request | Unknown]) -> Status:
        """Run one tick and return the status after it.

        Args:
            now: time [s].
            requests: received since the last tick, in order.
        """
        self._notes = []
        self._check_gap(now)
        for request in requests:
            self._handle(request, now)
        state = self._state()
        if state is not None:
            self._watch(state, now)
        sent = self._move(now) if self.powered else None
        status = self._status(now, state)
        self._record(now, state, sent)
        return status

    def trip(self, fault: Fault) -> None:
        """Stop the arms and latch the fault; it replaces a latched one only if its stop is more severe."""
        fault = dataclasses.replace(fault, text=" ".join(fault.text.split())[:_TEXT])
        if self._fault is not None and _SEVERITY[fault.stop] <= _SEVERITY[self._fault.stop]:
            return
        self._fault = fault
        if self.powered:
            self._mode = Mode.STOPPING
        if fault.stop is Stop.DISABLE_NOW:
            self._switched_off = False  # repeat the command, even if the arms should be off already
            self._switch_off(Stop.DISABLE_NOW)

    def _check_gap(self, now: float) -> None:
        """Stop if this process did not run for too long: meanwhile the arms came to rest at the last set-point."""
        before, self._ticked = self._ticked, now
        gap = now - before if before is not None else 0.0
        self._absent = max(0.0, gap - self._governor.tick)
        if self.powered and gap > self._watchdogs.late:
            self._starve(gap, self._governor.commanded)

    def _starve(self, gap: float, last: Setpoint) -> None:
        self._governor.halt(last)
        text = f"the executor did not run for {1000 * gap:.0f} ms"
        self.trip(Fault("starved", text, Stop.DECEL_THEN_DISABLE))

    def _handle(self, request: Request | Unknown, now: float) -> None:
        self._beat = now  # any message proves that the rollout is alive
        try:
            self._obey(request, now)
        except RobotestError as error:
            self.trip(Fault("refused", str(error), Stop.HOLD))
        except Exception as error:  # noqa: BLE001 - a chunk's fields may hold anything
            self.trip(Fault("message", f"request failed: {error}", Stop.HOLD))

    def _obey(self, request: Request | Unknown, now: float) -> None:
        match request:
            case Beat():
                pass
            case Follow(chunk):
                self._admit(chunk, now)
            case Halt(kind, text):
                self.trip(Fault("operator", text, kind))
            case Hold():
                self._hold()
            case Enable():
                self._enable(now)
            case Reset():
                self._reset()
            case Quit():
                self.trip(Fault("ended", "the executor was told to end", Stop.DECEL_THEN_DISABLE))
            case Unknown(text):
                self.trip(Fault("message", f"unknown message: {text}", Stop.HOLD))

    def _admit(self, chunk: JointTrajectory, now: float) -> None:
        if self._fault is not None:
            return  # the sender has not seen the fault yet
        if self._mode not in (Mode.HOLDING, Mode.FOLLOWING):
            raise RobotestError("chunk refused: the arms are not enabled")
        try:
            self._notes += self._governor.admit(chunk, now)
        except RejectedChunkError as error:
            self.trip(Fault("rejected", f"chunk rejected: {error}", Stop.HOLD))
            return
        self._chunk, self._step, self._mode = chunk.number, -1, Mode.FOLLOWING

    def _hold(self) -> None:
        """Abandon the chunk and come to rest; no fault."""
        if self._mode is Mode.FOLLOWING:
            self._mode = Mode.HOLDING

    def _enable(self, now: float) -> None:
        if self._fault is not None:
            raise RobotestError(f"a fault is latched ({self._fault.text}); reset it first")
        if self.powered:
            return
        state = self._robot.state()
        if trouble := self._trouble(state, now):
            self.trip(trouble)
            return
        self._governor.start_at(state.joints, state.openings)  # may refuse, before anything has power
        self._switched_off = False
        try:
            self._robot.enable()
            state = self._robot.state()
            self._governor.start_at(state.joints, state.openings)
        except Exception:
            self._switch_off(Stop.DECEL_THEN_DISABLE)  # one arm may have power already
            raise
        self._mode = Mode.HOLDING
        self._ticked = None  # powering up takes seconds, which is not a late tick

    def _reset(self) -> None:
        """Clear the fault. The arms stay disabled, or keep holding if the stop was HOLD."""
        if self._fault is not None and self._mode is Mode.STOPPING:
            if self._fault.stop is not Stop.HOLD or not self._governor.at_rest:
                raise RobotestError("the arms are still stopping; reset again when they are at rest")
            self._mode = Mode.HOLDING
        self._fault = None

    def _state(self) -> RobotState | None:
        try:
            return self._robot.state()
        except Exception as error:  # noqa: BLE001 - braking must go on, whatever the driver raises
            self._blame("link" if isinstance(error, RobotestError) else "internal", error)
            return None

    def _watch(self, state: RobotState, now: float) -> None:
        if not self.powered:
            return
        if trouble := self._trouble(state, now):
            self.trip(trouble)
        silence = now - self._beat
        if silence > self._watchdogs.heartbeat:
            text = f"no message from the rollout for {1000 * silence:.0f} ms"
            self.trip(Fault("heartbeat", text, Stop.DECEL_THEN_DISABLE))

    def _trouble(self, state: RobotState, now: float) -> Fault | None:
        """Return the most severe fault that a state shows."""
        limits = self._robot.limits
        measured = (state.joints, state.currents, state.temperatures, state.stamps)
        if state.stopped:
            return Fault("emergency_stop", "the emergency stop is pressed", Stop.DISABLE_NOW)
        stop = Stop.DECEL_THEN_DISABLE
        if not all(np.isfinite(values).all() for values in measured):
            return Fault("state", "the arms' state contains a value that is not finite", stop)
        if state.age(now) - self._absent > self._watchdogs.state:
            return Fault("state", f"the arms' state is {1000 * state.age(now):.0f} ms old", stop)
        if state.errors:
            return Fault("error", "; ".join(state.errors), stop)
        if self.powered and not state.enabled.all():
            return Fault("power", "a joint lost power", stop)
        if (worst := float(state.currents.max())) > limits.current:
            return Fault("current", f"a joint draws {worst:.1f} A; {limits.current:g} A are allowed", stop)
        if (worst := float(state.temperatures.max())) > limits.temperature:
            return Fault("temperature", f"a joint is at {worst:.0f} deg C; {limits.temperature:g} are allowed", stop)
        behind = np.abs(state.joints - self._governor.commanded.joints).max() if self.powered else 0.0
        if behind > self._watchdogs.following:
            return Fault("following", f"a joint is {behind:.2f} rad behind its set-point", stop)
        return None

    def _move(self, now: float) -> Setpoint | None:
        """Send the next set-point; return it as sent, None if nothing was."""
        last = self._governor.commanded
        shaped = self._governor.follow() if self._mode is Mode.FOLLOWING else self._governor.brake()
        gap = self._clock.now() - now
        if gap > self._watchdogs.late and self._ticked is not None:  # which it is not while powering up
            # Stopped in the middle of this tick: the arms rest at the last set-point, so this one would be a jump.
            self._starve(gap, last)
            sent = None
        else:
            sent = self._send(shaped)
        if self._mode is Mode.STOPPING and self._governor.at_rest:
            assert self._fault is not None
            if self._fault.stop is not Stop.HOLD:
                self._switch_off(self._fault.stop)
        return sent

    def _send(self, shaped: Shaped) -> Setpoint | None:
        if self._mode is Mode.FOLLOWING:
            self._followed(shaped)
        try:
            return self._robot.command(shaped.setpoint)
        except Exception as error:  # noqa: BLE001 - as above
            self._blame("link" if isinstance(error, RobotestError) else "internal", error)
            return None

    def _blame(self, name: str, error: Exception) -> None:
        self.trip(Fault(name, str(error) or type(error).__name__, Stop.DECEL_THEN_DISABLE))

    def _followed(self, shaped: Shaped) -> None:
        if shaped.held:
            self.trip(Fault("unsafe", f"chunk abandoned: {shaped.held}", Stop.HOLD))
        self._step = -1 if shaped.step is None else shaped.step
        if not self._governor.busy and self._fault is None:
            self._mode = Mode.HOLDING

    def _switch_off(self, kind: Stop) -> None:
        self._mode = Mode.DISABLED
        if not self._switched_off:
            self._switched_off = True
            self._robot.stop(kind)

    def _status(self, now: float, state: RobotState | None) -> Status:
        commanded = self._governor.commanded
        if state is not None and not self.powered:  # a chunk would start where the arms are
            commanded = Setpoint(state.joints, state.openings)
        return Status(
            time=now,
            mode=self._mode,
            fault=self._fault,
            chunk=self._chunk,
            step=self._step,
            at_rest=self._governor.at_rest,
            commanded=commanded,
            measured=None if state is None else Measured.of(state),
            notes=tuple(self._notes),
        )

    def _record(self, now: float, state: RobotState | None, sent: Setpoint | None) -> None:
        entry = Entry(
            now, self._mode.value, self._chunk, self._step, sent, state, self._fault.name if self._fault else None
        )
        try:
            self._box.write(entry)
        except OSError as error:
            self.trip(Fault("black_box", f"the black box cannot be written: {error.strerror or error}", Stop.HOLD))
