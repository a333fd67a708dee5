"""What happens at every tick of the robot: obey, look, decide whether to stop, move.

`Executor.tick` neither waits nor raises. Faults latch: whatever stopped the arms, they stay stopped until somebody
resets and enables them again. `robotest.hardware.control.process` runs it in a process of its own.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np

from robotest.errors import RobotestError
from robotest.hardware.control.black_box import BlackBox, Entry
from robotest.hardware.control.governor import Governor, JointTrajectory, RejectedChunkError, Shaped
from robotest.hardware.robot import Robot, RobotState, Setpoint, Stop


class Mode(enum.Enum):
    """What the arms are doing."""

    DISABLED = "disabled"
    """No set-points are sent."""
    HOLDING = "holding"
    """The same set-point is sent, tick after tick."""
    FOLLOWING = "following"
    """A chunk is followed."""
    STOPPING = "stopping"
    """The arms brake."""


@dataclasses.dataclass(frozen=True)
class Watchdogs:
    """What may take how long, or go how far, before the arms are stopped.

    Attributes:
        heartbeat: since the rollout's process was last heard of [s]. Not short: a thread of that process beats, and
            libraries keep it waiting. Where the system tells that the process stands still, nobody waits for this.
        state: since an arm's state arrived [s]. Time in which this process itself did not run counts at the next tick:
            what arrived meanwhile may not have been read yet.
        following: of a joint behind its set-point [rad].
        late: between two ticks of the executor itself [s].
    """

    heartbeat: float = 1.0
    state: float = 0.05
    following: float = 0.35
    late: float = 0.1


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why the arms were stopped. It latches.

    Attributes:
        name: short, for programs; a key of `docs/safety.md`'s table.
        text: for the operator, one line.
        stop: how.
    """

    name: str
    text: str
    stop: Stop


_TEXT: Final = 300  # characters of a fault: whatever it quotes, it is one line
_SEVERITY: Final = {Stop.HOLD: 0, Stop.DECEL_THEN_DISABLE: 1, Stop.DISABLE_NOW: 2}


