"""The 100 Hz loop around the executor: deadlines, requests in, status out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import select
import socket
from typing import Final

from robotest.hardware.control.executor import Executor
from robotest.hardware.control.governor import TICK_S
from robotest.hardware.control.messages import PACKET_BYTES, Quit, Request, Unknown, request_from_message
from robotest.hardware.control.status import Fault, Status
from robotest.hardware.robot import Stop
from robotest.runtime import wire
from robotest.types import Clock

_MESSAGES_PER_TICK: Final = 32
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
    """Runs the executor at fixed deadlines, until it has to end, or the rollout is gone, and the arms are off.

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
