"""Limits of the arms: the defaults, and how ``robot.toml`` narrows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from robotest.embodiment import rm75
from robotest.errors import RobotestError, UnknownNameError
from robotest.hardware.robot import Limits

LIMIT_MARGIN_RAD: Final = 0.01
"""Distance from the mechanical limits, so that the controller's own limits never end a motion."""
_FASTEST = np.minimum(rm75.JOINT_SPEED_RAD_S, np.deg2rad(180.0))  # controllers ignore frames beyond 180 deg/s


def _per_joint(value: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.stack([np.broadcast_to(np.asarray(value, np.float64), 7)] * 2)


DEFAULT_LIMITS: Final = Limits(
    joint_low=_per_joint(-rm75.JOINT_LIMIT_RAD + LIMIT_MARGIN_RAD),
    joint_high=_per_joint(rm75.JOINT_LIMIT_RAD - LIMIT_MARGIN_RAD),
    speed=_per_joint(_FASTEST),
    acceleration=_per_joint(np.deg2rad(600.0)),
    workspace_low=np.array([-0.47, -0.22, 0.0]),
    workspace_high=np.array([0.47, 0.30, 0.45]),
    opening_speed=4.0,
    current=8.0,
    temperature=70.0,
)
"""Two RM75s at their table. A configuration may only narrow them."""


def arm_limits(changes: Mapping[str, Any]) -> Limits:
    """Return `DEFAULT_LIMITS` narrowed by a table ``[robot.limits]``.

    Raises:
        UnknownNameError: there is no such limit.
        RobotestError: a value has the wrong shape, is not finite, or is wider than the default.
    """
    limits: dict[str, Any] = {f.name: getattr(DEFAULT_LIMITS, f.name) for f in dataclasses.fields(Limits)}
    for name, value in changes.items():
        if name not in limits:
            raise UnknownNameError("limit in robot.toml", name, limits)
        default = limits[name]
        try:
            limit = np.broadcast_to(np.asarray(value, np.float64), np.shape(default)) + 0.0
        except (TypeError, ValueError) as error:
            raise RobotestError(
                f"limit {name} = {value!r}: a number or {np.shape(default)} numbers are needed"
            ) from error
        wider = limit < default if name.endswith("_low") else limit > default
        if not np.isfinite(limit).all() or wider.any():
            raise RobotestError(f"limit {name} = {value!r} is wider than {np.asarray(default).tolist()}; narrow it")
        if not name.endswith(("_low", "_high")) and not np.all(limit > 0):
            raise RobotestError(f"limit {name} = {value!r}; more than 0 is needed")
        limits[name] = limit if np.ndim(default) else float(limit)
    for kind in ("joint", "workspace"):
        if not np.all(limits[f"{kind}_low"] < limits[f"{kind}_high"]):
            raise RobotestError(f"limits {kind}_low and {kind}_high leave nothing between them")
    return Limits(**limits)
