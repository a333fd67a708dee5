"""A policy beside the arms: it decides on what they see, nothing is sent, what it would have done is written down."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float32, Float64

from robotest.embodiment.collision import Twin
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.errors import RobotestError
from robotest.hardware.control.governor import Governor, JointTrajectory
from robotest.hardware.control.process import TICK_S
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.limits import arm_limits
from robotest.types import Clock


class ShadowEnv(RobotEnv):
    """A `RobotEnv` that only looks. Somebody else may move the arms meanwhile, e.g. a person who teaches.

    Args:
        log: gets a line of JSON for every chunk and every step.
        limits: table ``[robot.limits]``.
        clock: as the environment's.
        resolution: of the wire [rad].
        table_z: as the environment's [m].
        environment: the other arguments of `RobotEnv`.
    """

    def __init__(
        self,
        log: TextIO,
        limits: Mapping[str, Any],
        clock: Clock,
        resolution: float,
        table_z: float,
        **environment: Any,
    ) -> None:
        super().__init__(clock=clock, table_z=table_z, **environment)
        self._log, self._time = log, clock
        self._governor = Governor(arm_limits(limits), Twin(table_z), TICK_S, resolution)
        self._waypoints: Float64[np.ndarray, "H 2 7"] = np.zeros((0, 2, 7))
        self._began = 0.0

    def home(self) -> None:
        """Nothing: the arms are not ours to move."""

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Say what would have been done from where the arms are now, whoever brought them there."""
        self._commands.start(self._kinematics.tips(self._from(self._client.status)))
        super().begin_chunk(actions)

    def stop(self) -> None:
        """Nothing moves because of us."""

    def _from(self, status: Mapping[str, Any]) -> Float64[np.ndarray, "2 7"]:
        joints: Float64[np.ndarray, "2 7"] = status["joints"]
        return joints

    def _follow(self, joints: Float64[np.ndarray, "H 2 7"], openings: Float64[np.ndarray, "H 2"]) -> None:
        self._number += 1
        self._in_chunk, self._waypoints, self._began = 0, joints, self._time.now()
        told: dict[str, Any] = {"chunk": self._number, "steps": len(joints)}
        status = self._client.status
        try:
            self._governor.start_at(status["joints"], status["openings"])
            told["notes"] = self._governor.admit(
                JointTrajectory(self._number, joints, openings, CONTROL_DT, self._observed), self._began
            )
        except RobotestError as error:
            told["rejected"] = str(error)
        self._write(told)

    def _wait(self, k: int) -> None:
        self._time.sleep_until(self._began + (k + 1) * CONTROL_DT)
        away = np.abs(self._waypoints[k] - self._client.status["joints"])
        self._write(
            {"chunk": self._number, "step": k, "difference_rad": [_measured(float(d)) for d in away.max(axis=1)]}
        )

    def _write(self, told: Mapping[str, Any]) -> None:
        self._log.write(json.dumps({"time": self._time.now(), **told}, allow_nan=False) + "\n")


def _measured(difference: float) -> float | None:
    """Return what JSON has a number for; an arm whose state is not finite is measured nowhere."""
    return round(difference, 5) if math.isfinite(difference) else None


def summary(path: Path) -> dict[str, float]:
    """Return what a log says: chunks, how many would have been rejected, and differences by percentile [rad]."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chunks = [line for line in lines if "steps" in line]
    measured = [[d for d in line.get("difference_rad", ()) if d is not None] for line in lines]
    away = [max(differences) for differences in measured if differences]
    return {
        "chunks": len(chunks),
        "rejected": sum("rejected" in line for line in chunks),
        **{f"difference_p{p}_rad": round(float(np.percentile(away, p)), 4) for p in (50, 99) if away},
    }
