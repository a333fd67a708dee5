"""One simulated arm on the network: its controller, its connections, and the state that it pushes."""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import time
from typing import Final

from robotest.hardware.simulated.controller import Controller
from robotest.hardware.simulated.faults import ActiveFaults
from robotest.hardware.simulated.joints import Measured
from robotest.hardware.simulated.journal import Journal
from robotest.hardware.simulated.protocol import joint_units, parse
from robotest.hardware.simulated.streams import Address, Stream, listening

PUSH_DT: Final = 0.005
"""Unit of the period of pushed states [s]."""
_MAX_LINE: Final = 2**16


class NetworkArm:
    """Implements `robotest.hardware.simulated.faults.Connections`.

    Args:
        number: 0 for the left arm, 1 for the right one.
        address: where the controller listens; port 0 chooses one.
        controller: the protocol's logic.
        selector: of the loop.
        journal: records all lines.

    Attributes:
        controller: the protocol's logic.
        faults: the active ones.

    Raises:
        RobotError: the address is taken, or not this machine's.
    """

    def __init__(
        self, number: int, address: Address, controller: Controller, selector: selectors.BaseSelector, journal: Journal
    ) -> None:
        self.controller = controller
        self.faults = ActiveFaults(controller, self)
        self._number, self._address = number, address
        self._selector, self._journal = selector, journal
        self._streams: list[Stream] = []
        self._listener: socket.socket | None = None
        self._next_push = -math.inf
        self.listen()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        self._udp.bind((address[0], 0))  # the SDK tells arms apart by the sender of their state

    @property
    def address(self) -> Address:
        """Where the controller listens."""
        return self._address

    @property
    def due(self) -> float:
        """When the next reply or state is to be sent [s]."""
        return min([self._next_push, *(s.due for s in self._streams)])

    def listen(self) -> None:
        """Accept connections."""
        if self._listener is not None:
            return
        self._listener = listening(self._address)
        self._address = self._listener.getsockname()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def refuse(self) -> None:
        """Accept no more connections."""
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def hang_up(self, *, reset: bool) -> None:
        """Close every connection, with RST if `reset`."""
        for stream in self._streams:
            stream.close(reset=reset)
        self._streams.clear()

    def pause(self, *, paused: bool) -> None:
        """Stop reading, or go on."""
        for stream in self._streams:
            stream.pause(paused=paused)

    def close(self) -> None:
        """Close all sockets."""
        self.refuse()
        self.hang_up(reset=False)
        self._udp.close()

    def work(self, now: float) -> None:
        """Send the replies and the state that are due."""
        if any(not s.open for s in self._streams):
            self._streams = [s for s in self._streams if s.open]
        if not self.faults.deaf:
            for stream in self._streams:
                stream.flush(now)
        elif self.faults.frozen:
            self._next_push = now + PUSH_DT
        if now < self._next_push:
            return
        period = PUSH_DT * self.controller.push_config.cycle
        # Missed states are left out: several at once are of no use.
        behind = (now - self._next_push) // period if math.isfinite(self._next_push) else 0
        self._next_push = (self._next_push if math.isfinite(self._next_push) else now) + period * (behind + 1)
        self._push()

    def advance(self, measured: Measured, now: float) -> None:
        """Take new measurements, and send the arrivals that clients wait for."""
        if self.faults.frozen:
            return
        for event in self.controller.advance(measured, now):
            for stream in self._streams:
                self._send(stream, event, now)

    def _accept(self, events: int) -> None:
        del events
        assert self._listener is not None
        with contextlib.suppress(OSError):  # the client may be gone again
            connection, _ = self._listener.accept()
            stream = Stream(self._selector, connection, self._lines)
            stream.pause(paused=self.faults.deaf)
            self._streams.append(stream)

    def _lines(self, stream: Stream) -> None:
        now = time.perf_counter()
        *lines, rest = stream.received.split(b"\n")
        stream.received = bytearray() if len(rest) > _MAX_LINE else rest
        for line in lines:
            if stripped := bytes(line.strip()):
                self._note(stripped, stream.arrived)
                for reply in self.controller.handle(stripped, now):
                    self._send(stream, reply, now)
        stream.flush(now)

    def _note(self, line: bytes, arrived: float) -> None:
        joints = None
        if b"movej_canfd" in line:
            command = parse(line)
            if command is not None and command["command"] == "movej_canfd":
                joints = joint_units(command.get("joint"))
        if joints is None:
            self._journal.command(self._number, arrived, line)
        else:
            self._journal.frame(self._number, arrived, joints)

    def _send(self, stream: Stream, reply: bytes, now: float) -> None:
        for piece, due in self.faults.replies(reply, now):
            stream.send(piece, due)

    def _push(self) -> None:
        config = self.controller.push_config
        if config.enable:
            for packet in self.faults.states():
                with contextlib.suppress(OSError):  # there need not be a receiver
                    self._udp.sendto(packet, (config.ip, config.port))
