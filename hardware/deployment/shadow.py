"""Shadow mode: the policy decides on what the arms see, nothing is sent, and its chunks are logged."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float64

from robotest.embodiment.actions import ArmCommands
from robotest.embodiment.kinematics import DualArmKinematics
from robotest.envs.dual_arm.world import CONTROL_DT
from robotest.errors import RobotestError
from robotest.hardware.control.client import ExecutorClient
from robotest.hardware.control.governor import Governor, JointTrajectory
from robotest.types import Clock


@dataclasses.dataclass(frozen=True)
class ChunkLine:
    """A line of the log: a chunk that would have been sent.

    Attributes:
        time: [s].
        chunk: its number.
        steps: in it.
        notes: what the governor would have clipped; None if it rejects the chunk.
        rejected: why; None if it does not.
    """

    time: float
    chunk: int
    steps: int
    notes: list[str] | None = None
    rejected: str | None = None


@dataclasses.dataclass(frozen=True)
class StepLine:
    """A line of the log: where the arms are at the end of a step.

    Attributes:
        time: [s].
        chunk: number of the chunk.
        step: of it, counted from 0.
        difference_rad: largest distance of a joint of each arm from the chunk [rad]; None if it is not finite, for
            which JSON has no number.
    """

    time: float
    chunk: int
    step: int
    difference_rad: tuple[float | None, ...]


class ShadowArms:
    """Arms that others may move, e.g. a person who teaches. Implements `robotest.hardware.deployment.arms.Arms`.

    Args:
        client: of the executor, for the state of the arms.
        governor: judges the chunks.
        log: gets a line of JSON for every chunk and every step.
        clock: the executor's.
    """

    def __init__(self, client: ExecutorClient, governor: Governor, log: TextIO, clock: Clock) -> None:
        self._client, self._governor, self._log, self._clock = client, governor, log, clock
        self._kinematics = DualArmKinematics()
        self._number = 0
        self._waypoints: Float64[np.ndarray, "H 2 7"] = np.zeros((0, 2, 7))
        self._began = 0.0

    def home(self) -> None:
        """Do nothing."""

    def anchor(self, commands: ArmCommands) -> Float64[np.ndarray, "2 7"]:
        """Start every chunk from where the arms are measured to be."""
        joints = self._client.require_well().require_measured().joints
        commands.start(self._kinematics.tips(joints))
        return joints

    def follow(
        self, joints: Float64[np.ndarray, "H 2 7"], openings: Float64[np.ndarray, "H 2"], observed: float
    ) -> None:
        """Log what the governor would have made of a chunk."""
        self._number += 1
        self._waypoints, self._began = joints, self._clock.now()
        chunk = JointTrajectory(self._number, joints, openings, CONTROL_DT, observed)
        measured = self._client.status.require_measured()
        notes, rejected = None, None
        try:
            self._governor.start_at(measured.joints, measured.openings)
            notes = self._governor.admit(chunk, self._began)
        except RobotestError as error:
            rejected = str(error)
        self._write(ChunkLine(self._clock.now(), self._number, len(joints), notes, rejected))

    def wait(self, step: int) -> None:
        """Wait until the step would have ended, and log where the arms are."""
        self._clock.sleep_until(self._began + (step + 1) * CONTROL_DT)
        differences = np.abs(self._waypoints[step] - self._client.status.require_measured().joints).max(axis=1)
        rounded = tuple(round(d, 5) if math.isfinite(d) else None for d in differences.tolist())
        self._write(StepLine(self._clock.now(), self._number, step, rounded))

    def hold(self) -> None:
        """Do nothing."""

    def _write(self, line: ChunkLine | StepLine) -> None:
        fields: dict[str, Any] = {name: value for name, value in vars(line).items() if value is not None}
        self._log.write(json.dumps(fields, allow_nan=False) + "\n")


def summary(path: Path) -> dict[str, float]:
    """Return counts of chunks and of rejected ones in a log, and percentiles of the differences [rad]."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chunks = [line for line in lines if "steps" in line]
    per_step = [[d for d in line.get("difference_rad", ()) if d is not None] for line in lines]
    worst = [max(differences) for differences in per_step if differences]
    return {
        "chunks": len(chunks),
        "rejected": sum("rejected" in line for line in chunks),
        **{f"difference_p{p}_rad": round(float(np.percentile(worst, p)), 4) for p in (50, 99) if worst},
    }
