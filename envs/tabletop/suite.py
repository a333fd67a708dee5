"""`tabletop`: pick-and-place by instruction, in LIBERO's four families, with only the assets of robosuite's wheel.

The setting defines the starts: with ``fixed`` episode k starts from stored start k modulo 50, as in LIBERO's
evaluation; with ``sampled`` the seed draws the start, for demonstrations.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from robotest.envs.options import require_known
from robotest.envs.physics import SIMULATOR
from robotest.envs.robosuite.env import RobosuiteEnv, worded
from robotest.envs.robosuite.world import CONTROL_HZ, NO_ACTION, action_layout, state_layout
from robotest.envs.tabletop.tasks import TASKS, Scene
from robotest.randomness import derive, generator
from robotest.specs import EnvSpec
from robotest.types import EnvOptions

CAMERAS: Final = ("agentview", "robot0_eye_in_hand")
FIXED: Final = "fixed"
N_STARTS: Final = 50
STARTS: Final = Path(__file__).parents[1] / "assets" / "tabletop.npz"
"""Task -> `Scene.start` of each of its fixed starts; written by `write_starts`."""
_SETTLE_STEPS = 2


class TabletopEnv(RobosuiteEnv):
    """One task.

    Args:
        task: a key of `TASKS`.
        options: see `EnvOptions`.
    """

    def __init__(self, task: str, options: EnvOptions) -> None:
        from robotest.envs.tabletop.scene import (
            TabletopWorld,
        )  # imported here, so that the suite can be listed without robosuite

        self.task: Final = TASKS[task]
        self._options = options
        self.table: Final = TabletopWorld(self.task.scene)
        cameras = CAMERAS if options.cameras is None else options.cameras
        spec = EnvSpec(
            name="tabletop",
            task=task,
            setting=options.setting,
            action=action_layout(1),
            state=state_layout(1),
            cameras=dict.fromkeys(cameras, (options.image_size, options.image_size)),
            control_dt=1 / CONTROL_HZ,
            max_steps=self.task.max_steps,
            simulator=SIMULATOR,
        )
        super().__init__(self.table, spec)

    def reset(self, seed: int, episode: int = 0) -> None:
        """Start an episode: from a fixed start, or one drawn from `seed`; `seed` always draws the wording."""
        fixed = self._options.setting == FIXED
        start = _fixed_starts()[self.task.name][episode % N_STARTS] if fixed else _draw(self.task.scene, seed)
        self.table.reset(seed)
        self.table.place(start)
        for _ in range(_SETTLE_STEPS):
            self.table.step(NO_ACTION)
        self._begin(worded(self.task.seen, self.task.unseen, self._options.wording, seed))

    def _step(self, action: Float64[np.ndarray, " A"]) -> bool:
        self.table.step(action)
        return all(self.table.reached(goal) for goal in self.task.goals)


def make_starts() -> dict[str, Float64[np.ndarray, "50 things 3"]]:
    """Draw the fixed starts of every task."""
    return {
        name: np.stack([_draw(task.scene, derive("tabletop", name, k)) for k in range(N_STARTS)])
        for name, task in TASKS.items()
    }


def write_starts(path: Path = STARTS) -> None:
    """Store `make_starts`. Other starts would be another benchmark, not comparable with earlier evaluations."""
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, **make_starts())


@cache
def _fixed_starts() -> dict[str, Float64[np.ndarray, "50 things 3"]]:
    with np.load(STARTS, allow_pickle=False) as stored:
        return {task: stored[task] for task in TASKS}


def _draw(scene: Scene, seed: int) -> Float64[np.ndarray, "things 3"]:
    return scene.start(generator(derive(seed, "start")))


@dataclasses.dataclass(frozen=True)
class TabletopSuite:
    """All tasks."""

    name: str = "tabletop"
    tasks: tuple[str, ...] = tuple(TASKS)
    settings: tuple[str, ...] = (FIXED, "sampled")
    action_modes: tuple[str, ...] = (action_layout(1).mode,)

    def make(self, task: str, options: EnvOptions) -> TabletopEnv:
        """Build one task's environment; `RobotestError` if robosuite is not installed."""
        require_known(self, task, options, CAMERAS)
        return TabletopEnv(task, options)


suite: Final = TabletopSuite()
