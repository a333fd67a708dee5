"""The built-in suite: contracts, stable physics, and the effects of its settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Literal, get_args

import numpy as np
import pytest

from robotest.embodiment.actions import HOME_TIP
from robotest.envs.dual_arm.suite import ACTIONS, DualArmEnv, suite
from robotest.envs.dual_arm.tasks import TASKS
from robotest.envs.dual_arm.world import COLOURS
from robotest.errors import InvalidActionError, UnknownNameError
from robotest.testing import check_env
from robotest.types import EnvOptions

Wording = Literal["seen", "unseen"]


@pytest.fixture
def env() -> Iterator[DualArmEnv]:
    with closing(suite.make("place_block_pad", EnvOptions())) as made:
        made.reset(0)
        yield made


def hold(env: DualArmEnv, opening: float = 1.0) -> np.ndarray:
    """The ``tip`` action that stays where the chunk started."""
    action = np.zeros(env.spec.action.size, np.float32)
    action[env.spec.action.slice("left_gripper")] = opening
    action[env.spec.action.slice("right_gripper")] = opening
    return action


@pytest.mark.slow
@pytest.mark.parametrize("mode", suite.action_modes)
@pytest.mark.parametrize("setting", suite.settings)
@pytest.mark.parametrize("task", suite.tasks)
def test_conformance(task: str, setting: str, mode: str) -> None:
    check_env(suite, task, EnvOptions(setting=setting, action_mode=mode))


def test_tip_offsets_are_measured_from_the_start_of_the_chunk(env: DualArmEnv) -> None:
    action = hold(env)
    action[env.spec.action.slice("left_tip")] = (0.03, 0.02, -0.04)
    env.begin_chunk(action[None])
    for _ in range(3):  # the same offset again stays where it is: it does not accumulate
        env.apply(action)
    np.testing.assert_allclose(env.world.tip(0), HOME_TIP[0, :3] + (0.03, 0.02, -0.04), atol=2e-3)
    np.testing.assert_allclose(env.world.tip(1), HOME_TIP[1, :3], atol=2e-3)
    env.begin_chunk(action[None])
    for _ in range(3):
        env.apply(action)
    np.testing.assert_allclose(env.world.tip(0), HOME_TIP[0, :3] + (0.06, 0.04, -0.08), atol=2e-3)


def test_joint_mode_goes_to_absolute_joints_no_faster_than_the_arm() -> None:
    with closing(suite.make("lift_tray", EnvOptions(action_mode="joint"))) as env:
        env.reset(0)
        start = env.world.joints()
        goal = start.copy()
        goal[0, 0] += 0.25
        goal[1, 3] -= 0.9  # further than one control step's travel
        action = np.concatenate([np.append(goal[arm], 1.0) for arm in (0, 1)], dtype=np.float32)
        env.apply(action)
        assert abs(env.world.commanded_joints()[1, 3] - start[1, 3]) <= np.deg2rad(225) * 0.1 + 1e-9
        for _ in range(6):
            env.apply(action)
        np.testing.assert_allclose(env.world.joints(), goal, atol=0.01)


def test_fingers_hold_a_block_by_friction_alone(env: DualArmEnv) -> None:
    block = env.scene.roles["object"]
    arm = env.scene.arm
    side = ("left", "right")[arm]
    here = env.world.position(block)

    def go(z: float, opening: float, steps: int) -> None:
        action = hold(env)
        env.begin_chunk(action[None])
        action[env.spec.action.slice(f"{side}_tip")] = np.array([*here[:2], z]) - env.commanded[arm, :3]
        action[env.spec.action.slice(f"{side}_gripper")] = opening
        for _ in range(steps):
            env.apply(action)

    go(0.10, 1.0, 12)
    go(0.02, 1.0, 6)
    go(0.02, 0.0, 5)
    go(0.15, 0.0, 10)
    lifted = env.world.position(block)
    assert lifted[2] == pytest.approx(0.15, abs=0.01)
    go(0.15, 0.0, 40)
    assert abs(env.world.position(block)[2] - lifted[2]) < 0.003, "it creeps out of the fingers"
    go(0.15, 1.0, 10)
    assert env.world.position(block)[2] < 0.05, "opened fingers must drop it"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_and_changes_nothing(env: DualArmEnv, bad: float) -> None:
    action = hold(env)
    action[3] = bad
    before = env.snapshot()
    with pytest.raises(InvalidActionError, match="not finite"):
        env.apply(action)
    np.testing.assert_array_equal(env.snapshot(), before)


def test_what_was_sent_is_within_the_bounds(env: DualArmEnv) -> None:
    sent = env.apply(np.full(env.spec.action.size, 1e9, np.float32)).sent
    np.testing.assert_array_equal(sent, env.spec.action.high)


def test_wordings_do_not_overlap() -> None:
    for task in suite.tasks:
        texts: dict[Wording, set[str]] = {}
        for wording in get_args(Wording):
            with closing(suite.make(task, EnvOptions(wording=wording))) as env:
                texts[wording] = set()
                for seed in range(20):
                    env.reset(seed)
                    texts[wording].add(env.instruction)
        assert not texts["seen"] & texts["unseen"]


def test_randomized_changes_heights_and_colours_but_not_the_start_of_clean() -> None:
    heights, pictures = set(), []
    for setting in ("clean", "randomized"):
        with closing(suite.make("stack_blocks_two", EnvOptions(setting=setting))) as env:
            for seed in (1, 2):
                env.reset(seed)
                heights.add((setting, round(env.world.table_z, 4)))
                pictures.append(env.render("head", 64, 64)[:8].mean())
    assert {h for s, h in heights if s == "clean"} == {0.0}
    assert len({h for s, h in heights if s == "randomized"}) == 2
    assert pictures[0] == pictures[1]
    assert pictures[2] != pictures[3]


def test_a_button_pressed_out_of_order_ends_the_episode_in_failure() -> None:
    with closing(suite.make("push_buttons_in_order", EnvOptions())) as env:
        env.reset(4)
        wrong = env.scene.order[1]
        env.world.data.body(wrong).xfrc_applied[2] = -5.0
        status = env.apply(hold(env))
        assert status.done
        assert not status.success


def test_a_pressed_button_stays_lit_after_a_restore() -> None:
    with closing(suite.make("push_buttons_in_order", EnvOptions())) as env:
        env.reset(4)
        env.world.data.body(env.scene.order[0]).xfrc_applied[2] = -5.0
        env.apply(hold(env))
        assert env.progress == 1
        state, picture = env.snapshot(), env.render("head", 64, 64)
        env.reset(4)
        assert not np.array_equal(env.render("head", 64, 64), picture)
        env.restore(state)
        np.testing.assert_array_equal(env.render("head", 64, 64), picture)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("stack_block_two", EnvOptions(), "Did you mean 'stack_blocks_two'"),
        ("lift_tray", EnvOptions(setting="random"), "randomized"),
        ("lift_tray", EnvOptions(action_mode="joints"), "'joint'"),
    ],
)
def test_unknown_names_are_answered_with_the_known_ones(task: str, options: EnvOptions, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        suite.make(task, options)


def test_the_two_modes_name_robotwins_layout() -> None:
    assert ACTIONS["joint"].size == 16
    assert ACTIONS["tip"].size == 10


@pytest.mark.parametrize("setting", ["clean", "randomized"])
@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("place_block_pad", ("object", "target")),
        ("stack_blocks_two", ("top", "base")),
        ("pick_dual_bottles", ("left", "right")),
        ("push_buttons_in_order", ("first", "second")),
    ],
)
def test_points_lie_on_what_the_instruction_names(task: str, names: tuple[str, str], setting: str) -> None:
    """The head camera's picture has the named colour there, also with the camera shaken and the table raised."""
    with closing(suite.make(task, EnvOptions(setting=setting))) as env:
        right = []
        for seed in range(6):
            env.reset(seed)
            picture = env.render("head", 240, 480).astype(float)
            for (x, y), name in zip(env.points(), names, strict=True):
                colour = picture[int((y + 1) * 120), int((x + 1) * 240)]
                painted = np.array(COLOURS[env.scene.words[name]])
                right.append(colour @ painted / np.linalg.norm(colour) / np.linalg.norm(painted) > 0.97)
        assert np.mean(right) > 0.9  # a distractor may stand in the way


def test_a_pressed_button_is_no_longer_pointed_at() -> None:
    with closing(suite.make("push_buttons_in_order", EnvOptions())) as env:
        env.reset(0)
        task, world = TASKS["push_buttons_in_order"], env.world
        left = [len(task.points(world, env.scene, pressed)) for pressed in (-1, 0, 1, 2, 3)]
        assert left == [2, 2, 2, 1, 0]
        np.testing.assert_array_equal(task.points(world, env.scene, 1)[0], task.points(world, env.scene, 0)[1])
