"""Two RealMan RM75 arms behind the vendor's own SDK, PyPI `Robotic_Arm` 1.1.6 (``pip install robotest[realman]``).

Surprises of the SDK, each found by running it and each with a test:

- It sends NaN, infinities and 1e9 degrees, and returns 0. This driver sends only finite values within limits.
- It pads six numbers with a zero, which moves joint 7. This driver checks shapes.
- It truncates degrees to the wire's 0.001, so half the set-points would be one unit off. This driver adds half a unit.
- Streaming is fire-and-forget: a frozen controller takes 30,000 frames. Only the age of the pushed state shows it.
- Every query waits half a second for a controller that does not answer. After `connect` this driver queries only the
  grippers, and sends stops, in separate threads.
- It does not reconnect, and the first send after a lost connection still returns 0. The age of the state shows it.
- A non-blocking gripper command with timeout 0 sleeps for a second; with timeout 1 it takes milliseconds.
- It sends nothing when the process ends, and third-generation controllers lack ``rm_set_arm_emergency_stop``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from robotest.embodiment import rm75
from robotest.embodiment.workcell import SIDES
from robotest.hardware.limits import arm_limits
from robotest.hardware.robot import Capabilities, RobotError, RobotState, Setpoint, Stop
from robotest.toml import from_table

RESOLUTION_RAD: Final = float(np.deg2rad(0.001))
"""Of a joint position on the wire."""
CONNECT_S: Final = 1.0
ENABLE_S: Final = 10.0
STATE_S: Final = 0.5
_PUSH_CYCLE = 1  # times 5 ms
_IN_FLIGHT_S = 0.02
_GRIPPER_S = 0.05
_STOP_S = 2.5  # the SDK waits half a second for each of four answers, and a margin
_GRIPPER_UNITS = 1000
_GRIPPER_STEP = 5  # smaller changes are not sent
_STOPPED = 9  # RM_STOP_E: the emergency stop is pressed
_SYSTEM_OK = 0
_DH_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class RealManConfig:
    """Addresses and limits of the arms: the table ``[robot]`` of ``robot.toml``.

    Attributes:
        hosts: addresses of the controllers, left first.
        tcp_port: of the controllers.
        udp_port: of this machine, for the pushed states.
        local_ip: of this machine, as seen by the controllers; None: that of the connection.
        limits: narrower limits by their names in `Limits`, one number or one per joint.
    """

    hosts: tuple[str, str] = ("192.168.1.18", "192.168.1.19")
    tcp_port: int = 8080
    udp_port: int = 8089
    local_ip: str | None = None
    limits: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hosts[0] == self.hosts[1]:
            raise RobotError(f"hosts = {list(self.hosts)} in robot.toml; the arms need different addresses")
        for name in ("tcp_port", "udp_port"):
            if not 0 < getattr(self, name) < 2**16:
                raise RobotError(f"{name} = {getattr(self, name)} in robot.toml; 1 to {2**16 - 1} are allowed")


def rm75_dual(table: Mapping[str, Any]) -> RealManPair:
    """Return the driver for the table ``[robot]`` of a configuration."""
    return RealManPair(from_table(RealManConfig, table, "robot", "robot.toml"))


@dataclasses.dataclass(frozen=True)
class _Pushed:
    """Latest state pushed by one arm's controller."""

    joints: Float64[np.ndarray, " 7"]
    currents: Float64[np.ndarray, " 7"]
    temperatures: Float64[np.ndarray, " 7"]
    enabled: np.ndarray[tuple[int], np.dtype[np.bool_]]
    stopped: bool
    errors: tuple[str, ...]
    stamp: float


