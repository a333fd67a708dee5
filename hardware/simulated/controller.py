"""One RM75 controller as protocol logic: lines of JSON in, replies and set-points out. No socket, no clock, no physics.

Commands, replies and units are those of RealMan's published JSON protocol (RealManRobot/rm_docs, docs/robot/json) as
the SDK `Robotic_Arm` 1.1.6 sends and accepts them. Where the documents are silent, this is assumed:

*   A stop (``set_arm_stop``, ``set_arm_slow_stop``) brakes along the path and does not lock the arm: the next following
    frame moves it again. That is the worse case for a client that goes on sending.
*   ``stop`` is reported for 0.1 s after ``set_arm_stop`` and as long as an emergency stop is pressed.
*   Brakes hold at once and wherever the joint is; a joint without power ignores what frames say of it.
*   Giving power to the arm enables all joints, without the seconds that a real arm takes.
*   A joint's error takes its power away; a system error refuses motion until it is cleared. Errors of planning (targets
    beyond the limits) are cleared by the next good motion command, as the documents say.
*   Following frames are obeyed as they come, whatever their ``trajectory_mode``; the real filters are not published.
*   The gripper's forces and speeds are accepted and have no effect.
"""

from __future__ import annotations

import collections
import dataclasses
import ipaddress
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75

MAX_STEP_DEG: Final = 10.0
"""A joint does not respond to a frame further than this from its set-point [deg]."""
MAX_SPEED_DEG_S: Final = 180.0
"""A joint does not respond to frames that ask for more than this [deg/s]."""
FOLLOW_PERIOD_S: Final = 0.010
"""High following: the client is to send at least this often [s]."""
OPEN: Final = 1000
"""Gripper position that is fully open; 1 is closed."""

ERROR_TARGET_LIMIT: Final = 0x1002
ERROR_COLLISION: Final = 0x100D
ERROR_JOINT_DISABLED: Final = 0x1010
JOINT_ERROR_POSITION: Final = 0x0800

_N: Final = rm75.N_JOINTS
_LIMIT: Final = [round(1000 * math.degrees(x)) for x in rm75.JOINT_LIMIT_RAD]  # wire unit: 0.001 deg
_SPEED: Final = [1000 * math.degrees(x) for x in rm75.JOINT_SPEED_RAD_S]
_RAD_PER_UNIT: Final = math.pi / 180_000
_PERIOD_TOLERANCE_S: Final = 0.001  # the network's share; without it every second frame of a 100 Hz client is late
_FOLLOW_END_S: Final = 0.5  # silence that ends following
_STOP_STATUS_S: Final = 0.1
_STOP_DECELERATION: Final = 3_000_000.0  # [0.001 deg/s^2], the joints' largest (500 rpm/s)
_SLOW_DECELERATION: Final = 360_000.0
_PLAN_ACCELERATION: Final = 360_000.0
_THERE: Final = 50.0  # a planned motion ends this near its target [0.001 deg]
_ARRIVAL_S: Final = 0.5  # or this long after its set-point
_GRIPPER_STILL: Final = 0.002  # change of the opening within `_GRIPPER_WINDOW_S` that counts as standing still
_GRIPPER_WINDOW_S: Final = 0.1
_MAX_LINE: Final = 65536
_VOLTAGE: Final = [24000] * _N
_ARRIVED: Final = {"state": "current_trajectory_state", "trajectory_state": True, "trajectory_connect": 0}


