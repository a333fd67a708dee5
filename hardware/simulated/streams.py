"""TCP connections for a single-threaded loop: nothing waits, what is sent leaves when it is due."""

from __future__ import annotations

import collections
import contextlib
import math
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from robotest.hardware.robot import RobotError

Address = tuple[str, int]
_MAX_PENDING: Final = 2**22  # bytes that a client may leave unread
_READ_BYTES: Final = 2**16
_SO_TIMESTAMPNS: Final = 35  # of Linux's socket.h; Python 3.11 has no name for it
_TIMESPEC: Final = struct.Struct("@qq")


class Stream:
    """One connection.

    Args:
        selector: of the loop.
        connection: accepted.
        take: called with this stream after every read.

    Attributes:
        received: bytes that `take` has not consumed yet.
        arrived: when the system received the last of them [s].
        open: whether the connection is still open.
    """

    def __init__(
        self, selector: selectors.BaseSelector, connection: socket.socket, take: Callable[[Stream], None]
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # Linux only; elsewhere the time of reading stands in
            connection.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.received = bytearray()
        self.arrived = time.perf_counter()
        self.open = True
        self._selector, self._socket, self._take = selector, connection, take
        self._outgoing: collections.deque[tuple[float, bytes]] = collections.deque()
        self._pending = 0
        self._blocked = self._paused = False
        self._watched = 0
        self._watch()

    @property
    def due(self) -> float:
        """When the next bytes are to be sent [s]."""
        return math.inf if self._blocked or not self._outgoing else self._outgoing[0][0]

    def send(self, data: bytes, due: float = -math.inf) -> None:
        """Send at `due` [s], but never before what was sent earlier."""
        self._pending += len(data)
        if self._outgoing:
            due = max(due, self._outgoing[-1][0])
            if due == self._outgoing[-1][0]:  # one packet
                data = self._outgoing.pop()[1] + data
        self._outgoing.append((due, data))
        if self._pending > _MAX_PENDING:
            self.close()

    def flush(self, now: float) -> None:
        """Send the bytes that are due."""
        while self.open and not self._blocked and self._outgoing and self._outgoing[0][0] <= now:
            due, data = self._outgoing.popleft()
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            self._pending -= sent
            if sent < len(data):
                self._outgoing.appendleft((due, data[sent:]))
                self._blocked = True
                self._watch()

    def pause(self, *, paused: bool) -> None:
        """Stop reading, or go on."""
        self._paused = paused
        self._watch()

    def close(self, *, reset: bool = False) -> None:
        """Close the connection, with RST if `reset`."""
        if not self.open:
            return
        self.open = False
        self._watch()
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._blocked = False
            self._watch()
        if events & selectors.EVENT_READ:
            self._read()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        self.arrived = time.perf_counter() - _waited(ancillary)
        if not data:
            self.close()
            return
        self.received += data
        self._take(self)

    def _watch(self) -> None:
        events = 0
        if self.open:
            events = selectors.EVENT_READ * (not self._paused) | selectors.EVENT_WRITE * self._blocked
        if events == self._watched:
            return
        if not self._watched:
            self._selector.register(self._socket, events, self._ready)
        elif not events:
            self._selector.unregister(self._socket)
        else:
            self._selector.modify(self._socket, events, self._ready)
        self._watched = events


def _waited(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return how long ago the system received the bytes just read [s]; 0 if it does not say."""
    for level, kind, data in ancillary:
        if (level, kind, len(data)) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS, _TIMESPEC.size):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(max(0, time.time_ns() - seconds * 10**9 - nanoseconds)) / 1e9
    return 0.0


def listening(address: Address) -> socket.socket:
    """Return a non-blocking listening socket.

    Raises:
        RobotError: the address is in use, or not this machine's.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise RobotError(f"cannot listen at {address[0]}:{address[1]} ({error.strerror}); is it in use?") from error
    listener.setblocking(False)
    return listener
