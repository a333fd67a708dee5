"""The rollout's end of the executor: starts its process, says that the rollout lives, hears how the arms are."""

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
from robotest.hardware.control.process import PACKET_BYTES
from robotest.hardware.robot import RobotError, Stop
from robotest.runtime import wire
from robotest.types import Clock

OPEN_S: Final = 10.0
BEAT_S: Final = 0.02
SILENT_S: Final = 0.5
"""An executor not heard of for this long is taken for dead; then only the hardware's stop is left."""
_END_S = 5.0
_OFF_S = 3.0  # switching off may wait for four answers of an arm, half a second each


class RobotFaultError(RobotError):
    """The arms were stopped, and stay so until somebody resets them."""


class ExecutorClient:
    """One robot, behind its executor.

    Args:
        robot: registered name.
        config: table ``[robot]`` of its configuration.
        black_box: where the executor keeps what it sends.
        clock: as the executor's.
        table_z: height of the table over the world's origin [m].
        realtime: ask for a real-time priority.

    Raises:
        RobotError: it cannot be opened; one line.
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
            # A session of its own: Ctrl-C at the terminal is the rollout's, and must not end the executor.
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "robotest.hardware.control.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._status: dict[str, Any] = {}
        self._heard = threading.Condition()
        self._ended = threading.Event()
        box = str(black_box.absolute())
        opening = {"robot": robot, "config": dict(config), "black_box": box, "table_z": table_z, "realtime": realtime}
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        try:
            self.about = self._open(opening)
            self._thread.start()
            self.wait(bool, 1.0, "the executor's first status")
        except BaseException:
            self.process.kill()  # nothing has power yet
            self.close()
            raise

    @property
    def status(self) -> dict[str, Any]:
        """What the executor told last; see `robotest.hardware.control.executor.Executor.tick`.

        Raises:
            RobotError: it has not been heard of for `SILENT_S`.
        """
        status = self._status
        if status and self._clock.now() - status["time"] > SILENT_S:
            raise RobotError("the executor is silent: press the hardware's emergency stop, then look at the arms")
        return status

    def require_well(self) -> dict[str, Any]:
        """Return the status; `RobotFaultError` if a fault is latched."""
        status = self.status
        if fault := status.get("fault"):
            raise RobotFaultError(f"{fault['text']} [{fault['name']}, {fault['stop']}]")
        return status

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the executor.

        Raises:
            RobotError: nobody is there to take it.
        """
        try:
            self._socket.send(wire.pack(message))
        except OSError as error:
            raise RobotError(f"the executor is gone ({error.strerror or error})") from error

    def follow(self, chunk: JointTrajectory) -> None:
        """Hand over a chunk. Whether it was admitted is in the status."""
        self.send({"do": "chunk", **vars(chunk)})

    def stop(self, kind: Stop, text: str) -> None:
        """Stop the arms for a reason; it latches as a fault."""
        self.send({"do": "stop", "kind": kind.value, "text": text})

    def enable(self, limit_s: float = 12.0) -> None:
        """Give the arms power and hold them where they are.

        Raises:
            RobotFaultError: something forbids it.
        """
        self.send({"do": "enable"})
        self.wait(lambda s: s["mode"] != "disabled", limit_s, "the arms to be enabled")

    def with_power(self, limit_s: float = _OFF_S) -> list[str]:
        """Return the sides whose arm was not seen to lose its power, by a fresh state and within a time.

        That an arm was told to switch off says little: its connection may be dead.
        """
        end = time.monotonic() + limit_s
        with self._heard:
            while True:
                status = self.status
                found = [side for i, side in enumerate(SIDES) if not _is_off(status, i)]
                if not found or time.monotonic() > end:
                    return found
                self._heard.wait(0.05)

    def reset(self) -> None:
        """Forget a latched fault once the arms are stopped; its cause is looked at again at the next `enable`."""
        self._until(lambda s: s["mode"] == "disabled" or bool(s["at_rest"]), 5.0, "the arms to come to rest")
        time.sleep(2 * BEAT_S)  # a standstill may still be followed by switching off
        self.send({"do": "reset"})
        self._until(lambda s: s["fault"] is None, 1.0, "the fault to be reset")

    def wait(self, until: Callable[[dict[str, Any]], bool], limit_s: float, what: str) -> dict[str, Any]:
        """Wait for a status that fulfils `until` and return it.

        Raises:
            RobotFaultError: a fault is latched.
            RobotError: it did not come within `limit_s`.
        """
        return self._until(until, limit_s, what, self.require_well)

    def close(self) -> None:
        """Let the executor stop the arms and end. May be called twice."""
        if self._ended.is_set():
            return
        with contextlib.suppress(RobotError):
            self.send({"do": "quit"})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_END_S)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()

    def _until(
        self,
        until: Callable[[dict[str, Any]], bool],
        limit_s: float,
        what: str,
        look: Callable[[], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        end = time.monotonic() + limit_s
        with self._heard:
            while True:
                status = look() if look else self.status
                if status and until(status):
                    return status
                if time.monotonic() > end:
                    raise RobotError(f"waited {limit_s:g} s for {what}")
                self._heard.wait(0.05)

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._socket.settimeout(OPEN_S)
        try:
            self._socket.send(wire.pack(request))
            packet = self._socket.recv(PACKET_BYTES)
        except OSError as error:
            raise RobotError(f"the executor did not start ({error})") from error
        self._socket.settimeout(None)
        if not packet:
            raise RobotError(f"the executor ended with exit code {self.process.wait()} before it was ready")
        answer: dict[str, Any] = wire.unpack(packet)
        if "error" in answer:
            raise RobotError(answer["error"])
        return answer

    def _beat(self) -> None:
        """Say that this process lives, and keep the newest status. Not from inference: that may take its time."""
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                self._socket.send(wire.pack({"do": "beat"}), socket.MSG_DONTWAIT)
            newest = None
            with contextlib.suppress(BlockingIOError, OSError):
                while packet := self._socket.recv(PACKET_BYTES, socket.MSG_DONTWAIT):
                    newest = packet
            if newest:
                with self._heard, contextlib.suppress(wire.WireError):
                    self._status = wire.unpack(newest)
                    self._heard.notify_all()


def _is_off(status: Mapping[str, Any], arm: int) -> bool:
    if "enabled" not in status or status["time"] - status["stamps"][arm] > Watchdogs.state:
        return False
    return not status["enabled"][arm].any()
