"""``robot.toml``: a robot, its cameras and its tasks."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from robotest.errors import RobotestError
from robotest.hardware.cameras.config import camera_from
from robotest.hardware.deployment.supervisor import RealTask
from robotest.hardware.tables import from_table

SIMULATED: Final = {"hosts": ["127.0.0.11", "127.0.0.12"]}
BENCH: Final = ("127.0.0.1", 8090)


@dataclasses.dataclass(frozen=True)
class Rig:
    """A robot, its cameras and its tasks.

    Attributes:
        robot: registered name.
        robot_config: table ``[robot]``.
        cameras: tables ``[cameras.NAME]``, by the policy's names.
        tasks: tables ``[tasks.NAME]``.
        table_z: height of the table over the world's origin [m].
        bench: address of the simulated controllers' bench; None: the robot is real.
    """

    robot: str
    robot_config: Mapping[str, Any]
    cameras: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    tasks: Mapping[str, RealTask] = dataclasses.field(default_factory=dict)
    table_z: float = 0.0
    bench: tuple[str, int] | None = None

    @classmethod
    def read(cls, robot: str, path: Path) -> Rig:
        """Read ``robot.toml``.

        Raises:
            RobotestError: it cannot be read, is not TOML, or has an unknown key or an invalid value.
        """
        try:
            data = _toml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RobotestError(f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise RobotestError(f"{path} is not TOML: {error}") from error
        tables = from_table(_Tables, data, "")
        for name, table in (*tables.cameras.items(), *tables.tasks.items()):
            if not isinstance(table, Mapping):
                raise RobotestError(f"{name} = {table!r} in {path}; a table is needed")
        tasks = {name: from_table(RealTask, table, f"tasks.{name}") for name, table in tables.tasks.items()}
        if not tasks:
            raise RobotestError(f"{path} names no task; add e.g. [tasks.fold_towel] with instruction = '...'")
        for name, table in tables.cameras.items():
            camera_from(table, name)  # reports errors in the table now
        return cls(robot, tables.robot, tables.cameras, tasks, from_table(_Table, tables.table, "table").z)

    @classmethod
    def simulated(cls, robot: str) -> Rig:
        """The rig of `robotest simulate-robot` on this machine."""
        return cls(robot, SIMULATED, bench=BENCH)


@dataclasses.dataclass(frozen=True)
class _Tables:
    """The tables of a ``robot.toml``."""

    robot: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cameras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tasks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    table: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Table:
    """The table ``[table]``."""

    z: float = 0.0


def _toml(text: str) -> dict[str, Any]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        tomllib = importlib.import_module(name)
    except ImportError as error:
        raise RobotestError(f"{name} is missing; install it with: pip install {name}") from error
    data: dict[str, Any] = tomllib.loads(text)
    return data
