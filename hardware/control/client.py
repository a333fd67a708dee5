"""The rollout's side of the executor: starts its process, sends requests and heartbeats, receives its status."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from robotest.embodiment.workcell import SIDES
from robotest.hardware.control.executor import Watchdogs
from robotest.hardware.control.governor import JointTrajectory
from robotest.hardware.control.messages import (
    PACKET_BYTES,
    Beat,
    Enable,
    Follow,
    Greeting,
    Halt,
    Hold,
    Opening,
    Quit,
    Request,
    Reset,
    request_to_message,
)
from robotest.hardware.control.status import Mode, Status
from robotest.hardware.robot import RobotError, Stop
from robotest.runtime import wire
from robotest.types import Clock

OPEN_S: Final = 10.0
BEAT_S: Final = 0.02
SILENT_S: Final = 0.5
"""An executor silent for this long counts as dead; then only the hardware's emergency stop is left."""
_FIRST_STATUS_S = 1.0
_END_S = 5.0
_OFF_S = 3.0  # switching off may wait for four answers of an arm, half a second each


class RobotFaultError(RobotError):
    """The arms were stopped by a fault, and stay stopped until it is reset."""


class ExecutorClient:
    """Controls one robot through an executor in its own process.

    Args:
        robot: registered name.
        config: table ``[robot]`` of its configuration.
        black_box: file for the executor's log.
        clock: the executor's.
        table_z: height of the table over the world's origin [m].
        realtime: ask for a real-time priority.

    Attributes:
        process: the executor's.
        greeting: of the executor.

    Raises:
        RobotError: the robot cannot be opened; one line.
    """

    def __init__(
        self,
        robot: str,
        config: Mapping[str, Any],
        black_box: Path,
        clock: Clock,
        table_z: float = 0.0,
        *,
        realtime: bool = True,
    ) -> None:
        self._clock = clock
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # In a new session, because Ctrl-C at the terminal must not end the executor.
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "robotest.hardware.control.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._status: Status | None = None
        self._heard = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        try:
            self.greeting: Final = self._open(Opening(robot, config, black_box, table_z, realtime))
            self._thread.start()
            with self._heard:
                self._heard.wait_for(lambda: self._status is not None, _FIRST_STATUS_S)
            self.require_well()
        except BaseException:
            self.process.kill()  # nothing has power yet
            self.close()
            raise

    @property
    def status(self) -> Status:
        """The executor's latest status.

        Raises:
            RobotError: the executor has been silent for `SILENT_S`.
        """
        status = self._status
        if status is None:
            raise RobotError(f"no status from the executor within {_FIRST_STATUS_S:g} s of its start")
        if self._clock.now() - status.time > SILENT_S:
            raise RobotError("the executor is silent: press the hardware's emergency stop, then look at the arms")
        return status

    def require_well(self) -> Status:
        """Return the status; `RobotFaultError` if a fault is latched."""
        status = self.status
        if fault := status.fault:
            raise RobotFaultError(f"{fault.text} [{fault.name}, {fault.stop.value}]")
        return status

    def send(self, request: Request) -> None:
        """Send a request to the executor.

        Raises:
            RobotError: the executor is gone.
        """
        try:
            self._socket.send(wire.pack(request_to_message(request)))
        except OSError as error:
            raise RobotError(f"the executor is gone ({error.strerror or error})") from error

    def follow(self, chunk: JointTrajectory) -> None:
        """Send a chunk. The status shows whether it was admitted."""
        self.send(Follow(chunk))

    def stop(self, kind: Stop, text: str) -> None:
        """Stop the arms; the reason latches as a fault."""
        self.send(Halt(kind, text))

    def hold(self) -> None:
        """Let the arms come to rest; no fault."""
        self.send(Hold())

    def enable(self, limit_s: float = 12.0) -> None:
        """Power the arms and hold them where they are.

        Raises:
            RobotFaultError: the executor or an arm refused.
        """
        self.send(Enable())
        self.wait(lambda s: s.mode is not Mode.DISABLED, limit_s, "the arms to be enabled")

    def powered_sides(self, limit_s: float = _OFF_S) -> list[str]:
        """Wait for fresh states without power; return the sides that did not report one within `limit_s`.

        A command to switch off proves nothing: the connection may be dead.
        """
        end = time.monotonic() + limit_s
        with self._heard:
            while True:
                status = self.status
                powered = [side for i, side in enumerate(SIDES) if not _is_off(status, i)]
                if not powered or time.monotonic() > end:
                    return powered
                self._heard.wait(0.05)

    def reset(self) -> None:
        """Clear a latched fault once the arms are stopped; `enable` checks again for its cause."""
        self._until(lambda s: s.mode is Mode.DISABLED or s.at_rest, 5.0, "the arms to come to rest")
        time.sleep(2 * BEAT_S)  # power may go only after the standstill
        self.send(Reset())
        self._until(lambda s: s.fault is None, 1.0, "the fault to be reset")

    def wait(self, until: Callable[[Status], bool], limit_s: float, what: str) -> Status:
        """Wait for a status that satisfies `until` and return it.

        Raises:
            RobotFaultError: a fault is latched.
            RobotError: no such status within `limit_s`.
        """
        return self._until(until, limit_s, what, self.require_well)

    def close(self) -> None:
        """Let the executor stop the arms and end. May be called twice."""
        if self._ended.is_set():
            return
        with contextlib.suppress(RobotError):
            self.send(Quit())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _until(
        self,
        until: Callable[[Status], bool],
        limit_s: float,
        what: str,
        look: Callable[[], Status] | None = None,
    ) -> Status:
        end = time.monotonic() + limit_s
        with self._heard:
            while True:
                status = look() if look else self.status
                if until(status):
                    return status
                if time.monotonic() > end:
                    raise RobotError(f"waited {limit_s:g} s for {what}")
                self._heard.wait(0.05)

    def _open(self, opening: Opening) -> Greeting:
        self._socket.settimeout(OPEN_S)
        try:
            self._socket.send(wire.pack(opening.to_message()))
            packet = self._socket.recv(PACKET_BYTES)
        except OSError as error:
            raise RobotError(f"the executor did not start ({error})") from error
        self._socket.settimeout(None)
        if not packet:
            raise RobotError(f"the executor ended with exit code {self.process.wait()} before it was ready")
        return Greeting.from_message(wire.unpack(packet))

    def _beat(self) -> None:
        """Send heartbeats and keep the newest status. In a thread, because inference may block for long."""
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self._socket.send(wire.pack(request_to_message(Beat())), socket.MSG_DONTWAIT)
            newest = None
            with contextlib.suppress(BlockingIOError, OSError):
                while packet := self._socket.recv(PACKET_BYTES, socket.MSG_DONTWAIT):
                    newest = packet
            if newest:
                with self._heard, contextlib.suppress(wire.WireError):
                    self._status = Status.from_message(wire.unpack(newest))
                    self._heard.notify_all()


def _is_off(status: Status, arm: int) -> bool:
    measured = status.measured
    if measured is None or status.time - measured.stamps[arm] > Watchdogs.state:
        return False
    return not measured.enabled[arm].any()
