"""LIBERO's experts succeed, leave demonstrations behind, and can be evaluated like a policy."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from robotest import registry
from robotest.config import EvalConfig
from robotest.demonstrations.collect import demonstrate
from robotest.errors import RobotestError, UnknownNameError
from robotest.evaluation import evaluate
from robotest.experts import experts_of
from robotest.randomness import derive
from robotest.runs import directory
from tests.doubles.simulators import require_libero
from tests.doubles.thorough import some

require_libero()

from robotest.envs.libero.expert import TASKS  # noqa: E402 - after the requirements
from robotest.envs.libero.suite import LiberoEnv  # noqa: E402 - after the requirements


def successes(suite: str, starts: int) -> dict[str, int]:
    name = f"libero/{suite}"
    experts, family = experts_of(name), registry.resolve("env", name)
    found = {}
    for task in some(experts.tasks, 10):
        with closing(family.make(task, dataclasses.replace(experts.options, cameras=()))) as env:
            done = [demonstrate(env, experts, derive("test", task, k), picture=False) for k in range(starts)]
            found[task] = sum(d.info.success for d in done)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "tasks", "starts"), some([("libero_spatial", 4, 1), ("libero_object", 10, 1)], 2))
def test_the_experts_succeed(suite: str, tasks: int, starts: int) -> None:
    found = successes(suite, starts)
    assert tasks == len(TASKS[suite])
    assert len(found) == len(some(range(tasks), 10))
    assert sum(found.values()) >= 0.9 * len(found) * starts, found


@pytest.mark.slow
def test_demonstrations_show_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    # One picture stands for all: a hundred take half a minute, and what they show is tested where they are made.
    monkeypatch.setattr(LiberoEnv, "_picture", functools.cache(LiberoEnv._picture))
    experts, family = experts_of("libero/libero_object:7"), registry.resolve("env", "libero/libero_object:7")
    options = dataclasses.replace(experts.options, cameras=("agentview",), image_size=32)
    with closing(family.make(family.tasks[0], options)) as env:
        shown = demonstrate(env, experts, derive("test", 0))
    assert shown.info.success
    assert shown.info.setting == "sampled"
    assert shown.images["agentview"].shape == (len(shown), 32, 32, 3)
    assert shown.states is not None
    assert len(shown.states) == len(shown)
    assert (np.abs(shown.points) <= 1).all()  # the milk and the basket are in the picture all the time
    assert shown.actions[0, 6] == -1
    assert 1 in shown.actions[:, 6]
    # The milk ends in the basket: both points are nearly the same then, and were not at first.
    first, last = (np.linalg.norm(points[0] - points[1]) for points in (shown.points[0], shown.points[-1]))
    assert last < 0.2 < first


@pytest.mark.slow
def test_the_policy_expert_is_evaluated_on_what_it_knows(tmp_path: Path) -> None:
    config = EvalConfig(tmp_path / "run", env="libero/libero_spatial:2", policy="expert", episodes=1, workers=0)
    summary = evaluate(config)
    assert summary.conditions["first"].overall.successes >= 1
    _, episodes = directory.read(config.directory)
    assert len(episodes) == 1
    assert all(e.decisions == e.steps for e in episodes.values())  # one action at a time


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("libero/libero_10", "no scripted expert; tasks with one: libero_object: 0, 1"),
        ("libero/libero_spatial:9", "no scripted expert"),
        ("gymnasium:CartPole-v1", "has no scripted experts; these have: dual_arm"),
    ],
)
def test_who_has_no_expert_is_told_who_has(env: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RobotestError, match=message):
        evaluate(EvalConfig(tmp_path / "run", env=env, policy="expert", workers=0))


def test_a_task_without_an_expert_is_named(tmp_path: Path) -> None:
    task = registry.resolve("env", "libero/libero_spatial").tasks[9]
    config = EvalConfig(tmp_path / "run", env="libero/libero_spatial", policy="expert", tasks=(task,), workers=0)
    with pytest.raises(UnknownNameError, match="with an expert"):
        evaluate(config)
    with pytest.raises(UnknownNameError, match="style"):
        evaluate(dataclasses.replace(config, tasks=(), policy="expert:sloppy"))
