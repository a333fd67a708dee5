"""What can be made to go wrong with simulated controllers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from robotest.embodiment import rm75
from robotest.hardware.robot import RobotError


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that can be made to go wrong.

    Attributes:
        description: one line.
        arguments: names and their defaults; what is given must be of the default's type.
    """

    description: str
    arguments: Mapping[str, float | int | str | bool] = dataclasses.field(default_factory=dict)


FAULTS: Final[Mapping[str, Fault]] = {
    "tcp_close": Fault("every connection is closed; with `refuse` new ones are refused", {"refuse": False}),
    "tcp_reset": Fault("every connection is reset (RST); with `refuse` new ones are refused", {"refuse": False}),
    "tcp_half_open": Fault("connections stay, nothing is read or answered any more"),
    "tcp_slow": Fault("replies come late by `delay_s`", {"delay_s": 0.2}),
    "tcp_split": Fault("replies come byte by byte, `gap_s` apart", {"gap_s": 0.0005}),
    "tcp_merge": Fault("replies are held back and sent together every `hold_s`", {"hold_s": 0.1}),
    "udp_stop": Fault("no state is pushed"),
    "udp_reorder": Fault("every second state overtakes the one before it"),
    "udp_duplicate": Fault("every state comes twice"),
    "udp_frozen": Fault("states keep coming, their values no longer change"),
    "udp_garbage": Fault("every `every`-th state is cut off or no JSON at all", {"every": 1}),
    "error_code": Fault("a system error, 0x100D (collision) unless `code` says otherwise", {"code": 0x100D}),
    "joint_error": Fault("an error of one joint, which loses its power", {"joint": 1, "code": 0x0800}),
    "current_spike": Fault("one joint reports a current", {"joint": 1, "ampere": 12.0}),
    "over_temperature": Fault("one joint reports a temperature", {"joint": 1, "celsius": 95.0}),
    "estop": Fault("the emergency stop is pressed: no power, status `stop`, commands are ignored"),
    "joint_disabled": Fault("one joint loses its power, a system error", {"joint": 1}),
    "freeze": Fault("the controller does nothing at all: it reads nothing, says nothing, pushes nothing"),
}
"""Faults by name. They last until ``clear``; errors may also be cleared by the client, where a controller allows it."""


def fault_arguments(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fault's arguments, what is not given by default.

    Raises:
        RobotError: the fault has no such argument, or it is of another kind or out of range.
    """
    known = FAULTS[name].arguments
    for key, value in given.items():
        if key not in known:
            raise RobotError(f"fault {name} has no {key!r}; it takes {', '.join(known) or 'nothing'}")
        kind = type(known[key])
        fits = type(value) is kind or (kind is float and type(value) is int)
        if not fits or (kind is not bool and not 0 < value < 1e6) or (key == "joint" and value > rm75.N_JOINTS):
            raise RobotError(f"fault {name}: {key}={value!r} is not of the kind of {known[key]!r}, or out of range")
    return {**known, **given}
