"""The ``randomized`` setting: table height and colour, light, camera poses, distractors."""

from __future__ import annotations

from typing import Final

import mujoco
import numpy as np

from robotest.envs.dual_arm.world import CAMERAS, N_DISTRACTORS, World

TABLE_HEIGHT_M: Final = 0.02  # up or down
_CAMERA_JITTER_M = 0.01
_CAMERA_JITTER_RAD = np.deg2rad(1.0)


def randomize(world: World, rng: np.random.Generator) -> None:
    """Randomise appearance and table height of `world`; call before the task places its objects."""
    world.raise_table(float(rng.uniform(-TABLE_HEIGHT_M, TABLE_HEIGHT_M)))
    world.paint("table", tuple(rng.uniform((0.45, 0.40, 0.35), (0.85, 0.80, 0.75))))
    world.paint("floor", tuple(rng.uniform(0.35, 0.7, 3)))
    light = world.model.light("sun")
    light.diffuse[:] = rng.uniform(0.1, 0.6)
    light.pos[:2] += rng.uniform(-0.6, 0.6, 2)
    for name in CAMERAS:
        camera = world.model.camera(name)
        camera.pos[:] += rng.uniform(-_CAMERA_JITTER_M, _CAMERA_JITTER_M, 3)
        turn, result = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, rng.standard_normal(3) / np.sqrt(3), rng.uniform(-1, 1) * _CAMERA_JITTER_RAD)
        mujoco.mju_mulQuat(result, camera.quat, turn)
        camera.quat[:] = result
    for i in range(N_DISTRACTORS):
        # Behind the work area: visible to the head camera, out of the arms' way.
        world.place(f"distractor_{i}", (rng.uniform(-0.4, 0.4), rng.uniform(0.17, 0.27), 0.02))
        world.paint(f"distractor_{i}", tuple(rng.uniform(0.1, 0.9, 3)))