def encode(message: object) -> bytes:
    """Return a message as the line that goes over the wire."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\r\n"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an arm's sensors say.

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


@dataclasses.dataclass
class PushConfig:
    """Where and how often the state goes: ``set_realtime_push``.

    Attributes:
        ip: address of the receiver.
        port: UDP port of the receiver.
        cycle: period in units of 5 ms.
        enable: whether at all.
        force_coordinate: frame of the force sensor's values, kept and given back.
        custom: which optional parts are in the message.
    """

    ip: str
    port: int = 8089
    cycle: int = 1
    enable: bool = True
    force_coordinate: int = 0
    custom: dict[str, bool] = dataclasses.field(
        default_factory=lambda: {
            "aloha_state": False,
            "expand_state": False,
            "joint_speed": False,
            "lift_state": False,
            "arm_current_status": False,
        }
    )


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


class Controller:
    """One arm's controller. Nothing a client sends makes it raise.

    Args:
        joints: where the arm is [rad].
        push: where the state goes until a client says otherwise.
        opening: of the gripper.

    Attributes:
        counts: of frames by what became of them: ``frames``, ``malformed``, ``limit`` (beyond the joint limits),
            ``refused`` (no power, an error, an emergency stop), ``jump`` and ``overspeed`` (joints that did not
            respond), ``late`` (high following slower than 10 ms), ``unknown`` (commands).
        reported: values that the state tells in place of the measured ones, by the name of the message's field.
    """

    def __init__(self, joints: Float64[np.ndarray, " 7"], push: PushConfig, opening: float = 1.0) -> None:
        self.push_config = push
        self.counts: collections.Counter[str] = collections.Counter()
        self.reported: dict[str, dict[int, int]] = {}
        self._measured = Measured(joints, np.zeros(_N), np.zeros(_N), opening)
        self._target = self._measured_units()  # [0.001 deg]
        self._speed = [0.0] * _N  # of the set-point [0.001 deg/s]
        self._carry = [0.0] * _N  # travel that the last frame left unused [0.001 deg]
        self._powered = True
        self._enabled = [True] * _N
        self._stopped = False
        self._arm_error = 0
        self._system_error = 0
        self._joint_errors = [0] * _N
        self._motion: _Motion | None = None
        self._last_frame = -math.inf
        self._following = False
        self._route = (1, OPEN)
        self._gripper = round(OPEN * opening)
        self._gripper_seen: tuple[float, float] | None = None  # (since when, opening), while a client waits for it
        self._commands: dict[str, Callable[[dict[str, Any], float], dict[str, Any] | None]] = {
            "movej_canfd": self._follow,
            "movej": self._plan,
            "set_arm_stop": self._stop,
            "set_arm_slow_stop": self._slow_stop,
            "set_arm_power": self._set_power,
            "set_joint_en_state": self._set_enabled,
            "set_joint_clear_err": self._clear_joint,
            "clear_system_err": self._clear_system,
            "set_realtime_push": self._set_push,
            "set_gripper_position": self._gripper_position,
            "set_gripper_release": self._gripper_release,
            "set_gripper_pick": self._gripper_pick,
            "set_gripper_pick_on": self._gripper_pick,
            "set_gripper_route": self._gripper_route,
            "get_realtime_push": self._get_push,
            "get_arm_power_state": lambda _, __: {"state": "arm_power_state", "power_state": int(self._powered)},
            "get_joint_en_state": lambda _, __: {"state": "joint_en_state", "en_state": self._enable_flags()},
            "get_joint_err_flag": self._joint_error_flags,
            "get_joint_degree": lambda _, __: {"state": "joint_degree", "joint": self._joint_units()},
            "get_current_arm_state": self._arm_state,
            "get_arm_all_state": self._all_state,
            "get_controller_state": self._controller_state,
            "get_gripper_state": self._gripper_state,
            "get_arm_current_trajectory": self._trajectory,
        }

    # -- for the simulator -----------------------------------------------------------------------------------------

    @property
    def setpoint(self) -> Float64[np.ndarray, " 7"]:
        """Joint positions for the servos [rad]."""
        target: Float64[np.ndarray, " 7"] = np.array(self._target, np.float64) * _RAD_PER_UNIT
        return target

    @property
    def opening(self) -> float:
        """Set-point of the gripper, 0 closed to 1 open."""
        return self._gripper / OPEN

    @property
    def status(self) -> str:
        """What ``arm_current_status`` says."""
        if self._stopped:
            return "stop"
        if self._motion is not None:
            return self._motion.status
        return "move_through_joint" if self._following else "idle"

    def advance(self, measured: Measured, now: float) -> list[bytes]:
        """Take new measurements, move the set-point of planned motions on, and return messages nobody asked for."""
        self._measured = measured
        if self._following and now - self._last_frame > _FOLLOW_END_S:
            self._following = False
            self._speed = [0.0] * _N
        events = [] if self._gripper_seen is None else self._gripper_event(now)
        if self._motion is not None:
            events += self._continue(self._motion, now)
        return events

    def handle(self, message: bytes, now: float) -> list[bytes]:
        """Obey one line and return the replies; what is no command is counted and not answered."""
        command = parse(message)
        if command is None:
            self.counts["malformed"] += 1
            return []
        name = command["command"]
        fixed = _FIXED.get(name)
        if fixed is not None:
            return [fixed]
        act = self._commands.get(name)
        if act is None:
            self.counts["unknown"] += 1
            return []
        reply = act(command, now)
        return [] if reply is None else [encode(reply)]

    def push(self, now: float) -> bytes:
        """Return the state message as it is now."""
        del now  # the message has no stamp
        m = self._measured
        custom = self.push_config.custom
        x, y, z = m.position
        errors = [e for e in (self._system_error, self._arm_error) if e] or [0]
        speed = ""
        if custom.get("joint_speed"):
            speed = f'"joint_speed":[{_list(np.rint(m.speeds * (3000 / math.pi)).astype(int).tolist())}],'
        state = f'"arm_current_status":"{self.status}",' if custom.get("arm_current_status") else ""
        currents = self._reported("joint_current", np.rint(1e6 * m.currents).astype(int).tolist())
        roll, pitch, yaw = _euler(m.quaternion)
        # Written out: json.dumps would cost more than the rest of the loop.
        return (
            f'{{{state}"arm_err":{self._arm_error},"err":[{_list(errors)}],"joint_status":{{'
            f'"joint_current":[{_list(currents)}],"joint_en_flag":[{_list(self._enable_flags())}],'
            f'"joint_err_code":[{_list(self._joint_errors)}],"joint_position":[{_list(self._joint_units())}],{speed}'
            f'"joint_temperature":[{_list(self._reported("joint_temperature", _TEMPERATURES))}],'
            f'"joint_voltage":[{_list(_VOLTAGE)}]}},"state":"realtime_arm_joint_state","sys_err":{self._system_error},'
            f'"waypoint":{{"euler":[{1000 * roll:.0f},{1000 * pitch:.0f},{1000 * yaw:.0f}],'
            f'"position":[{1e6 * x:.0f},{1e6 * y:.0f},{1e6 * z:.0f}],'
            f'"quat":[{_list([round(1e6 * q) for q in m.quaternion])}]}}}}\r\n'
        ).encode()

    def press_stop(self, pressed: bool) -> None:
        """Press or release the emergency stop: pressed, the joints lose power and no command is obeyed.

        Released, they stay without power until a client gives it.
        """
        self._stopped = pressed
        if pressed:
            self._power(on=False)

    def fail(self, code: int) -> None:
        """Raise a system error: the arm stops and refuses motion until the error is cleared."""
        self._system_error = code
        self._halt()

    def fail_joint(self, joint: int, code: int) -> None:
        """Raise a joint's error, joints counted from 1: it loses its power."""
        self._joint_errors[joint - 1] = code
        self._brake(joint - 1)
        self._halt()

    def drop_joint(self, joint: int) -> None:
        """Let a joint, counted from 1, lose its power, which is a system error as well."""
        self._brake(joint - 1)
        self.fail(ERROR_JOINT_DISABLED)

    def recover(self) -> None:
        """Forget all errors, and what is reported in place of measurements; no power comes back by itself."""
        self._system_error = self._arm_error = 0
        self._joint_errors = [0] * _N
        self.reported.clear()
        self.press_stop(pressed=False)

    # -- motion ----------------------------------------------------------------------------------------------------

    def _follow(self, command: dict[str, Any], now: float) -> None:
        self.counts["frames"] += 1
        joints = joint_units(command.get("joint"))
        if joints is None:
            self.counts["malformed"] += 1
        elif not self._may_move():
            self.counts["refused"] += 1
        elif self._beyond_limits(joints):
            self.counts["limit"] += 1
        else:
            self._arm_error = 0
            self._motion = None
            self._respond(joints, now, high=command.get("follow") is True)

    def _respond(self, joints: list[int], now: float, *, high: bool) -> None:
        elapsed = now - self._last_frame
        if self._following and high and elapsed > FOLLOW_PERIOD_S + _PERIOD_TOLERANCE_S:
            self.counts["late"] += 1
        self._following, self._last_frame = True, now
        spare = 1000 * MAX_SPEED_DEG_S * FOLLOW_PERIOD_S  # frames may bunch on the way by one period
        for i, wanted in enumerate(joints):
            change = wanted - self._target[i]
            allowed = self._carry[i] + 1000 * MAX_SPEED_DEG_S * elapsed
            self._speed[i] = 0.0
            if not self._enabled[i]:
                continue
            if abs(change) > 1000 * MAX_STEP_DEG:
                self.counts["jump"] += 1
            elif abs(change) > allowed:
                self.counts["overspeed"] += 1
            else:
                self._target[i] = float(wanted)
                self._speed[i] = change / max(elapsed, FOLLOW_PERIOD_S)
                allowed -= abs(change)
            self._carry[i] = min(allowed, spare)

    def _plan(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        joints, speed = joint_units(command.get("joint")), _integer(command.get("v"))
        accepted = (
            joints is not None
            and speed is not None
            and 1 <= speed <= 100
            and self._may_move()
            and all(self._enabled)
            and not self._beyond_limits(joints)
        )
        if accepted:
            assert joints is not None
            assert speed is not None
            self._arm_error = 0
            change = tuple(q - t for q, t in zip(joints, self._target, strict=True))
            # The cubic's peaks: speed 1.5 change / T, acceleration 6 change / T^2.
            duration = max(1.5 * abs(d) / (speed / 100 * s) for d, s in zip(change, _SPEED, strict=True))
            duration = max(duration, math.sqrt(6 * max(map(abs, change)) / _PLAN_ACCELERATION), 0.01)
            self._begin(_Motion("move_J", now, duration, tuple(self._target), change, _smooth))
        return {"command": "movej", "receive_state": accepted}

    def _begin(self, motion: _Motion) -> None:
        self._motion, self._following = motion, False

    def _continue(self, motion: _Motion, now: float) -> list[bytes]:
        before = motion.at(now - 0.001)
        self._target = [q if on else t for q, t, on in zip(motion.at(now), self._target, self._enabled, strict=True)]
        self._speed = [(q - b) / 0.001 for q, b in zip(self._target, before, strict=True)]
        late = now - motion.start - motion.duration
        if late < 0 or (motion.status == "move_J" and late < _ARRIVAL_S and not self._is_there()):
            return []
        self._motion, self._speed = None, [0.0] * _N
        return [encode({**_ARRIVED, "device": 0})] if motion.status == "move_J" else []

    def _is_there(self) -> bool:
        return all(abs(m - t) < _THERE for m, t in zip(self._measured_units(), self._target, strict=True))

    def _stop(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command
        self._brake_along("stop", _STOP_DECELERATION, now, _STOP_STATUS_S)
        return {"command": "set_arm_stop", "arm_stop": True}

    def _slow_stop(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command
        self._brake_along("slow_stop", _SLOW_DECELERATION, now, 0.01)
        return {"command": "set_arm_slow_stop", "arm_slow_stop": True}

    def _brake_along(self, status: str, deceleration: float, now: float, least: float) -> None:
        if self._following and now - self._last_frame > 2 * FOLLOW_PERIOD_S:
            self._speed = [0.0] * _N  # the last frame was long ago: it stands
        braking = max(0.001, max(map(abs, self._speed)) / deceleration)
        duration = max(least, braking)
        ends = [t + v * braking / 2 for t, v in zip(self._target, self._speed, strict=True)]
        change = tuple(min(max(e, -limit), limit) - t for e, limit, t in zip(ends, _LIMIT, self._target, strict=True))
        share = duration / braking
        self._begin(
            _Motion(status, now, duration, tuple(self._target), change, lambda s: _braking(min(1.0, s * share)))
        )

    def _may_move(self) -> bool:
        return not (self._stopped or self._system_error or any(self._joint_errors)) and self._powered

    def _beyond_limits(self, joints: Sequence[int]) -> bool:
        beyond = any(abs(q) > limit for q, limit in zip(joints, _LIMIT, strict=True))
        if beyond:
            self._arm_error = ERROR_TARGET_LIMIT
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

    def _power(self, *, on: bool) -> None:
        if on != self._powered:
            self._halt()
        self._powered = on
        self._enabled = [on and not error for error in self._joint_errors]

    def _set_power(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del now
        wanted = _integer(command.get("arm_power"))
        accepted = wanted in (0, 1) and not self._stopped
        if accepted:
            self._power(on=wanted == 1)
        return {"command": "set_arm_power", "arm_power": accepted}

    def _set_enabled(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del now
        match command.get("joint_en_state"):
            case [int() as joint, (0 | 1) as on] if 1 <= joint <= _N and not self._stopped:
                accepted = not on or (self._powered and not self._joint_errors[joint - 1])
                if accepted and bool(on) != self._enabled[joint - 1]:
                    self._brake(joint - 1)  # starts from where it is, in both directions
                    self._enabled[joint - 1] = bool(on)
            case _:
                accepted = False
        return {"command": "set_joint_en_state", "joint_en_state": accepted}

    def _clear_joint(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del now
        joint = _integer(command.get("joint_clear_err"))
        accepted = joint is not None and 1 <= joint <= _N and not self._stopped
        if accepted:
            assert joint is not None
            self._joint_errors[joint - 1] = 0
        return {"command": "set_joint_clear_err", "joint_clear_err": accepted}

    def _clear_system(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        if not self._stopped:
            self._system_error = self._arm_error = 0
        return {"command": "clear_system_err", "clear_state": not self._stopped}

    # -- gripper ---------------------------------------------------------------------------------------------------

    def _gripper_position(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        return self._grip(_integer(command.get("position")), command, now)

    def _gripper_release(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        return self._grip(self._route[1], command, now)

    def _gripper_pick(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        return self._grip(self._route[0], command, now)

    def _grip(self, position: int | None, command: dict[str, Any], now: float) -> dict[str, Any]:
        accepted = position is not None and 1 <= position <= OPEN and not self._stopped and self._powered
        if accepted:
            assert position is not None
            low, high = self._route
            self._gripper = min(max(position, low), high)
            self._gripper_seen = (now, self._measured.opening) if command.get("block") is True else None
        return {"command": "set_gripper", "state": accepted}

    def _gripper_route(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del now
        low, high = _integer(command.get("min")), _integer(command.get("max"))
        accepted = low is not None and high is not None and 0 <= low < high <= OPEN
        if accepted:
            assert low is not None
            assert high is not None
            self._route = (max(low, 1), high)
        return {"command": "set_gripper_route", "state": accepted}

    def _gripper_event(self, now: float) -> list[bytes]:
        assert self._gripper_seen is not None
        since, opening = self._gripper_seen
        if abs(self._measured.opening - opening) > _GRIPPER_STILL:
            self._gripper_seen = (now, self._measured.opening)
        elif now - since > _GRIPPER_WINDOW_S:
            self._gripper_seen = None
            return [encode({**_ARRIVED, "device": 1})]
        return []

    # -- questions -------------------------------------------------------------------------------------------------

    def _set_push(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del now
        new = _push_config(command, self.push_config)
        if new is not None:
            self.push_config = new
        return {"command": "set_realtime_push", "state": new is not None}

    def _get_push(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        return {"command": "get_realtime_push", **dataclasses.asdict(self.push_config)}

    def _arm_state(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        m = self._measured
        pose = [round(1e6 * x) for x in m.position] + [round(1000 * x) for x in _euler(m.quaternion)]
        state = {
            "joint": self._joint_units(),
            "pose": pose,
            "arm_err": self._arm_error,
            "sys_err": self._system_error,
            "err": [e for e in (self._system_error, self._arm_error) if e] or [0],
        }
        return {"state": "current_arm_state", "arm_state": state}

    def _all_state(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        state = {
            "temperature": self._reported("joint_temperature", _TEMPERATURES),
            "current": self._reported("joint_current", np.rint(1e6 * self._measured.currents).astype(int).tolist()),
            "voltage": _VOLTAGE,
            "err_flag": self._joint_errors,
            "en_flag": self._enable_flags(),
            "sys_err": self._system_error,
            "err": [e for e in (self._system_error, self._arm_error) if e] or [0],
        }
        return {"state": "arm_all_state", "all_state": state}

    def _joint_error_flags(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        brakes = [1 - flag for flag in self._enable_flags()]
        return {"state": "joint_err_flag", "err_flag": self._joint_errors, "brake_state": brakes}

    def _controller_state(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        return {
            "state": "controller_state",
            "voltage": 24000,
            "current": 1500,
            "temperature": 42000,
            "err_flag": self._system_error,
        }

    def _gripper_state(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        opening = min(max(round(OPEN * self._measured.opening), 0), OPEN)
        mode = 1 if opening >= self._route[1] - 1 else 2 if opening <= self._route[0] + 1 else 3
        return {
            "command": "get_gripper_state",
            "enable": int(self._powered),
            "status": 1,
            "error": 0,
            "mode": mode,
            "current_force": 0,
            "temperature": 30,
            "actpos": opening,
        }

    def _trajectory(self, command: dict[str, Any], now: float) -> dict[str, Any]:
        del command, now
        planned = self._motion is not None and self._motion.status == "move_J"
        kind = "movej" if planned else "none"
        return {"state": "arm_current_trajectory", "type": kind, "data": self._joint_units()}

    def _measured_units(self) -> list[float]:
        units: list[float] = (self._measured.joints / _RAD_PER_UNIT).tolist()
        return units

    def _joint_units(self) -> list[int]:
        return [round(q) for q in self._measured_units()]

    def _enable_flags(self) -> list[int]:
        return [int(on) for on in self._enabled]

    def _reported(self, field: str, values: list[int]) -> list[int]:
        replaced = self.reported.get(field)
        return values if not replaced else [replaced.get(i, v) for i, v in enumerate(values)]


def parse(message: bytes) -> dict[str, Any] | None:
    """Return the command of a line, which has a ``command`` that is text; None if it is none."""
    if len(message) > _MAX_LINE:
        return None
    try:
        command = json.loads(message)
    except (ValueError, RecursionError):  # ValueError: JSON, its encoding, or an integer of thousands of digits
        return None
    return command if isinstance(command, dict) and isinstance(command.get("command"), str) else None


def joint_units(value: object) -> list[int] | None:
    """Return seven joint positions [0.001 deg] as they were sent; None if that is not what `value` is."""
    if isinstance(value, list) and len(value) == _N and all(type(q) is int for q in value):
        return value
    return None


def _integer(value: object) -> int | None:
    return value if type(value) is int else None


def _push_config(command: dict[str, Any], old: PushConfig) -> PushConfig | None:
    ip, port = command.get("ip", old.ip), _integer(command.get("port", old.port))
    cycle, frame = _integer(command.get("cycle", old.cycle)), _integer(command.get("force_coordinate", 0))
    enable, custom = command.get("enable", old.enable), command.get("custom", {})
    try:
        ipaddress.IPv4Address(ip if isinstance(ip, str) else "")
    except ValueError:
        return None
    if port is None or cycle is None or frame is None or not isinstance(custom, dict) or not isinstance(enable, bool):
        return None
    if not (1 <= port <= 65535 and 1 <= cycle <= 10_000 and 0 <= frame <= 2):
        return None
    known = {k: bool(custom.get(k, v)) for k, v in old.custom.items()}
    return PushConfig(str(ip), port, cycle, enable, frame, known)


def _euler(quaternion: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Roll, pitch and yaw [rad] of a rotation about z, then y, then x."""
    w, x, y, z = quaternion
    pitch = math.asin(min(1.0, max(-1.0, 2 * (w * y - z * x))))
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return roll, pitch, math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))


_TEMPERATURES: Final = [33000, 34000, 34000, 35000, 35000, 36000, 36000]
_VERSION: Final = {"build_time": "2024/08/28 18:36:18", "version": "V1.6.1"}
_FIXED: Final = {
    reply.pop("for"): encode(reply)
    for reply in (
        {
            "for": "get_arm_software_info",
            "Product_version": "RM75-6F",
            "algorithm_info": {"version": "1.4.4"},
            "command": "arm_software_info",
            "ctrl_info": _VERSION,
            "dynamic_info": {"model_version": "2"},
            "plan_info": _VERSION,
        },
        {"for": "get_current_work_frame", "state": "current_work_frame", "frame_name": "World", "pose": [0] * 6},
        {
            "for": "get_current_tool_frame",
            "state": "current_tool_frame",
            "tool_name": "Arm_Tip",
            "pose": [0] * 6,
            "payload": 0,
            "position": [0, 0, 0],
        },
        {"for": "get_install_pose", "state": "install_pose", "pose": [0, 0, 0]},
        {"for": "get_joint_min_pos", "state": "joint_min_pos", "min_pos": [-q for q in _LIMIT]},
        {"for": "get_joint_max_pos", "state": "joint_max_pos", "max_pos": _LIMIT},
        {"for": "get_joint_max_acc", "state": "joint_max_acc", "joint_acc": [500_000] * _N},
        {"for": "get_joint_max_speed", "state": "joint_max_speed", "joint_speed": [round(s / 6) for s in _SPEED]},
        {
            "for": "get_DH_data",
            "command": "get_DH_data",
            **{
                f"joint_{i + 1}": [round(1000 * alpha), 0, round(1e6 * d), 0]
                for i, (alpha, d) in enumerate(zip(rm75.DH_ALPHA_DEG, rm75.DH_D_M, strict=True))
            },
        },
    )
}
"""Replies that never change, by command."""
