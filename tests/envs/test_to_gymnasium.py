"""The built-in tasks pass gymnasium's own checker, found by its plugin mechanism."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from robotest.envs.dual_arm.suite import suite
from robotest.envs.dual_arm.tasks import TASKS as TASKS_BY_NAME
from robotest.envs.to_gymnasium import TASKS


def test_an_id_can_name_the_module_that_registers_it() -> None:
    gymnasium.make("robotest.envs.to_gymnasium:robotest/lift_tray-v0").close()


def test_every_task_of_the_suite_is_registered() -> None:
    assert tuple(suite.tasks) == TASKS
    assert {f"robotest/{t}-v0" for t in TASKS} <= set(gymnasium.registry)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_gymnasiums_own_check(task: str) -> None:
    env = gymnasium.make(f"robotest/{task}-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        # It recommends symmetric and finite boxes, which joint positions and states are not.
        warnings.simplefilter("ignore", UserWarning)
        check_env(env.unwrapped)
    env.close()


def test_an_episode_ends_by_truncation_at_the_step_limit() -> None:
    env = gymnasium.make("robotest/lift_tray-v0", action_mode="tip")
    env.reset(seed=3)
    still = np.zeros(env.action_space.shape or (), np.float32)
    limit = TASKS_BY_NAME["lift_tray"].max_steps
    for step in range(limit):
        _, reward, terminated, truncated, _ = env.step(still)
        assert not terminated
        assert reward == 0.0
        assert truncated == (step == limit - 1)
    env.close()
