"""The point suite with tasks that break their process in every way; what happened is remembered in files."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from robotest.specs import EnvSpec
from robotest.types import EnvOptions, StepStatus
from tests.doubles.fakes import PointEnv, PointSuite

MEMORY = "FRAGILE_MEMORY"
"""Environment variable that holds the folder of what happened."""
PATIENCE_S = 2.0


class FragileEnv(PointEnv):
    """Breaks in the second chunk, as its task says."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        super().__init__("far", options)
        self._fragile_task = task
        self._seed = 0

    @property
    def spec(self) -> EnvSpec:
        spec = super().spec
        return EnvSpec(**{**vars(spec), "task": self._fragile_task, "patience_s": PATIENCE_S})

    def reset(self, seed: int, episode: int = 0) -> None:
        self._seed = seed
        super().reset(seed)

    def apply(self, action: np.ndarray) -> StepStatus:
        if self._steps == 5:
            self._break()
        if self._fragile_task == "slow":
            time.sleep(0.004)
        return super().apply(action)

    def _break(self) -> None:
        match self._fragile_task:
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "dies_once" if self._first():
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exits":
                print("no licence for this simulator", flush=True)  # noqa: T201 - what simulators do
                os._exit(7)
            case "hangs":
                stuck_for_ever()
            case "raises":
                raise ValueError("the simulation is unstable")

    def _first(self) -> bool:
        mark = Path(os.environ[MEMORY]) / f"{self._fragile_task}-{self._seed}"
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def stuck_for_ever() -> None:
    while True:
        time.sleep(0.01)


class FragileSuite(PointSuite):
    name = "fragile"
    tasks = ("sound", "slow", "raises", "dies_once", "exits", "dies", "hangs")

    def make(self, task: str, options: EnvOptions) -> PointEnv:
        return FragileEnv(task, options)


suite = FragileSuite()