class RealManPair:
    """Implements `robotest.hardware.robot.Robot`. One per process: the SDK keeps its connections in globals.

    Args:
        config: addresses and limits.
        now: returns the time [s].
    """

    def __init__(self, config: RealManConfig, now: Callable[[], float] = time.perf_counter) -> None:
        self._config, self._now = config, now
        self.limits: Final = arm_limits(config.limits)
        self.capabilities: Final = Capabilities("rm75-dual", RESOLUTION_RAD)
        self._arms: list[Any] = []
        self._pushed: list[_Pushed | None] = [None, None]
        self._grippers: list[_Gripper] = []
        self._stopping: list[threading.Thread] = []
        self._callback: Any = None  # the SDK keeps only a pointer

    def connect(self) -> None:
        """Connect to both controllers, check that they are RM75s, and wait for their states."""
        sdk = _sdk()
        local = [self._local_ip(side, host) for side, host in zip(SIDES, self._config.hosts, strict=True)]
        self._arms = [self._connected(sdk, side, arm) for arm, side in enumerate(SIDES)]
        self._callback = sdk.rm_realtime_arm_state_callback_ptr(self._receive)
        self._arms[0].rm_realtime_arm_state_call_back(self._callback)
        for side, arm, ip in zip(SIDES, self._arms, local, strict=True):
            fields = sdk.rm_udp_custom_config_t(arm_current_status=1)  # says whether the emergency stop is pressed
            push = sdk.rm_realtime_push_config_t(_PUSH_CYCLE, True, self._config.udp_port, -1, ip, fields)
            self._require(arm.rm_set_realtime_push(push), side, "refuses to push its state")
        self._hear(CONNECT_S)
        self._grippers = [_Gripper(arm, side) for arm, side in zip(self._arms, SIDES, strict=True)]

    def enable(self) -> None:
        """Power both arms; `RobotError` while one reports an error or its emergency stop is pressed."""
        if not self._arms:
            raise RobotError("not connected")
        self._hear(STATE_S)
        state = self.state()
        if state.stopped:
            raise RobotError("the emergency stop is pressed; release it, then try again")
        if state.errors:
            raise RobotError(f"{'; '.join(state.errors)}. Clear it at the controller, then try again")
        for side, arm in zip(SIDES, self._arms, strict=True):
            self._require(arm.rm_set_arm_power(1), side, "refuses to be switched on")
        self._wait(lambda: bool(self.state().enabled.all()), ENABLE_S, lambda: "not every joint has power")

    def state(self) -> RobotState:
        """Return the states pushed last."""
        left, right = self._pushed
        if left is None or right is None:
            raise RobotError("not connected")
        return RobotState(
            joints=np.stack([left.joints, right.joints]),
            openings=np.array([g.opening for g in self._grippers] or [1.0, 1.0]),
            currents=np.stack([left.currents, right.currents]),
            temperatures=np.stack([left.temperatures, right.temperatures]),
            enabled=np.stack([left.enabled, right.enabled]),
            stopped=left.stopped or right.stopped,
            errors=(*left.errors, *right.errors, *(e for g in self._grippers for e in g.errors)),
            stamps=np.array([left.stamp, right.stamp]),
        )

    def command(self, setpoint: Setpoint) -> Setpoint:
        """Stream a set-point to both arms, left first."""
        joints = np.asarray(setpoint.joints, np.float64)
        if joints.shape != (2, 7) or not np.isfinite(joints).all():
            raise RobotError(f"a set-point of shape {joints.shape} was not sent: it is not 2 x 7 finite numbers")
        units = np.rint(joints / RESOLUTION_RAD).astype(np.int64)
        beyond = (joints < self.limits.joint_low - RESOLUTION_RAD) | (joints > self.limits.joint_high + RESOLUTION_RAD)
        if beyond.any():
            raise RobotError("a set-point beyond the joint limits was not sent")
        # The SDK truncates to the wire's unit, hence the half.
        degrees = (units + 0.5 * np.sign(units)) / 1000
        lost = [
            side
            for side, arm, angles in zip(SIDES, self._arms, degrees.tolist(), strict=True)
            if arm.rm_movej_canfd(angles, True) != 0
        ]
        for gripper, opening in zip(self._grippers, setpoint.openings, strict=True):
            gripper.target = float(np.clip(opening, 0.0, 1.0))
        if lost:
            raise RobotError(f"the link to the {' and the '.join(lost)} arm is gone")
        return Setpoint(units * RESOLUTION_RAD, np.array([g.target for g in self._grippers]))

    def stop(self, kind: Stop) -> None:
        """Stop the controllers' motion and switch the power off, each arm in a thread: one may not answer."""
        if kind is Stop.HOLD:
            return
        for arm in self._arms:
            thread = threading.Thread(target=_switch_off, args=(arm,), daemon=True)
            thread.start()
            self._stopping.append(thread)

    def disconnect(self) -> None:
        """Close the connections once all stops are sent; the arms keep their state."""
        end = self._now() + _STOP_S
        for thread in self._stopping:
            thread.join(max(0.0, end - self._now()))
        self._stopping = []
        for gripper in self._grippers:
            gripper.end()
        arms, self._arms, self._grippers = self._arms, [], []
        for arm in arms:
            with contextlib.suppress(OSError):
                arm.rm_delete_robot_arm()

    def _local_ip(self, side: str, host: str) -> str:
        """Try the address first: the SDK's own error comes late and without a reason."""
        port = self._config.tcp_port
        try:
            with socket.create_connection((host, port), CONNECT_S) as connection:
                local: str = connection.getsockname()[0]
        except OSError as error:
            raise RobotError(
                f"cannot connect to the {side} arm at {host}:{port} ({error.strerror or error}). Is it switched on"
                " and on this network, and is hosts in robot.toml right?"
            ) from error
        return self._config.local_ip or local

    def _connected(self, sdk: Any, side: str, index: int) -> Any:
        host = self._config.hosts[index]
        with _quiet():
            arm = sdk.RoboticArm(sdk.rm_thread_mode_e.RM_TRIPLE_MODE_E) if index == 0 else sdk.RoboticArm()
            handle = arm.rm_create_robot_arm(host, self._config.tcp_port)
        if handle.id < 0:
            raise RobotError(f"the {side} arm at {host} does not answer like a RealMan controller")
        if arm.arm_dof != rm75.N_JOINTS:
            raise RobotError(f"the {side} arm at {host} has {arm.arm_dof} joints; an RM75 has {rm75.N_JOINTS}")
        code, dh = arm.rm_get_DH_data()
        self._require(code, side, "does not return its DH parameters")
        lengths, twists = np.array(dh["d"]), np.array(dh["alpha"])
        if np.abs(lengths - rm75.DH_D_M).max() > _DH_TOLERANCE or np.abs(twists - rm75.DH_ALPHA_DEG).max() > 0.1:
            raise RobotError(
                f"the {side} arm at {host} is not an RM75: its DH parameters d are {np.round(lengths, 4).tolist()} m"
            )
        return arm

    def _receive(self, message: Any) -> None:
        """Keep a pushed state; runs in the SDK's thread."""
        host = message.arm_ip.decode("ascii", "replace")
        if host not in self._config.hosts:
            return
        joints = message.joint_status
        arm = self._config.hosts.index(host)
        position = np.deg2rad(np.array(joints.joint_position[:], np.float64))
        if message.errCode or not np.isfinite(position).all():
            return  # a malformed state counts as missing: the age of the last one shows it
        self._pushed[arm] = _Pushed(
            joints=position,
            currents=np.abs(np.array(joints.joint_current[:], np.float64)) / 1000,
            temperatures=np.array(joints.joint_temperature[:], np.float64),
            enabled=np.array(joints.joint_en_flag[:], bool),
            stopped=message.arm_current_status == _STOPPED,
            errors=tuple(_errors(SIDES[arm], message.err, joints.joint_err_code)),
            stamp=self._now(),
        )

    def _hear(self, limit_s: float) -> None:
        """Wait for new states of both arms; one in flight may be outdated, or the last."""
        since = self._now() + _IN_FLIGHT_S

        def silent() -> list[str]:
            return [s for s, p in zip(SIDES, self._pushed, strict=True) if p is None or p.stamp <= since]

        self._wait(
            lambda: not silent(),
            limit_s,
            lambda: (
                f"the {' and the '.join(silent())} arm pushes no state to UDP port {self._config.udp_port}; does"
                " another program use that port, or a firewall block it?"
            ),
        )

    def _require(self, code: int, side: str, what: str) -> None:
        if code != 0:
            raise RobotError(f"the {side} arm {what} (the SDK returned {code})")

    def _wait(self, until: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> None:
        end = self._now() + limit_s
        while not until():
            if self._now() > end:
                raise RobotError(f"{what()} (waited {limit_s:g} s)")
            time.sleep(0.005)


class _Gripper:
    """One gripper, served by a thread: a command takes milliseconds, or half a second without an answer."""

    def __init__(self, arm: Any, side: str) -> None:
        self._arm, self._side = arm, side
        self._ended = threading.Event()
        self.opening = -1.0
        self.errors: tuple[str, ...] = ()
        self._read()
        if self.opening < 0:
            raise RobotError(f"the {side} gripper does not answer; is it mounted, and its protocol enabled?")
        # Its position counts as sent, so that nothing is sent until the set-point changes.
        self.target, self._sent = self.opening, round(_GRIPPER_UNITS * self.opening)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the thread finish."""
        self._ended.set()
        self._thread.join(1.0)

    def _serve(self) -> None:
        while not self._ended.wait(_GRIPPER_S):
            position = max(1, round(self.target * _GRIPPER_UNITS))
            if (
                abs(position - self._sent) >= _GRIPPER_STEP
                and self._arm.rm_set_gripper_position(position, False, 1) == 0
            ):
                self._sent = position
            self._read()

    def _read(self) -> None:
        code, state = self._arm.rm_get_gripper_state()
        if code != 0:
            return
        self.opening = state["actpos"] / _GRIPPER_UNITS
        self.errors = (f"the {self._side} gripper reports error {state['error']:#x}",) if state["error"] else ()


def _switch_off(arm: Any) -> None:
    arm.rm_set_arm_stop()
    arm.rm_set_arm_power(0)


def _errors(side: str, system: Any, joints: Any) -> Iterator[str]:
    for code in system.err[: system.err_len]:
        if code != _SYSTEM_OK:
            yield f"the {side} arm reports {SYSTEM_ERRORS.get(code, 'a system error')} ({code & 0xFFFF:#06x})"
    for number, code in enumerate(joints, 1):
        if code:
            yield f"joint {number} of the {side} arm reports {_joint_error(code)} ({code:#06x})"


def _joint_error(code: int) -> str:
    return JOINT_ERRORS.get(code) or ", ".join(text for bit, text in JOINT_ERRORS.items() if code & bit) or "an error"


def _sdk() -> Any:
    try:
        with _quiet():
            from Robotic_Arm import rm_robot_interface
    except ImportError as error:
        raise RobotError(f"RealMan's SDK is missing ({error}); install it: pip install 'robotest[realman]'") from error
    return rm_robot_interface


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the standard output of C code."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as null:  # noqa: PTH123 - a descriptor is needed
            os.dup2(null.fileno(), 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


SYSTEM_ERRORS: Final[Mapping[int, str]] = {
    0x1001: "that a joint does not communicate",
    0x1002: "a target beyond a joint limit",
    0x1003: "a singular, unreachable target",
    0x1004: "a fault of its real-time kernel",
    0x1005: "a fault of the joint bus",
    0x1006: "a fault of its selector",
    0x1007: "a joint that is too fast",
    0x1008: "that the end board does not answer",
    0x1009: "too high a speed",
    0x100A: "too high an acceleration",
    0x100B: "a brake that did not open",
    0x100D: "a collision",
    0x1010: "a joint that lost power",
    0x1012: "a self-collision",
    0x1013: "a collision with its electronic fence",
    0x1014: "a joint beyond its soft limit",
    0x2001: "a gripper fault",
    0x5003: "that the controller is too hot",
    0x5005: "too much current",
    0x5007: "too high a voltage",
    0x5008: "too low a voltage",
}
"""System error codes in words, after the vendor's list (rm_docs, docs/robot/json/errorList.md)."""

JOINT_ERRORS: Final[Mapping[int, str]] = {
    0x0001: "a FOC error",
    0x0002: "too high a voltage",
    0x0004: "too low a voltage",
    0x0008: "that it is too hot",
    0x0010: "that it did not start",
    0x0020: "an encoder error",
    0x0040: "too much current",
    0x0080: "a software error",
    0x0100: "a temperature sensor error",
    0x0200: "a position beyond its limit",
    0x0800: "that it does not follow",
    0x1000: "a current sensor error",
    0x2000: "a brake that did not open",
    0x4000: "a jump of its set-point",
}
"""Joint error codes in words; a code may be the sum of several."""
