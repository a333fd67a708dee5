"""The executor's process: ``python -m robotest.hardware.control.process DESCRIPTOR``.

`robotest.hardware.control.client` starts it. It has a process to itself because other threads would delay its ticks,
and it outlives the rollout's process for as long as it takes to stop the arms.

The descriptor is one end of a pair of packet sockets; each packet is one message of `robotest.runtime.wire`. The first
is an `Opening`, answered by a `Greeting` or a `refusal`. From then on the process takes requests
(`robotest.hardware.control.messages`) and sends a `Status` at every tick, or drops it if nobody reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import logging
import math
import os
import select
import signal
import socket
import struct
import sys
from typing import Final, NoReturn

from robotest.clock import WallClock
from robotest.embodiment.collision import Twin
from robotest.errors import RobotestError
from robotest.hardware.control.black_box import BlackBox
from robotest.hardware.control.executor import Executor, Watchdogs
from robotest.hardware.control.governor import Governor
from robotest.hardware.control.messages import (
    Greeting,
    Opening,
    Quit,
    Request,
    Unknown,
    refusal,
    request_from_message,
)
from robotest.hardware.control.status import Fault, Status
from robotest.hardware.robot import Stop
from robotest.registry import resolve
from robotest.runtime import wire
from robotest.types import Clock

TICK_S: Final = 0.01
PACKET_BYTES: Final = 2**17
_PRIORITY = 50  # of SCHED_FIFO
_MESSAGES_PER_TICK = 32
_MCL_CURRENT, _MCL_ONFAULT = 1, 4  # of Linux's mman.h
_BEATS_ONLY_S = 0.12  # heartbeat limit where the system does not tell whether a process is stopped
_log = logging.getLogger(__name__)


class PeerProcess:
    """Another process of this machine, observed through ``/proc``.

    Args:
        pid: of the process.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._file: int | None = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        except OSError:
            self._file = None

    @property
    def known(self) -> bool:
        """Whether this system reports the state of processes."""
        return self._file is not None

    def failure(self) -> str | None:
        """Return ``stopped`` or ``gone``; None if the process can run, or nothing is known of it."""
        if self._file is None:
            return None
        try:
            state = os.pread(self._file, 256, 0).rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return "gone"
        return {b"T": "stopped", b"t": "stopped", b"Z": "gone", b"X": "gone"}.get(state)


class Station:
    """Runs the executor at fixed deadlines, until it is told to end or the rollout is gone, and the arms are off.

    Args:
        executor: to run.
        connection: packets from and to the rollout's process.
        clock: for the deadlines.
        rollout: the process at the other end.
    """

    def __init__(self, executor: Executor, connection: socket.socket, clock: Clock, rollout: PeerProcess) -> None:
        self._executor, self._socket, self._clock, self._rollout = executor, connection, clock, rollout
        self._buffer = bytearray(PACKET_BYTES)
        self._ended = False
        self._alone = False
        self._missed = 0

    def end(self, *_: object) -> None:
        """Stop the arms at the next tick, then leave `serve`. May be called from a signal handler."""
        self._ended = True

    def serve(self) -> None:
        """Tick at absolute deadlines, whatever arrives.

        Two frames in quick succession would be a fast motion to the controllers. So missed ticks are left out, and a
        late tick is followed by the next deadline at least half a tick away; deadlines never move.
        """
        deadline = self._clock.now()
        while not (self._ended or self._alone) or self._executor.powered:
            self._clock.sleep_until(deadline)
            now = self._clock.now()
            if self._ended:
                self._executor.trip(Fault("ended", "the executor was told to end", Stop.DECEL_THEN_DISABLE))
            if self._executor.powered and (failure := self._rollout.failure()):
                self._executor.trip(Fault("heartbeat", f"the rollout's process is {failure}", Stop.DECEL_THEN_DISABLE))
            try:
                requests = self._requests()
                now = self._clock.now()  # after reading, so that no request seems to come from the future
                status = self._executor.tick(now, requests)
                self._post(dataclasses.replace(status, late=now - deadline, missed=self._missed))
            except Exception as error:  # noqa: BLE001 - stopping the arms matters more than a clean exit
                _log.exception("in a tick")
                self._executor.trip(Fault("internal", f"{type(error).__name__}: {error}", Stop.DECEL_THEN_DISABLE))
            ticks = _ticks_to(deadline, max(now + TICK_S / 2, self._clock.now()))
            deadline += ticks * TICK_S
            self._missed += ticks - 1

    def _requests(self) -> list[Request | Unknown]:
        requests: list[Request | Unknown] = []
        for _ in range(_MESSAGES_PER_TICK):
            try:
                packet = self._buffer[: self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)]
            except BlockingIOError:
                break
            except OSError:
                packet = bytearray()
            if not packet and self._hung_up():
                self._leave()
                break
            request = _request(packet)
            if isinstance(request, Quit):
                self.end()
            else:
                requests.append(request)
        return requests

    def _hung_up(self) -> bool:
        """Whether the other end is closed; to `recv` an empty packet looks the same."""
        poll = select.poll()
        poll.register(self._socket, select.POLLHUP)
        return bool(poll.poll(0))

    def _leave(self) -> None:
        """Stop the arms and end: the rollout's process is gone."""
        if not self._alone:
            self._alone = True
            self._executor.trip(Fault("heartbeat", "the rollout's process is gone", Stop.DECEL_THEN_DISABLE))

    def _post(self, status: Status) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(wire.pack(status.to_message()), socket.MSG_DONTWAIT)


