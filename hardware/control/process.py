"""The executor's process: ``python -m robotest.hardware.control.process DESCRIPTOR``.

`robotest.hardware.control.client` starts it.

A process of its own, because other threads beside it would make its ticks late. It outlives the rollout's process for
as long as it takes to stop the arms. The descriptor is one end of a pair of packet sockets: a packet is a message of
`robotest.runtime.wire`, whole or not there. First comes {robot, config, black_box, table_z, realtime}, answered by
{ready} or {error}; then at every tick messages are taken as they come and a status goes back, or is dropped if nobody
reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import math
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from robotest.clock import WallClock
from robotest.embodiment.collision import Twin
from robotest.errors import RobotestError
from robotest.hardware.control.black_box import BlackBox
from robotest.hardware.control.executor import Executor, Fault, Watchdogs
from robotest.hardware.control.governor import Governor
from robotest.hardware.robot import Stop
from robotest.registry import resolve
from robotest.runtime import wire
from robotest.types import Clock

TICK_S: Final = 0.01
PACKET_BYTES: Final = 2**17
_PRIORITY = 50  # of SCHED_FIFO
_MESSAGES_PER_TICK = 32
_MCL_CURRENT, _MCL_ONFAULT = 1, 4  # of Linux's mman.h
_BEATS_ONLY_S = 0.12  # where a stopped process can only be told by its silence
_log = logging.getLogger(__name__)


class PeerProcess:
    """Another process of this machine, looked at without asking it anything.

    Args:
        pid: whose.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._file: int | None = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        except OSError:
            self._file = None

    @property
    def known(self) -> bool:
        """Whether this system tells about processes."""
        return self._file is not None

    def failure(self) -> str | None:
        """Say what keeps the process from running for good; None if nothing is known to."""
        if self._file is None:
            return None
        try:
            state = os.pread(self._file, 256, 0).rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return "gone"
        return {b"T": "stopped", b"t": "stopped", b"Z": "gone", b"X": "gone"}.get(state)


class Station:
    """Ticks until it is told to end, or the rollout is gone and the arms are off.

    Args:
        executor: ticks.
        connection: packets from and to the rollout's process.
        clock: deadlines are its.
        rollout: the process at the other end.
    """

    def __init__(self, executor: Executor, connection: socket.socket, clock: Clock, rollout: PeerProcess) -> None:
        self._executor, self._socket, self._clock, self._rollout = executor, connection, clock, rollout
        self._buffer = bytearray(PACKET_BYTES)
        self._ended = False
        self._alone = False
        self._missed = 0

    def end(self, *_: object) -> None:
        """Stop the arms at the next tick, then leave `serve`. May be called from a signal's handler."""
        self._ended = True

    def serve(self) -> None:
        """Tick with absolute deadlines. Nothing that arrives ends it.

        Frames in quick succession would be a fast motion to the controllers. So a tick that is missed is left out, and
        after a late one comes the next deadline that is half a tick away at least; none is ever moved.
        """
        deadline = self._clock.now()
        while not (self._ended or self._alone) or self._executor.powered:
            self._clock.sleep_until(deadline)
            now = self._clock.now()
            if self._ended:
                self._executor.trip(Fault("ended", "the executor was told to end", Stop.DECEL_THEN_DISABLE))
            if self._executor.powered and (ailment := self._rollout.failure()):
                self._executor.trip(Fault("heartbeat", f"the rollout's process is {ailment}", Stop.DECEL_THEN_DISABLE))
            try:
                messages = self._messages()
                now = self._clock.now()  # none of them was sent later
                status = self._executor.tick(now, messages)
                self._post(status | {"late": now - deadline, "missed": self._missed})
            except Exception as error:  # noqa: BLE001 - the arms are worth more than a clean end
                _log.exception("in a tick")
                self._executor.trip(Fault("internal", f"{type(error).__name__}: {error}", Stop.DECEL_THEN_DISABLE))
            ticks = _ticks_to(deadline, max(now + TICK_S / 2, self._clock.now()))
            deadline += ticks * TICK_S
            self._missed += ticks - 1

    def _messages(self) -> list[object]:
        messages: list[object] = []
        for _ in range(_MESSAGES_PER_TICK):
            try:
                packet = self._buffer[: self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)]
            except BlockingIOError:
                break
            except OSError:
                packet = bytearray()
            if not packet:
                if self._hung_up():
                    self._leave()
                    break
                messages.append("an empty packet")
                continue
            try:
                message = wire.unpack(packet)
            except wire.WireError as error:
                message = str(error)
            if isinstance(message, dict) and isinstance(what := message.get("do"), str) and what == "quit":
                self.end()
            else:
                messages.append(message)
        return messages

    def _hung_up(self) -> bool:
        """Whether the other end is closed; an empty packet looks the same to `recv`."""
        poll = select.poll()
        poll.register(self._socket, select.POLLHUP)
        return bool(poll.poll(0))

    def _leave(self) -> None:
        """The rollout's process is gone."""
        if not self._alone:
            self._alone = True
            self._executor.trip(Fault("heartbeat", "the rollout's process is gone", Stop.DECEL_THEN_DISABLE))

    def _post(self, status: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(wire.pack(status), socket.MSG_DONTWAIT)


def _ticks_to(deadline: float, earliest: float) -> int:
    """Return how many ticks after a deadline the first one is that is no earlier than a time."""
    return max(1, math.ceil((earliest - deadline) / TICK_S))


def main() -> None:
    """Open the robot that the first packet names, say how that went, and tick."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rollout, which then says how to stop
    connection = socket.socket(fileno=int(sys.argv[1]))
    request = wire.unpack(connection.recv(PACKET_BYTES))
    realtime = request["realtime"] and request_realtime_priority()
    clock = WallClock()
    try:
        robot = resolve("robot", request["robot"])(request["config"])
        box = BlackBox(Path(request["black_box"]))
        robot.connect()
        governor = Governor(robot.limits, Twin(request["table_z"]), TICK_S, robot.capabilities.resolution)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises is said to the rollout in one line
        text = str(error) if isinstance(error, RobotestError) else f"{type(error).__name__}: {error}"
        connection.send(wire.pack({"error": text}))
        _leave()
    rollout = PeerProcess(os.getppid())
    watchdogs = Watchdogs() if rollout.known else Watchdogs(heartbeat=_BEATS_ONLY_S)
    station = Station(Executor(robot, governor, box, clock.now(), watchdogs), connection, clock, rollout)
    signal.signal(signal.SIGTERM, station.end)
    connection.send(wire.pack({"ready": True, "realtime": realtime, "capabilities": vars(robot.capabilities)}))
    gc.collect()
    gc.freeze()
    if request["realtime"]:  # granted or not
        _stay_in_memory()
        disable_cpu_idle()
    station.serve()
    robot.disconnect()
    box.close()
    _leave()


def request_realtime_priority() -> bool:
    """Ask for a real-time priority, for the SDK's threads too; return whether it was given."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (OSError, AttributeError):
        return False
    return True


def _stay_in_memory() -> None:
    """Ask that no page of this process is given up while it is idle: to read it again takes longer than a tick."""
    with contextlib.suppress(AttributeError):  # not every system has it
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_ONFAULT)


def disable_cpu_idle() -> None:
    """Ask that idle processors do not sleep deeply: to wake one up takes longer than a tick may be late.

    Holds while the file is open, to the end of this process (Linux's PM quality of service interface).
    """
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY), struct.pack("i", 0))


def _leave() -> None:
    """End without the SDK's own exit handlers, which may wait for controllers that do not answer."""
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
