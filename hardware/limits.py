"""A robot's configuration: tables of a TOML file to dataclasses, and the limits that hold if nothing is said."""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import numpy as np

from robotest.embodiment import rm75
from robotest.errors import RobotestError, UnknownNameError
from robotest.hardware.robot import Limits

T = TypeVar("T")
LIMIT_MARGIN_RAD: Final = 0.01
"""Kept from the mechanical limits, so that the controller's own never ends a motion."""
_FASTEST = np.minimum(rm75.JOINT_SPEED_RAD_S, np.deg2rad(180.0))  # frames beyond 180 deg/s are ignored by controllers


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
"""Two RM75s at their table. What a configuration says may only narrow them."""


def arm_limits(changes: Mapping[str, Any]) -> Limits:
    """Return `DEFAULT_LIMITS` narrowed by a table ``[robot.limits]``.

    Raises:
        UnknownNameError: no such limit.
        RobotestError: a value of the wrong shape, not finite, or wider than the default.
    """
    limits: dict[str, Any] = {f.name: getattr(DEFAULT_LIMITS, f.name) for f in dataclasses.fields(Limits)}
    for name, value in changes.items():
        if name not in limits:
            raise UnknownNameError("limit in robot.toml", name, limits)
        default = limits[name]
        try:
            given = np.broadcast_to(np.asarray(value, np.float64), np.shape(default)) + 0.0
        except (TypeError, ValueError) as error:
            raise RobotestError(
                f"limit {name} = {value!r}: a number or {np.shape(default)} numbers are needed"
            ) from error
        wider = given < default if name.endswith("_low") else given > default
        if not np.isfinite(given).all() or wider.any():
            raise RobotestError(f"limit {name} = {value!r} is wider than {np.asarray(default).tolist()}; narrow it")
        if not name.endswith(("_low", "_high")) and not np.all(given > 0):
            raise RobotestError(f"limit {name} = {value!r}; more than 0 is needed")
        limits[name] = given if np.ndim(default) else float(given)
    for what in ("joint", "workspace"):
        if not np.all(limits[f"{what}_low"] < limits[f"{what}_high"]):
            raise RobotestError(f"limits {what}_low and {what}_high leave nothing between them")
    return Limits(**limits)


def from_table(kind: type[T], table: Mapping[str, Any], name: str) -> T:
    """Return a dataclass of what a table says.

    Raises:
        UnknownNameError: it has a key that `kind` has not.
        RobotestError: a value of another type, or a key that is missing.
    """
    hints = typing.get_type_hints(kind)
    required = [f.name for f in dataclasses.fields(kind) if _is_required(f)]  # type: ignore[arg-type]
    for key in required:
        if key not in table:
            raise RobotestError(f"[{name}] in robot.toml lacks {key}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    for key, value in given.items():
        if key not in hints:
            raise UnknownNameError(f"key of [{name}] in robot.toml" if name else "table in robot.toml", key, hints)
        if not _fits(value, hints[key]):
            where = f"{name}.{key}" if name else key
            raise RobotestError(f"{where} = {table[key]!r} in robot.toml; {_words(hints[key])} is needed")
    return kind(**given)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of a TOML file is of a type: a plain one, a tuple of such, a table, or a union of those."""
    parts = typing.get_args(hint)
    match typing.get_origin(hint):
        case builtins.tuple:
            return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
        case collections.abc.Mapping:
            return isinstance(value, Mapping)
        case typing.Union | types.UnionType:
            return any(_fits(value, part) for part in parts)
    return type(value) is hint or (hint is float and type(value) is int)


def _words(hint: Any) -> str:
    parts = typing.get_args(hint)
    match typing.get_origin(hint):
        case builtins.tuple:
            return f"a list of {len(parts)}, each {_words(parts[0])}"
        case collections.abc.Mapping:
            return "a table"
        case typing.Union | types.UnionType:
            return " or ".join(_words(part) for part in parts if part is not type(None))
    return {str: "text", int: "a whole number", float: "a number"}.get(hint, str(hint))
