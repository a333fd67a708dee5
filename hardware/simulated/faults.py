"""Faults of the simulated controllers: their names and arguments, and everything they do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, runtime_checkable

from robotest.embodiment import rm75
from robotest.hardware.robot import RobotError
from robotest.hardware.simulated.controller import Controller
from robotest.hardware.simulated.joints import ERROR_COLLISION, JOINT_ERROR_POSITION


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that can be injected.

    Attributes:
        description: one line.
        arguments: names and defaults; a value must be of its default's type.
    """

    description: str
    arguments: Mapping[str, float | int | str | bool] = dataclasses.field(default_factory=dict)


FAULTS: Final[Mapping[str, Fault]] = {
    "tcp_close": Fault("every connection is closed; with `refuse` new ones are refused", {"refuse": False}),
    "tcp_reset": Fault("every connection is reset (RST); with `refuse` new ones are refused", {"refuse": False}),
    "tcp_half_open": Fault("connections stay open, nothing is read or answered"),
    "tcp_slow": Fault("replies come late by `delay_s`", {"delay_s": 0.2}),
    "tcp_split": Fault("replies come byte by byte, `gap_s` apart", {"gap_s": 0.0005}),
    "tcp_merge": Fault("replies are held back and sent together every `hold_s`", {"hold_s": 0.1}),
    "udp_stop": Fault("no state is pushed"),
    "udp_reorder": Fault("every second state overtakes the one before it"),
    "udp_duplicate": Fault("every state comes twice"),
    "udp_frozen": Fault("states keep coming, their values do not change"),
    "udp_garbage": Fault("every `every`-th state is cut off or not JSON", {"every": 1}),
    "error_code": Fault("a system error, 0x100D (collision) unless `code` says otherwise", {"code": ERROR_COLLISION}),
    "joint_error": Fault("an error of one joint, which loses its power", {"joint": 1, "code": JOINT_ERROR_POSITION}),
    "current_spike": Fault("one joint reports a current", {"joint": 1, "ampere": 12.0}),
    "over_temperature": Fault("one joint reports a temperature", {"joint": 1, "celsius": 95.0}),
    "estop": Fault("the emergency stop is pressed: no power, status `stop`, commands are ignored"),
    "joint_disabled": Fault("one joint loses its power, a system error", {"joint": 1}),
    "freeze": Fault("the controller hangs: it reads, answers and pushes nothing"),
}
"""Faults by name. They last until ``clear``; errors may also be cleared by the client, where a controller allows it."""


def fault_arguments(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fault's arguments, completed by the defaults.

    Raises:
        RobotError: the fault has no such argument, or a value is of another type or out of range.
    """
    known = FAULTS[name].arguments
    for key, value in values.items():
        if key not in known:
            raise RobotError(f"fault {name} has no {key!r}; it takes {', '.join(known) or 'nothing'}")
        kind = type(known[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is not bool and not 0 < value < 1e6) or (key == "joint" and value > rm75.N_JOINTS):
            raise RobotError(f"fault {name}: {key}={value!r} is not of the type of {known[key]!r}, or out of range")
    return {**known, **values}


@runtime_checkable
class Connections(Protocol):
    """The TCP connections of one arm."""

    def listen(self) -> None:
        """Accept connections."""
        ...

    def refuse(self) -> None:
        """Accept no more connections."""
        ...

    def hang_up(self, *, reset: bool) -> None:
        """Close every connection, with RST if `reset`."""
        ...

    def pause(self, *, paused: bool) -> None:
        """Stop reading, or go on."""
        ...


class ActiveFaults:
    """The active faults of one arm.

    Args:
        controller: the arm's.
        connections: the arm's.
    """

    def __init__(self, controller: Controller, connections: Connections) -> None:
        self._controller, self._connections = controller, connections
        self._active: dict[str, dict[str, Any]] = {}
        self._held = self._frozen_state = b""
        self._pushes = 0

    @property
    def names(self) -> list[str]:
        """Names of the active faults, sorted."""
        return sorted(self._active)

    @property
    def frozen(self) -> bool:
        """Whether the controller hangs."""
        return "freeze" in self._active

    @property
    def deaf(self) -> bool:
        """Whether nothing is read or answered."""
        return self.frozen or "tcp_half_open" in self._active

    def begin(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Let a fault begin; its arguments are those of `fault_arguments`."""
        self._active[name] = dict(arguments)
        joints, reported = self._controller.joints, self._controller.reported
        joint, code = arguments.get("joint", 1), arguments.get("code", 0)
        match name:
            case "tcp_close" | "tcp_reset":
                if arguments["refuse"]:
                    self._connections.refuse()
                self._connections.hang_up(reset=name == "tcp_reset")
            case "tcp_half_open" | "freeze":
                self._connections.pause(paused=True)
            case "udp_frozen":
                self._frozen_state = self._controller.state()
            case "error_code":
                joints.fail(code)
            case "joint_error":
                joints.fail_joint(joint, code)
            case "joint_disabled":
                joints.drop_joint(joint)
            case "current_spike":
                reported["joint_current"] = {joint - 1: round(1e6 * arguments["ampere"])}
            case "over_temperature":
                reported["joint_temperature"] = {joint - 1: round(1000 * arguments["celsius"])}
            case "estop":
                joints.press_stop(pressed=True)

    def clear(self) -> None:
        """End all faults."""
        self._active.clear()
        self._held = self._frozen_state = b""
        self._controller.recover()
        self._connections.listen()
        self._connections.pause(paused=False)

    def replies(self, reply: bytes, now: float) -> Iterator[tuple[bytes, float]]:
        """Yield the pieces in which a reply leaves, and when [s]."""
        due = now + self._active["tcp_slow"]["delay_s"] if "tcp_slow" in self._active else now
        if "tcp_merge" in self._active:
            hold = self._active["tcp_merge"]["hold_s"]
            due = max(due, (now // hold + 1) * hold)
        if "tcp_split" in self._active:
            gap = self._active["tcp_split"]["gap_s"]
            yield from ((reply[i : i + 1], due + i * gap) for i in range(len(reply)))
        else:
            yield reply, due

    def states(self) -> list[bytes]:
        """Return the state messages to push now."""
        if self.frozen or "udp_stop" in self._active:
            return []
        self._pushes += 1
        packet = self._frozen_state or self._controller.state()
        if "udp_garbage" in self._active and self._pushes % self._active["udp_garbage"]["every"] == 0:
            packet = packet[: len(packet) // 2] if self._pushes % 2 else b"\xff\x00 not a state"
        packets = [packet]
        if "udp_reorder" in self._active:
            packets, self._held = ([packet, self._held], b"") if self._held else ([], packet)
        return packets * 2 if "udp_duplicate" in self._active else packets