class Executor:
    """One robot's. Between ticks it does nothing.

    Args:
        robot: connected.
        governor: of the robot's limits.
        box: is told of every tick.
        now: when this is made [s].
        watchdogs: how long and how far.
    """

    def __init__(
        self, robot: Robot, governor: Governor, box: BlackBox, now: float, watchdogs: Watchdogs | None = None
    ) -> None:
        self._robot, self._governor, self._box = robot, governor, box
        self._watchdogs = watchdogs or Watchdogs()
        self._mode = Mode.DISABLED
        self._fault: Fault | None = None
        self._beat = now
        self._ticked: float | None = now
        self._absent = 0.0
        self._chunk = -1
        self._step = -1
        self._notes: list[str] = []
        self._switched_off = False

    @property
    def fault(self) -> Fault | None:
        """Why the arms were stopped; None if they were not."""
        return self._fault

    @property
    def powered(self) -> bool:
        """Whether set-points are being sent."""
        return self._mode is not Mode.DISABLED

    def tick(self, now: float, messages: Sequence[object]) -> dict[str, Any]:
        """Do what one tick is for and return the status.

        Args:
            now: time [s].
            messages: that arrived since the tick before, in their order; anything may be among them.
        """
        self._notes = []
        self._look_back(now)
        for message in messages:
            self._obey(message, now)
        state = self._state()
        if state is not None:
            self._watch(state, now)
        sent = self._move() if self.powered else None
        status = self._status(now, state)
        self._record(now, state, sent)
        return status

    def trip(self, fault: Fault) -> None:
        """Stop the arms and stay stopped; a worse fault than the one there is takes its place."""
        fault = dataclasses.replace(fault, text=" ".join(fault.text.split())[:_TEXT])
        if self._fault is not None and _SEVERITY[fault.stop] <= _SEVERITY[self._fault.stop]:
            return
        self._fault = fault
        if self.powered:
            self._mode = Mode.STOPPING
        if fault.stop is Stop.DISABLE_NOW:
            self._switched_off = False  # said again, whatever was said before
            self._switch_off(Stop.DISABLE_NOW)

    def _look_back(self, now: float) -> None:
        """Stop if this process itself did not run: meanwhile the arms came to rest at the set-point sent last."""
        before, self._ticked = self._ticked, now
        gap = now - before if before is not None else 0.0
        self._absent = max(0.0, gap - self._governor.tick)
        if self.powered and gap > self._watchdogs.late:
            self._governor.halt()
            text = f"the executor did not run for {1000 * gap:.0f} ms"
            self.trip(Fault("starved", text, Stop.DECEL_THEN_DISABLE))

    def _obey(self, message: object, now: float) -> None:
        self._beat = now  # whoever sends anything is there
        try:
            match message:
                case {"do": "beat"}:
                    pass
                case {"do": "chunk", **fields}:
                    self._admit(JointTrajectory(**cast("dict[str, Any]", fields)), now)
                case {"do": "stop", "kind": kind, "text": str(text)}:
                    self.trip(Fault("operator", text, Stop(kind)))
                case {"do": "hold"}:
                    self._hold()
                case {"do": "enable"}:
                    self._enable(now)
                case {"do": "disable"}:
                    self._disable()
                case {"do": "reset"}:
                    self._reset()
                case _:
                    self.trip(Fault("message", f"a message that nobody understands: {str(message)[:80]}", Stop.HOLD))
        except RobotestError as error:
            self.trip(Fault("refused", str(error), Stop.HOLD))
        except Exception as error:  # noqa: BLE001 - there is no end of what a message may hold
            self.trip(Fault("message", f"a message that nobody understands: {error}", Stop.HOLD))

    def _admit(self, chunk: JointTrajectory, now: float) -> None:
        if self._fault is not None:
            return  # whoever sent it does not know yet
        if self._mode not in (Mode.HOLDING, Mode.FOLLOWING):
            raise RobotestError("a chunk for arms that are not enabled")
        try:
            self._notes += self._governor.admit(chunk, now)
        except RejectedChunkError as error:
            self.trip(Fault("rejected", f"chunk rejected: {error}", Stop.HOLD))
            return
        self._chunk, self._step, self._mode = chunk.number, -1, Mode.FOLLOWING

    def _hold(self) -> None:
        """Leave the chunk and come to a standstill; no fault."""
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
        self._governor.start_at(state.joints, state.openings)  # refused before anything has power
        self._switched_off = False
        try:
            self._robot.enable()
            state = self._robot.state()
            self._governor.start_at(state.joints, state.openings)
        except Exception:
            self._switch_off(Stop.DECEL_THEN_DISABLE)  # one arm may have got it
            raise
        self._mode = Mode.HOLDING
        self._ticked = None  # switching on took as long as it took

    def _disable(self) -> None:
        if self.powered and not self._governor.at_rest:
            raise RobotestError("the arms move; hold them before disabling them")
        if self.powered:
            self._switch_off(Stop.DECEL_THEN_DISABLE)

    def _reset(self) -> None:
        """Forget the fault. The arms stay as they are: disabled, or held if a hold was all."""
        if self._fault is not None and self._mode is Mode.STOPPING:
            if self._fault.stop is not Stop.HOLD or not self._governor.at_rest:
                raise RobotestError("the arms are still being stopped; reset again afterwards")
            self._mode = Mode.HOLDING
        self._fault = None

    def _state(self) -> RobotState | None:
        try:
            return self._robot.state()
        except Exception as error:  # noqa: BLE001 - braking goes on, whatever a driver raises
            self._blame("link" if isinstance(error, RobotestError) else "internal", error)
            return None

    def _watch(self, state: RobotState, now: float) -> None:
        if not self.powered:
            return
        if trouble := self._trouble(state, now):
            self.trip(trouble)
        silence = now - self._beat
        if silence > self._watchdogs.heartbeat:
            text = f"nothing heard from the rollout for {1000 * silence:.0f} ms"
            self.trip(Fault("heartbeat", text, Stop.DECEL_THEN_DISABLE))

    def _trouble(self, state: RobotState, now: float) -> Fault | None:
        """Return the worst of what a state tells."""
        limits = self._robot.limits
        measured = (state.joints, state.currents, state.temperatures, state.stamps)
        if state.stopped:
            return Fault("emergency_stop", "the emergency stop is pressed", Stop.DISABLE_NOW)
        stop = Stop.DECEL_THEN_DISABLE
        if not all(np.isfinite(values).all() for values in measured):
            return Fault("state", "the arms' state holds something that is not a finite number", stop)
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

    def _move(self) -> Setpoint | None:
        """Send the next set-point; return what was sent."""
        shaped = self._governor.follow() if self._mode is Mode.FOLLOWING else self._governor.brake()
        if self._mode is Mode.FOLLOWING:
            self._followed(shaped)
        try:
            sent = self._robot.command(shaped.setpoint)
        except Exception as error:  # noqa: BLE001 - as above
            self._blame("link" if isinstance(error, RobotestError) else "internal", error)
            sent = None
        if self._mode is Mode.STOPPING and self._governor.at_rest:
            assert self._fault is not None
            if self._fault.stop is not Stop.HOLD:
                self._switch_off(self._fault.stop)
        return sent

    def _blame(self, name: str, error: Exception) -> None:
        self.trip(Fault(name, str(error) or type(error).__name__, Stop.DECEL_THEN_DISABLE))

    def _followed(self, shaped: Shaped) -> None:
        if shaped.held:
            self.trip(Fault("unsafe", f"stopped on the way: {shaped.held}", Stop.HOLD))
        self._step = -1 if shaped.step is None else shaped.step
        if not self._governor.busy and self._fault is None:
            self._mode = Mode.HOLDING

    def _switch_off(self, kind: Stop) -> None:
        self._mode = Mode.DISABLED
        if not self._switched_off:
            self._switched_off = True
            self._robot.stop(kind)

    def _status(self, now: float, state: RobotState | None) -> dict[str, Any]:
        commanded = self._governor.commanded
        if state is not None and not self.powered:  # nothing is commanded; what would be is where the arms are
            commanded = Setpoint(state.joints, state.openings)
        told: dict[str, Any] = {}
        if state is not None:
            told = {name: getattr(state, name) for name in ("joints", "openings", "stamps", "enabled")}
        return {
            "time": now,
            "mode": self._mode.value,
            "fault": None
            if self._fault is None
            else {"name": self._fault.name, "text": self._fault.text, "stop": self._fault.stop.value},
            "chunk": self._chunk,
            "step": self._step,
            "at_rest": self._governor.at_rest,
            "commanded": commanded.joints,
            "commanded_openings": commanded.openings,
            "notes": self._notes,
            **told,
        }

    def _record(self, now: float, state: RobotState | None, sent: Setpoint | None) -> None:
        entry = Entry(
            now, self._mode.value, self._chunk, self._step, sent, state, self._fault.name if self._fault else None
        )
        try:
            self._box.write(entry)
        except OSError as error:
            self.trip(Fault("black_box", f"the black box cannot be written: {error.strerror or error}", Stop.HOLD))