def _request(packet: bytearray) -> Request | Unknown:
    if not packet:
        return Unknown("an empty packet")
    try:
        return request_from_message(wire.unpack(packet))
    except wire.WireError as error:
        return Unknown(str(error))


def _ticks_to(deadline: float, earliest: float) -> int:
    """Return the number of ticks, at least 1, from `deadline` to the first one not before `earliest`."""
    return max(1, math.ceil((earliest - deadline) / TICK_S))


def main() -> None:
    """Open the robot of the first packet, answer, and tick."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rollout, which then tells how to stop
    connection = socket.socket(fileno=int(sys.argv[1]))
    opening = Opening.from_message(wire.unpack(connection.recv(PACKET_BYTES)))
    realtime = opening.realtime and request_realtime_priority()
    clock = WallClock()
    try:
        robot = resolve("robot", opening.robot)(opening.config)
        box = BlackBox(opening.black_box)
        robot.connect()
        governor = Governor(robot.limits, Twin(opening.table_z), TICK_S, robot.capabilities.resolution)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises goes to the rollout in one line
        text = str(error) if isinstance(error, RobotestError) else f"{type(error).__name__}: {error}"
        connection.send(wire.pack(refusal(text)))
        _exit()
    rollout = PeerProcess(os.getppid())
    watchdogs = Watchdogs() if rollout.known else Watchdogs(heartbeat=_BEATS_ONLY_S)
    station = Station(Executor(robot, governor, box, clock.now(), watchdogs), connection, clock, rollout)
    signal.signal(signal.SIGTERM, station.end)
    connection.send(wire.pack(Greeting(realtime, robot.capabilities).to_message()))
    gc.collect()
    gc.freeze()
    if opening.realtime:  # granted or not
        _lock_memory()
        disable_cpu_idle()
    station.serve()
    robot.disconnect()
    box.close()
    _exit()


def request_realtime_priority() -> bool:
    """Ask for a real-time priority, for the SDK's threads too; return whether it was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (OSError, AttributeError):
        return False
    return True


def _lock_memory() -> None:
    """Keep this process's pages in memory: to read one again takes longer than a tick."""
    with contextlib.suppress(AttributeError):  # not every system has it
        ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_ONFAULT)


def disable_cpu_idle() -> None:
    """Keep idle processors out of deep sleep, from which they wake too late for a tick.

    Holds while the file is open: until this process ends (Linux's PM quality of service interface).
    """
    with contextlib.suppress(OSError):
        os.write(os.open("/dev/cpu_dma_latency", os.O_WRONLY), struct.pack("i", 0))


def _exit() -> NoReturn:
    """Exit without the SDK's exit handlers, which may wait for controllers that do not answer."""
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
