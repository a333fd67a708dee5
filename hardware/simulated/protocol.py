"""RealMan's JSON protocol: lines to commands, replies that never change, and where the state is pushed."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Any, Final

from robotest.embodiment import rm75
from robotest.hardware.simulated.joints import LIMIT, SPEED

_MAX_LINE: Final = 65536
_N: Final = rm75.N_JOINTS


def encode(message: object) -> bytes:
    """Return a message as a line for the wire."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\r\n"


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the command of a line, a map whose ``command`` is text; None if it is not one."""
    if len(line) > _MAX_LINE:
        return None
    try:
        command = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: JSON, its encoding, or an integer of thousands of digits
        return None
    return command if isinstance(command, dict) and isinstance(command.get("command"), str) else None


def joint_units(value: object) -> list[int] | None:
    """Return seven joint positions [0.001 deg] as they were sent; None if `value` is something else."""
    if isinstance(value, list) and len(value) == _N and all(type(q) is int for q in value):
        return value
    return None


def integer(value: object) -> int | None:
    """Return an integer; None for anything else, booleans too."""
    return value if type(value) is int else None


@dataclasses.dataclass
class PushConfig:
    """Where and how often the state goes: ``set_realtime_push``.

    Attributes:
        ip: address of the receiver.
        port: UDP port of the receiver.
        cycle: period in units of 5 ms.
        enable: whether it is pushed.
        force_coordinate: frame of the force sensor's values, stored and returned.
        custom: which optional fields the message has.
    """

    ip: str
    port: int = 8089
    cycle: int = 1
    enable: bool = True
    force_coordinate: int = 0
    custom: dict[str, bool] = dataclasses.field(
        default_factory=lambda: {
            "aloha_state": False,
            "expand_state": False,
            "joint_speed": False,
            "lift_state": False,
            "arm_current_status": False,
        }
    )

    def changed(self, command: dict[str, Any]) -> PushConfig | None:
        """Return the configuration after a command; None if the command is malformed."""
        ip, port = command.get("ip", self.ip), integer(command.get("port", self.port))
        cycle, frame = integer(command.get("cycle", self.cycle)), integer(command.get("force_coordinate", 0))
        enable, custom = command.get("enable", self.enable), command.get("custom", {})
        try:
            ipaddress.IPv4Address(ip if isinstance(ip, str) else "")
        except ValueError:
            return None
        if port is None or cycle is None or frame is None:
            return None
        if not isinstance(custom, dict) or not isinstance(enable, bool):
            return None
        if not (1 <= port <= 65535 and 1 <= cycle <= 10_000 and 0 <= frame <= 2):
            return None
        known = {k: bool(custom.get(k, v)) for k, v in self.custom.items()}
        return PushConfig(str(ip), port, cycle, enable, frame, known)


_VERSION: Final = {"build_time": "2024/08/28 18:36:18", "version": "V1.6.1"}
FIXED: Final = {
    reply.pop("for"): encode(reply)
    for reply in (
        {
            "for": "get_arm_software_info",
            "Product_version": "RM75-6F",
            "algorithm_info": {"version": "1.4.4"},
            "command": "arm_software_info",
            "ctrl_info": _VERSION,
            "dynamic_info": {"model_version": "2"},
            "plan_info": _VERSION,
        },
        {"for": "get_current_work_frame", "state": "current_work_frame", "frame_name": "World", "pose": [0] * 6},
        {
            "for": "get_current_tool_frame",
            "state": "current_tool_frame",
            "tool_name": "Arm_Tip",
            "pose": [0] * 6,
            "payload": 0,
            "position": [0, 0, 0],
        },
        {"for": "get_install_pose", "state": "install_pose", "pose": [0, 0, 0]},
        {"for": "get_joint_min_pos", "state": "joint_min_pos", "min_pos": [-q for q in LIMIT]},
        {"for": "get_joint_max_pos", "state": "joint_max_pos", "max_pos": LIMIT},
        {"for": "get_joint_max_acc", "state": "joint_max_acc", "joint_acc": [500_000] * _N},
        {"for": "get_joint_max_speed", "state": "joint_max_speed", "joint_speed": [round(s / 6) for s in SPEED]},
        {
            "for": "get_DH_data",
            "command": "get_DH_data",
            **{
                f"joint_{i + 1}": [round(1000 * alpha), 0, round(1e6 * d), 0]
                for i, (alpha, d) in enumerate(zip(rm75.DH_ALPHA_DEG, rm75.DH_D_M, strict=True))
            },
        },
    )
}
"""Replies that never change, by command."""
