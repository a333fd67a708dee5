"""One RM75 controller as protocol logic: lines of JSON in, replies and set-points out. No socket, no clock, no physics.

Commands, replies and units are those of RealMan's published JSON protocol (RealManRobot/rm_docs, docs/robot/json) as
the SDK `Robotic_Arm` 1.1.6 sends and accepts them. Where the documents are silent, this is assumed:

*   A stop (``set_arm_stop``, ``set_arm_slow_stop``) brakes along the path and does not lock the arm: the next following
    frame moves it again. That is the worse case for a client that goes on sending.
*   ``stop`` is reported for 0.1 s after ``set_arm_stop`` and as long as an emergency stop is pressed.
*   Brakes hold at once and wherever the joint is; a joint without power ignores its values in frames.
*   Powering the arm enables all joints at once; a real arm takes seconds.
*   A joint's error takes its power away; a system error refuses motion until it is cleared. Errors of planning (targets
    beyond the limits) are cleared by the next good motion command, as the documents say.
*   Following frames are obeyed as they come, whatever their ``trajectory_mode``; the real filters are not published.
*   The gripper's forces and speeds are accepted and have no effect.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75
from robotest.hardware.simulated.gripper import OPEN, Gripper
from robotest.hardware.simulated.joints import Joints, Measured
from robotest.hardware.simulated.protocol import FIXED, PushConfig, encode, integer, joint_units, parse

_N: Final = rm75.N_JOINTS
_VOLTAGE: Final = [24000] * _N
_TEMPERATURES: Final = [33000, 34000, 34000, 35000, 35000, 36000, 36000]
_ARRIVED: Final = {"state": "current_trajectory_state", "trajectory_state": True, "trajectory_connect": 0}

Command = dict[str, Any]


class Controller:
    """One arm's controller. Nothing a client sends makes it raise.

    Args:
        joints: where the arm is [rad].
        push: where the state goes until a client says otherwise.
        opening: of the gripper.

    Attributes:
        joints: set-points, power and errors.
        gripper: set-point and range.
        counts: of frames by their fate: ``frames`` (all), ``malformed``, ``limit`` (beyond the joint limits),
            ``refused`` (no power, an error, an emergency stop), ``jump`` and ``overspeed`` (joints that did not
            respond), ``late`` (high following slower than 10 ms), ``unknown`` (commands).
        reported: values that replace the measured ones in the state, by the name of the message's field and the
            joint's index.
    """

    def __init__(self, joints: Float64[np.ndarray, " 7"], push: PushConfig, opening: float = 1.0) -> None:
        self.push_config = push
        self.counts: collections.Counter[str] = collections.Counter()
        self.reported: dict[str, dict[int, int]] = {}
        self._measured = Measured(joints, np.zeros(_N), np.zeros(_N), opening)
        self.joints = Joints(joints, self.counts)
        self.gripper = Gripper(opening)
        self._actions: dict[str, Callable[[Command, float], Command | None]] = {
            "movej_canfd": self._follow,
            "movej": self._plan,
            "set_arm_stop": self._stop,
            "set_arm_slow_stop": self._slow_stop,
            "set_gripper_position": self._gripper_position,
            "set_gripper_release": self._gripper_release,
            "set_gripper_pick": self._gripper_pick,
            "set_gripper_pick_on": self._gripper_pick,
        }
        self._settings: dict[str, Callable[[Command], Command]] = {
            "set_arm_power": self._set_power,
            "set_joint_en_state": self._set_enabled,
            "set_joint_clear_err": self._clear_joint,
            "clear_system_err": lambda _: {"command": "clear_system_err", "clear_state": self.joints.clear_system()},
            "set_realtime_push": self._set_push,
            "set_gripper_route": self._gripper_route,
        }
        self._queries: dict[str, Callable[[], Command]] = {
            "get_realtime_push": lambda: {"command": "get_realtime_push", **dataclasses.asdict(self.push_config)},
            "get_arm_power_state": lambda: {"state": "arm_power_state", "power_state": int(self.joints.powered)},
            "get_joint_en_state": lambda: {"state": "joint_en_state", "en_state": self.joints.enable_flags},
            "get_joint_degree": lambda: {"state": "joint_degree", "joint": self.joints.units},
            "get_joint_err_flag": self._joint_error_flags,
            "get_current_arm_state": self._arm_state,
            "get_arm_all_state": self._all_state,
            "get_controller_state": self._controller_state,
            "get_gripper_state": self._gripper_state,
            "get_arm_current_trajectory": self._trajectory,
        }

    def advance(self, measured: Measured, now: float) -> list[bytes]:
        """Take new measurements, move planned set-points on, and return unsolicited messages."""
        self._measured = measured
        events = []
        if self.gripper.advance(measured.opening, now):
            events.append(encode({**_ARRIVED, "device": 1}))
        if self.joints.advance(measured.joints, now):
            events.append(encode({**_ARRIVED, "device": 0}))
        return events

    def handle(self, line: bytes, now: float) -> list[bytes]:
        """Obey one line and return the replies; a line that is not a command is counted and not answered."""
        command = parse(line)
        if command is None:
            self.counts["malformed"] += 1
            return []
        name = command["command"]
        if name in FIXED:
            return [FIXED[name]]
        reply: Command | None
        if name in self._actions:
            reply = self._actions[name](command, now)
        elif name in self._settings:
            reply = self._settings[name](command)
        elif name in self._queries:
            reply = self._queries[name]()
        else:
            self.counts["unknown"] += 1
            reply = None
        return [] if reply is None else [encode(reply)]

    def state(self) -> bytes:
        """Return the state message that is pushed."""
        m, joints = self._measured, self.joints
        custom = self.push_config.custom
        x, y, z = m.position
        speed = ""
        if custom.get("joint_speed"):
            speed = f'"joint_speed":[{_list(np.rint(m.speeds * (3000 / math.pi)).astype(int).tolist())}],'
        status = f'"arm_current_status":"{joints.status}",' if custom.get("arm_current_status") else ""
        roll, pitch, yaw = _euler(m.quaternion)
        # Written out: json.dumps would cost more than the rest of the loop.
        return (
            f'{{{status}"arm_err":{joints.arm_error},"err":[{_list(joints.errors)}],"joint_status":{{'
            f'"joint_current":[{_list(self._currents())}],"joint_en_flag":[{_list(joints.enable_flags)}],'
            f'"joint_err_code":[{_list(joints.joint_errors)}],"joint_position":[{_list(joints.units)}],{speed}'
            f'"joint_temperature":[{_list(self._reported("joint_temperature", _TEMPERATURES))}],'
            f'"joint_voltage":[{_list(_VOLTAGE)}]}},"state":"realtime_arm_joint_state","sys_err":{joints.system_error},'
            f'"waypoint":{{"euler":[{1000 * roll:.0f},{1000 * pitch:.0f},{1000 * yaw:.0f}],'
            f'"position":[{1e6 * x:.0f},{1e6 * y:.0f},{1e6 * z:.0f}],'
            f'"quat":[{_list([round(1e6 * q) for q in m.quaternion])}]}}}}\r\n'
        ).encode()

    def recover(self) -> None:
        """Clear all errors, release the emergency stop, and report measurements again; power stays off."""
        self.joints.recover()
        self.reported.clear()

    # -- motion ----------------------------------------------------------------------------------------------------

    def _follow(self, command: Command, now: float) -> None:
        self.counts["frames"] += 1
        joints = joint_units(command.get("joint"))
        if joints is None:
            self.counts["malformed"] += 1
        else:
            self.joints.follow(joints, now, high=command.get("follow") is True)

    def _plan(self, command: Command, now: float) -> Command:
        joints, speed = joint_units(command.get("joint")), integer(command.get("v"))
        accepted = joints is not None and speed is not None and self.joints.plan(joints, speed, now)
        return {"command": "movej", "receive_state": accepted}

    def _stop(self, command: Command, now: float) -> Command:
        del command
        self.joints.stop(now)
        return {"command": "set_arm_stop", "arm_stop": True}

    def _slow_stop(self, command: Command, now: float) -> Command:
        del command
        self.joints.slow_stop(now)
        return {"command": "set_arm_slow_stop", "arm_slow_stop": True}

    # -- power and errors ------------------------------------------------------------------------------------------

    def _set_power(self, command: Command) -> Command:
        power = integer(command.get("arm_power"))
        accepted = power in (0, 1) and self.joints.set_power(on=power == 1)
        return {"command": "set_arm_power", "arm_power": accepted}

    def _set_enabled(self, command: Command) -> Command:
        match command.get("joint_en_state"):
            case [int() as joint, (0 | 1) as on] if 1 <= joint <= _N:
                accepted = self.joints.set_enabled(joint, on=bool(on))
            case _:
                accepted = False
        return {"command": "set_joint_en_state", "joint_en_state": accepted}

    def _clear_joint(self, command: Command) -> Command:
        joint = integer(command.get("joint_clear_err"))
        accepted = joint is not None and 1 <= joint <= _N and self.joints.clear_joint(joint)
        return {"command": "set_joint_clear_err", "joint_clear_err": accepted}

    # -- gripper ---------------------------------------------------------------------------------------------------

    def _gripper_position(self, command: Command, now: float) -> Command:
        return self._grip(integer(command.get("position")), command, now)

    def _gripper_release(self, command: Command, now: float) -> Command:
        return self._grip(self.gripper.range[1], command, now)

    def _gripper_pick(self, command: Command, now: float) -> Command:
        return self._grip(self.gripper.range[0], command, now)

    def _grip(self, position: int | None, command: Command, now: float) -> Command:
        accepted = position is not None and 1 <= position <= OPEN and self.joints.powered and not self.joints.stopped
        if accepted:
            assert position is not None
            self.gripper.move(position, now, block=command.get("block") is True)
        return {"command": "set_gripper", "state": accepted}

    def _gripper_route(self, command: Command) -> Command:
        accepted = self.gripper.set_range(integer(command.get("min")), integer(command.get("max")))
        return {"command": "set_gripper_route", "state": accepted}

    # -- state -----------------------------------------------------------------------------------------------------

    def _set_push(self, command: Command) -> Command:
        config = self.push_config.changed(command)
        if config is not None:
            self.push_config = config
        return {"command": "set_realtime_push", "state": config is not None}

    def _arm_state(self) -> Command:
        m = self._measured
        state = {
            "joint": self.joints.units,
            "pose": [round(1e6 * x) for x in m.position] + [round(1000 * x) for x in _euler(m.quaternion)],
            "arm_err": self.joints.arm_error,
            "sys_err": self.joints.system_error,
            "err": self.joints.errors,
        }
        return {"state": "current_arm_state", "arm_state": state}

    def _all_state(self) -> Command:
        state = {
            "temperature": self._reported("joint_temperature", _TEMPERATURES),
            "current": self._currents(),
            "voltage": _VOLTAGE,
            "err_flag": self.joints.joint_errors,
            "en_flag": self.joints.enable_flags,
            "sys_err": self.joints.system_error,
            "err": self.joints.errors,
        }
        return {"state": "arm_all_state", "all_state": state}

    def _joint_error_flags(self) -> Command:
        brakes = [1 - flag for flag in self.joints.enable_flags]
        return {"state": "joint_err_flag", "err_flag": self.joints.joint_errors, "brake_state": brakes}

    def _controller_state(self) -> Command:
        return {
            "state": "controller_state",
            "voltage": 24000,
            "current": 1500,
            "temperature": 42000,
            "err_flag": self.joints.system_error,
        }

    def _gripper_state(self) -> Command:
        low, high = self.gripper.range
        opening = min(max(round(OPEN * self.gripper.opening), 0), OPEN)
        return {
            "command": "get_gripper_state",
            "enable": int(self.joints.powered),
            "status": 1,
            "error": 0,
            "mode": 1 if opening >= high - 1 else 2 if opening <= low + 1 else 3,
            "current_force": 0,
            "temperature": 30,
            "actpos": opening,
        }

    def _trajectory(self) -> Command:
        kind = "movej" if self.joints.planned else "none"
        return {"state": "arm_current_trajectory", "type": kind, "data": self.joints.units}

    def _currents(self) -> list[int]:
        return self._reported("joint_current", np.rint(1e6 * self._measured.currents).astype(int).tolist())

    def _reported(self, field: str, values: list[int]) -> list[int]:
        replaced = self.reported.get(field)
        return values if not replaced else [replaced.get(i, v) for i, v in enumerate(values)]


def _euler(quaternion: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Roll, pitch and yaw [rad] of a rotation about z, then y, then x."""
    w, x, y, z = quaternion
    pitch = math.asin(min(1.0, max(-1.0, 2 * (w * y - z * x))))
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    return roll, pitch, math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _list(values: Sequence[int]) -> str:
    return ",".join(map(str, values))
