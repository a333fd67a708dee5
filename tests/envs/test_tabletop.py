"""The tabletop suite: contracts, starts, goals, pictures, and experts that succeed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from robotest.demonstrations.collect import demonstrate
from robotest.envs.tabletop.suite import N_STARTS, STARTS, TabletopEnv, make_starts, suite
from robotest.envs.tabletop.tasks import TASKS, Goal
from robotest.errors import RobotestError, UnknownNameError
from robotest.randomness import derive
from robotest.testing import check_env
from robotest.types import EnvOptions
from tests.doubles.fakes import PointEnv
from tests.doubles.simulators import require_robosuite
from tests.doubles.thorough import some

require_robosuite()

from robotest.envs.tabletop.expert import experts  # noqa: E402 - after the skip

FIXED = EnvOptions(setting="fixed", action_mode="osc_pose", image_size=64)
STAY = np.array([0.0] * 6 + [-1.0], np.float32)


@pytest.fixture(scope="module")
def goal() -> Iterator[TabletopEnv]:
    with closing(suite.make("cube_on_block", FIXED)) as env:
        yield env


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "setting"), some(list(zip(suite.tasks, itertools.cycle(suite.settings), strict=False)), 3)
)
def test_conformance(task: str, setting: str) -> None:
    """In one setting each: they differ only in where a start comes from; and every third with pictures."""
    cameras = None if suite.tasks.index(task) % 3 == 0 else ()
    check_env(suite, task, dataclasses.replace(FIXED, setting=setting, cameras=cameras))


def test_stored_starts_are_those_that_are_drawn() -> None:
    made = make_starts()
    with np.load(STARTS, allow_pickle=False) as stored:
        assert set(stored) == set(made) == set(suite.tasks)
        for task, starts in made.items():
            assert starts.shape == (N_STARTS, len(TASKS[task].scene.things), 3)
            np.testing.assert_array_equal(stored[task], starts, task)


@pytest.mark.slow
def test_fixed_starts_are_numbered_and_sampled_ones_drawn(goal: TabletopEnv) -> None:
    def start(env: TabletopEnv, seed: int, episode: int) -> np.ndarray:
        env.reset(seed, episode)
        return env.snapshot()

    np.testing.assert_array_equal(start(goal, 0, 3), start(goal, 9, 3 + N_STARTS))
    assert not np.array_equal(start(goal, 0, 3), start(goal, 0, 4))
    with closing(suite.make("cube_on_block", experts.options)) as sampled:
        np.testing.assert_array_equal(start(sampled, 5, 0), start(sampled, 5, 1))
        assert not np.array_equal(start(sampled, 5, 0), start(sampled, 6, 0))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cube_beside_can", "can_in_basket", "can_on_plate"])
def test_starts_are_at_rest_and_apart(task: str) -> None:
    with closing(suite.make(task, FIXED)) as env:
        for episode in range(5):
            env.reset(0, episode)
            before = env.snapshot()
            for _ in range(10):
                assert not env.apply(STAY).success
            things = slice(2 + 9, 2 + env.world.model.nq)  # after steps taken, time, joints and fingers
            assert np.abs(env.snapshot()[things] - before[things]).max() < 0.005


@pytest.mark.slow
def test_a_goal_is_reached_by_what_lies_there_at_rest(goal: TabletopEnv) -> None:
    table, scene = goal.table, goal.task.scene
    start = make_starts()["cube_on_block"][0]
    row = {thing: scene.things.index(thing) for thing in scene.things}

    def put(thing: str, place: tuple[float, float], target: str, relation: str) -> bool:
        goal.reset(0, 0)
        moved = start.copy()
        moved[row[thing], :2] = moved[row[target], :2] + place
        table.place(moved)
        body = table.model.body(f"{thing}_main")
        height = table.model.jnt_qposadr[body.jntadr[0]] + 2
        table.data.qpos[height] += {"plate": 0.014, "tray": 0.007, "yellow_block": 0.055}[target]
        for _ in range(8):
            goal.apply(STAY)
        return table.reached(Goal("in" if relation == "in" else "on", thing, target))

    assert put("blue_cube", (0.0, 0.0), "yellow_block", "on")
    assert put("can", (0.02, 0.0), "plate", "on")
    assert put("bread", (0.05, 0.0), "tray", "in")
    assert not put("blue_cube", (0.06, 0.0), "yellow_block", "on")
    assert not put("can", (0.12, 0.0), "plate", "on")
    assert not put("bread", (0.0, -0.14), "tray", "in")


@pytest.mark.slow
def test_pictures_are_upright_and_not_mirrored(goal: TabletopEnv) -> None:
    """What the expert points at is where its colour is, and the can is left of the bread, as y has it."""
    goal.reset(0, 0)
    image = goal.observe().images["agentview"]
    (blue, yellow) = np.floor((experts.points(goal) + 1) / 2 * len(image)).astype(int)
    assert image[blue[1], blue[0]].argmax() == 2
    assert image[yellow[1], yellow[0]].argmin() == 2
    assert goal.world.data.body("can_main").xpos[1] < goal.world.data.body("bread_main").xpos[1]


@pytest.mark.slow
def test_words_tell_the_tasks_of_a_scene_apart(goal: TabletopEnv) -> None:
    words = [w for task in TASKS.values() for w in (*task.seen, *task.unseen)]
    assert len(set(words)) == len(words)
    goal.reset(4, 0)
    given = goal.observe().instruction
    assert given in goal.task.seen
    with closing(suite.make("cube_on_block", EnvOptions("fixed", "osc_pose", "unseen", cameras=()))) as env:
        env.reset(4, 0)
        assert env.observe().instruction in env.task.unseen


def test_wrong_names_say_what_there_is() -> None:
    right = {"setting": "fixed", "action_mode": "osc_pose"}
    for task, wrong, message in (
        ("can_in_tray", {}, "task of tabletop 'can_in_tray'.* Known: bread_in_basket, bread_in_tray, can_and"),
        ("can_on_plate", {"setting": "clean"}, "setting of tabletop 'clean'.* Known: fixed, sampled"),
        ("can_on_plate", {"action_mode": "tip"}, "action mode of tabletop 'tip'.* Known: osc_pose"),
        ("can_on_plate", {"cameras": ["head"]}, "camera of tabletop 'head'.* Known: agentview, robot0_eye_in_hand"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            suite.make(task, EnvOptions.from_json({**right, **wrong}))


@pytest.mark.slow
def test_experts_succeed() -> None:
    """With the noise of collection."""
    failed, tried = [], some(suite.tasks, 5)
    for task in tried:
        with closing(suite.make(task, experts.options)) as env:
            info = demonstrate(env, experts, derive("test", task, 0), picture=False).info
        failed += [] if info.success else [task]
    assert len(failed) <= len(tried) // 10, failed


@pytest.mark.slow
@pytest.mark.parametrize("style", sorted(set(experts.mixture) - {"clean"}))
def test_every_style_succeeds(style: str) -> None:
    with closing(suite.make("bread_in_tray", experts.options)) as env:
        assert demonstrate(env, experts, derive("test", style), style, picture=False).info.success


def test_experts_act_nowhere_else() -> None:
    with pytest.raises(RobotestError, match="not in"):
        experts.points(PointEnv("near", EnvOptions()))
