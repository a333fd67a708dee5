"""``robot.toml``: a robot, its cameras and its tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from robotest import toml
from robotest.errors import RobotestError
from robotest.hardware.cameras.config import camera_from
from robotest.hardware.deployment.supervisor import RealTask

FILE: Final = "robot.toml"
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
        tables = toml.from_table(_Tables, toml.read(path), "", FILE)
        for name, table in (*tables.cameras.items(), *tables.tasks.items()):
            if not isinstance(table, Mapping):
                raise RobotestError(f"{name} = {table!r} in {path}; a table is needed")
        tasks = {name: toml.from_table(RealTask, table, f"tasks.{name}", FILE) for name, table in tables.tasks.items()}
        if not tasks:
            raise RobotestError(f"{path} names no task; add e.g. [tasks.fold_towel] with instruction = '...'")
        for name, table in tables.cameras.items():
            camera_from(table, name)  # reports errors in the table now
        return cls(robot, tables.robot, tables.cameras, tasks, toml.from_table(_Table, tables.table, "table", FILE).z)

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
