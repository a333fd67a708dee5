"""Tables of ``robot.toml`` to dataclasses."""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from robotest.errors import RobotestError, UnknownNameError

T = TypeVar("T")


def from_table(kind: type[T], table: Mapping[str, Any], name: str) -> T:
    """Return a dataclass with the values of a table.

    Args:
        kind: the dataclass.
        table: as TOML reads it.
        name: of the table, for messages.

    Raises:
        UnknownNameError: a key is not a field of `kind`.
        RobotestError: a value has the wrong type, or a key is missing.
    """
    hints = typing.get_type_hints(kind)
    required = [f.name for f in dataclasses.fields(kind) if _is_required(f)]  # type: ignore[arg-type]
    for key in required:
        if key not in table:
            raise RobotestError(f"[{name}] in robot.toml lacks {key}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    for key, value in values.items():
        if key not in hints:
            raise UnknownNameError(f"key of [{name}] in robot.toml" if name else "table in robot.toml", key, hints)
        if not _fits(value, hints[key]):
            where = f"{name}.{key}" if name else key
            raise RobotestError(f"{where} = {table[key]!r} in robot.toml; {_words(hints[key])} is needed")
    return kind(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fits(value: object, hint: Any) -> bool:
    """Whether a TOML value is of a type: plain, a tuple of plain ones, a table, or a union of those."""
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
    return {str: "text", int: "an integer", float: "a number"}.get(hint, str(hint))
