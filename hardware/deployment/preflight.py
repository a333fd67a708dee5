"""Checks with powered arms before the first episode."""

from __future__ import annotations

import statistics
from typing import Final

import numpy as np

from robotest.hardware.deployment.arms import ExecutorArms
from robotest.hardware.deployment.env import RobotEnv
from robotest.hardware.robot import RobotError
from robotest.runtime.runner import EpisodeJob
from robotest.runtime.selector import Selector
from robotest.types import Clock

_OPENINGS: Final = (0.7, 1.0)
_GRIPPER_TOLERANCE: Final = 0.15
_DECISIONS: Final = 10


def preflight(env: RobotEnv, arms: ExecutorArms, selector: Selector, job: EpisodeJob, clock: Clock) -> str:
    """Home the arms, move the grippers, look through the cameras, time the decisions; return the results in one line.

    Raises:
        RobotError: a gripper does not move, or decisions are too slow.
        CameraError: a camera gives no fresh pictures.
    """
    env.reset(job.seeds.reset, job.seeds.episode)
    _check_grippers(arms)
    times = _decision_times(env, selector, job, clock)
    median, duration = statistics.median(times), job.execute * env.spec.control_dt
    if median > duration:
        raise RobotError(
            f"a decision takes {median:.2f} s and its chunk {duration:.2f} s; the arms would stand still most of the"
            " time. Use fewer candidates, or execute more actions of each chunk"
        )
    return (
        f"preflight: {len(env.spec.cameras)} cameras live, grippers move, a decision takes"
        f" {1000 * median:.0f} ms (at most {1000 * max(times):.0f}) for {1000 * duration:.0f} ms"
    )


def _check_grippers(arms: ExecutorArms) -> None:
    for opening in _OPENINGS:
        measured = arms.move_grippers(np.full(2, opening))
        if np.abs(measured - opening).max() > _GRIPPER_TOLERANCE:
            raise RobotError(f"the grippers were sent to {opening:g} and are at {measured.round(2).tolist()}")


def _decision_times(env: RobotEnv, selector: Selector, job: EpisodeJob, clock: Clock) -> list[float]:
    times = []
    for number in range(_DECISIONS):
        observation = env.observe()
        start = clock.now()
        selector.decide([job.request(number, observation)])
        times.append(clock.now() - start)
        clock.sleep_until(start + env.spec.control_dt)
    return times
