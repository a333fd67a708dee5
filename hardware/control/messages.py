"""Requests of the rollout to the executor, and the handshake at its start.

On the wire a request is a map with ``do``. Anything may arrive at the executor; a message that is not a request becomes
`Unknown`, which is a fault there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from robotest.hardware.control.governor import JointTrajectory
from robotest.hardware.robot import Capabilities, RobotError, Stop

PACKET_BYTES: Final = 2**17
"""Largest packet in either direction."""
_QUOTED: Final = 80  # characters of an unknown message


@dataclasses.dataclass(frozen=True)
class Beat:
    """The rollout is alive."""


@dataclasses.dataclass(frozen=True)
class Follow:
    """Execute a chunk."""

    chunk: JointTrajectory


@dataclasses.dataclass(frozen=True)
class Halt:
    """Stop the arms; it latches as the fault ``operator``."""

    kind: Stop
    text: str


@dataclasses.dataclass(frozen=True)
class Hold:
    """Abandon the chunk and come to rest; no fault."""


@dataclasses.dataclass(frozen=True)
class Enable:
    """Power the arms and hold them where they are."""


@dataclasses.dataclass(frozen=True)
class Reset:
    """Clear the latched fault."""


@dataclasses.dataclass(frozen=True)
class Quit:
    """Stop the arms, then end the executor."""


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Not a request. `text` says why."""

    text: str


Request = Beat | Follow | Halt | Hold | Enable | Reset | Quit
_PLAIN: Final[Mapping[str, Request]] = {
    "beat": Beat(),
    "hold": Hold(),
    "enable": Enable(),
    "reset": Reset(),
    "quit": Quit(),
}


def request_to_message(request: Request) -> dict[str, Any]:
    """Return a request as a map for `robotest.runtime.wire`."""
    match request:
        case Follow(chunk):
            return {"do": "chunk", **vars(chunk)}
        case Halt(kind, text):
            return {"do": "stop", "kind": kind.value, "text": text}
    return {"do": next(name for name, plain in _PLAIN.items() if plain == request)}


def request_from_message(message: object) -> Request | Unknown:
    """Return the request in a message, or `Unknown`. Never raises. The governor checks the fields of chunks."""
    try:
        match message:
            case {"do": "chunk", **fields}:
                return Follow(JointTrajectory(**cast("dict[str, Any]", fields)))
            case {"do": "stop", "kind": kind, "text": str(text)}:
                return Halt(Stop(kind), text)
            case {"do": str(name)} if name in _PLAIN:
                return _PLAIN[name]
        return Unknown(str(message)[:_QUOTED])
    except Exception as error:  # noqa: BLE001 - there is no limit to what a message may hold
        return Unknown(str(error))


@dataclasses.dataclass(frozen=True)
class Opening:
    """The first message to the executor: the robot to open.

    Attributes:
        robot: registered name.
        config: table ``[robot]`` of its configuration.
        black_box: file for the executor's log.
        table_z: height of the table over the world's origin [m].
        realtime: ask for a real-time priority.
    """

    robot: str
    config: Mapping[str, Any]
    black_box: Path
    table_z: float
    realtime: bool

    def to_message(self) -> dict[str, Any]:
        """Return a map for `robotest.runtime.wire`."""
        return {**vars(self), "config": dict(self.config), "black_box": str(self.black_box.absolute())}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Opening:
        """Inverse of `to_message`."""
        return cls(**{**message, "black_box": Path(message["black_box"])})


@dataclasses.dataclass(frozen=True)
class Greeting:
    """The executor's answer once the robot is open.

    Attributes:
        realtime: whether the executor got a real-time priority.
        capabilities: of the robot's driver.
    """

    realtime: bool
    capabilities: Capabilities

    def to_message(self) -> dict[str, Any]:
        """Return a map for `robotest.runtime.wire`."""
        return {"realtime": self.realtime, "capabilities": vars(self.capabilities)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Greeting:
        """Inverse of `to_message`; `RobotError` if it is a `refusal`."""
        if "error" in message:
            raise RobotError(message["error"])
        return cls(message["realtime"], Capabilities(**message["capabilities"]))


def refusal(text: str) -> dict[str, Any]:
    """Return the executor's answer if the robot cannot be opened."""
    return {"error": text}
