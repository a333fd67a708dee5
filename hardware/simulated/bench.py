"""The bench of the simulated controllers: a side channel for what the robot's protocol cannot do.

It places objects, judges success, reads what arrived at the sockets, and injects faults, over a loopback connection of
`robotest.runtime.wire` frames. A request is a map with ``do``; the reply is a map, with ``error`` if it was refused:

=============== ============================================== =======================================================
``do``          further keys                                   reply
=============== ============================================== =======================================================
``hello``                                                      ``robot hosts tcp_ports pid stamp``
``reset``       ``task setting wording seed episode``          ``instruction``
``home_pose``                                                  ``joints`` (2, 7) [rad]
``scene``                                                      ``snapshot stamp instruction success done`` and how it
                                                               was reset
``journal``     ``since``, ``commands_since``                  ``arm stamp joints`` of frames, ``commands``, and the
                                                               numbers for the next request: ``next``, ``commands_next``
``counts``                                                     ``left``, ``right``: what became of the frames;
                                                               ``slips``, ``worst_lateness_s`` of the loop
``fault``       ``name``, ``arm`` (0, 1; none: both), others   ``active``
``faults``                                                     ``faults``: name -> description and arguments
``clear``
``quit``
=============== ============================================== =======================================================

Stamps are those of `time.perf_counter`, on Linux one clock for all processes; those of the journal tell when the
system, not this program, received something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import selectors
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from robotest.embodiment import workcell
from robotest.errors import RobotestError
from robotest.hardware.robot import RobotError
from robotest.hardware.simulated.arm import NetworkArm
from robotest.hardware.simulated.faults import FAULTS, fault_arguments
from robotest.hardware.simulated.journal import Journal
from robotest.hardware.simulated.physics import Physics, Start
from robotest.hardware.simulated.streams import Address, Stream, listening
from robotest.runtime.wire import WireError, pack, unpack

_MAX_REQUEST: Final = 2**20
_LENGTH: Final = struct.Struct("<Q")  # of a frame, as `robotest.runtime.wire` has it
Message = dict[str, Any]


@dataclasses.dataclass
class Timing:
    """How well the loop keeps its deadlines.

    Attributes:
        slips: how often physics steps were left out because the loop was too late.
        worst_lateness_s: of a physics step [s].
    """

    slips: int = 0
    worst_lateness_s: float = 0.0


class Bench:
    """Answers requests.

    Args:
        address: loopback address to listen at; port 0 chooses one.
        selector: of the loop.
        physics: the world.
        arms: left, right.
        journal: lines that arrived at the arms.
        timing: of the loop.
        close: ends the loop.

    Raises:
        RobotError: the address is taken, or is not a loopback address.
    """

    def __init__(
        self,
        address: Address,
        selector: selectors.BaseSelector,
        physics: Physics,
        arms: Sequence[NetworkArm],
        journal: Journal,
        timing: Timing,
        close: Callable[[], None],
    ) -> None:
        if not _is_loopback(address[0]):
            raise RobotError(f"the bench would be at {address[0]}; it is for this machine alone: use 127.0.0.1")
        self._selector, self._physics, self._arms, self._journal = selector, physics, arms, journal
        self._timing, self._close = timing, close
        self._streams: list[Stream] = []
        self._listener = listening(address)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._requests: dict[str, Callable[[Message], Message]] = {
            "hello": self._hello,
            "reset": self._reset,
            "home_pose": lambda _: {"joints": physics.home},
            "scene": self._scene,
            "journal": lambda r: journal.read(_number(r, "since", 0), _number(r, "commands_since", 0)),
            "counts": self._counts,
            "fault": self._fault,
            "faults": lambda _: {"faults": {name: dataclasses.asdict(f) for name, f in FAULTS.items()}},
            "clear": self._clear,
            "quit": self._quit,
        }

    @property
    def address(self) -> Address:
        """Where the bench listens."""
        address: Address = self._listener.getsockname()
        return address

    @property
    def due(self) -> float:
        """When the next reply is to be sent [s]."""
        return min((s.due for s in self._streams), default=float("inf"))

    def work(self, now: float) -> None:
        """Send the replies that are due."""
        for stream in self._streams:
            stream.flush(now)

    def close(self) -> None:
        """Close all sockets."""
        for stream in self._streams:
            stream.close()
        self._listener.close()

    def _accept(self, events: int) -> None:
        del events
        self._streams = [s for s in self._streams if s.open]
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            self._streams.append(Stream(self._selector, connection, self._frames))

    def _frames(self, stream: Stream) -> None:
        while len(stream.received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(stream.received)
            end = _LENGTH.size + length
            if length > _MAX_REQUEST:
                stream.close()
                return
            if len(stream.received) < end:
                return
            request = bytes(stream.received[_LENGTH.size : end])
            del stream.received[:end]
            reply = pack(self._answer(request))
            stream.send(_LENGTH.pack(len(reply)) + reply)
            stream.flush(time.perf_counter())

    def _answer(self, request: bytes) -> Message:
        try:
            message = unpack(request)
            if not isinstance(message, dict) or not isinstance(message.get("do"), str):
                raise WireError("a request is a map with 'do'")
            act = self._requests.get(message["do"])
            if act is None:
                raise WireError(f"unknown request {message['do']!r}; known: {', '.join(self._requests)}")
            return act(message)
        except RobotestError as error:
            return {"error": str(error)}

    def _hello(self, request: Message) -> Message:
        del request
        return {
            "robot": "rm75-dual",
            "hosts": [arm.address[0] for arm in self._arms],
            "tcp_ports": [arm.address[1] for arm in self._arms],
            "pid": os.getpid(),
            "stamp": time.perf_counter(),
        }

    def _reset(self, request: Message) -> Message:
        fields = {f.name: type(f.default) for f in dataclasses.fields(Start)}
        changes = {k: v for k, v in request.items() if k != "do"}
        for name, value in changes.items():
            if name not in fields or type(value) is not fields[name]:
                raise RobotError(
                    f"reset takes {', '.join(fields)}; {name}={value!r} is none of them or of another type"
                )
        start = dataclasses.replace(self._physics.start, **changes)
        self._physics.reset(start, np.array([arm.controller.gripper.setpoint for arm in self._arms]))
        return {"instruction": self._physics.instruction}

    def _scene(self, request: Message) -> Message:
        del request
        return {
            "snapshot": self._physics.snapshot(),
            "stamp": self._physics.stamp,
            "instruction": self._physics.instruction,
            "success": self._physics.success,
            "done": self._physics.done,
            **dataclasses.asdict(self._physics.start),
        }

    def _counts(self, request: Message) -> Message:
        del request
        counts = {side: dict(arm.controller.counts) for side, arm in zip(workcell.SIDES, self._arms, strict=True)}
        return {**counts, **dataclasses.asdict(self._timing)}

    def _fault(self, request: Message) -> Message:
        name, number = request.get("name"), request.get("arm")
        if not isinstance(name, str) or name not in FAULTS:
            raise RobotError(f"fault {name!r}; known: {', '.join(FAULTS)}")
        if number not in (None, 0, 1):
            raise RobotError(f"arm {number!r}; 0 is the left one, 1 the right one, none is both")
        arguments = fault_arguments(name, {k: v for k, v in request.items() if k not in ("do", "name", "arm")})
        for arm in self._arms if number is None else [self._arms[number]]:
            arm.faults.begin(name, arguments)
        return {"active": [arm.faults.names for arm in self._arms]}

    def _clear(self, request: Message) -> Message:
        del request
        for arm in self._arms:
            arm.faults.clear()
        return {}

    def _quit(self, request: Message) -> Message:
        del request
        self._close()
        return {}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _number(request: Message, key: str, default: int) -> int:
    value = request.get(key, default)
    if type(value) is not int or value < 0:
        raise RobotError(f"{key}={value!r}; an integer of 0 or more is needed")
    return value
