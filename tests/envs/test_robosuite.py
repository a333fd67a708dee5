"""robosuite's own tasks: contracts, layouts of two arms and of arms without grippers, words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from robotest.errors import UnknownNameError
from robotest.testing import check_env
from robotest.types import EnvOptions
from tests.doubles.simulators import require_robosuite
from tests.doubles.thorough import THOROUGH

require_robosuite()

from robotest.envs.robosuite import world  # noqa: E402 - after the skip
from robotest.envs.robosuite.rendering import Pictures  # noqa: E402 - after the skip
from robotest.envs.robosuite.suite import CAMERAS, MAX_STEPS, TASKS, RobosuiteTaskEnv, suite  # noqa: E402 - after the skip
from robotest.envs.robosuite.world import import_robosuite  # noqa: E402 - after the skip

BLIND = EnvOptions(setting="default", action_mode="osc_pose", cameras=())
KINDS = ("Lift", "Door", "TwoArmHandover", "TwoArmPegInHole")
"""One arm, a hinge, two arms, and two without grippers; the other tasks differ only in the objects on the table."""


@pytest.fixture(scope="module")
def lift() -> Iterator[RobosuiteTaskEnv]:
    with closing(suite("Lift").make("Lift", BLIND)) as env:
        yield env


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS if THOROUGH else KINDS)
def test_conformance(task: str) -> None:
    cameras = ("agentview",) if task in KINDS else ()  # a picture takes 60 ms
    options = EnvOptions(setting="default", action_mode="osc_pose", image_size=64, cameras=cameras)
    check_env(suite(task), task, options)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "per_arm"), [("TwoArmLift", (3, 3, 1)), ("TwoArmPegInHole", (3, 3))])
def test_two_arms_are_laid_out_one_after_the_other(task: str, per_arm: tuple[int, ...]) -> None:
    with closing(suite(task).make(task, BLIND)) as env:
        env.reset(0)
        assert [c.size for c in env.spec.action.components] == 2 * list(per_arm)
        assert env.spec.action.size == env.world.env.action_dim
        assert [c.name.partition("_")[0] for c in env.spec.action.components] == [
            side for side in ("right", "left") for _ in per_arm
        ]
        before = env.observe().state
        action = np.zeros(env.spec.action.size, np.float32)
        action[env.spec.action.slice("left_position")] = (0.0, 0.0, 1.0)
        for _ in range(5):
            env.apply(action)
        moved = env.observe().state - before
    assert moved[env.spec.state.slice("left_position")][2] > 0.04
    assert np.abs(moved[env.spec.state.slice("right_position")]).max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Lift", "NutAssembly", "TwoArmHandover"])
def test_a_start_is_restored_bit_for_bit_too(task: str) -> None:
    with closing(suite(task).make(task, BLIND)) as env:
        env.reset(3)
        actions = np.random.default_rng(0).uniform(-1, 1, (4, env.spec.action.size)).astype(np.float32)
        start = env.snapshot()
        ends = []
        for _ in range(2):
            for action in actions:
                env.apply(action)
            ends.append(env.snapshot())
            env.restore(start)
    np.testing.assert_array_equal(ends[0], ends[1])


@pytest.mark.slow
def test_success_is_robosuites(lift: RobosuiteTaskEnv) -> None:
    lift.reset(0)
    assert lift.spec.max_steps == MAX_STEPS
    assert not lift.apply(np.zeros(7, np.float32)).success
    joint = lift.world.env.cube.joints[0]
    place = lift.world.env.sim.data.get_joint_qpos(joint).copy()
    place[2] += 0.2
    lift.world.env.sim.data.set_joint_qpos(joint, place)
    status = lift.apply(np.zeros(7, np.float32))
    assert status.success
    assert status.done


@pytest.mark.slow
def test_words_follow_from_the_seed_and_the_wording() -> None:
    for wording, known in (("seen", TASKS["Stack"].seen), ("unseen", TASKS["Stack"].unseen)):
        options = EnvOptions.from_json(
            {"setting": "default", "action_mode": "osc_pose", "cameras": [], "wording": wording}
        )
        with closing(suite("Stack").make("Stack", options)) as env:
            given = []
            for seed in (0, 1, 2, 3, 4, 0):
                env.reset(seed)
                given.append(env.observe().instruction)
        assert set(given) == set(known)
        assert given[0] == given[-1]


def test_no_wording_is_both_seen_and_unseen() -> None:
    for name, task in TASKS.items():
        words = [*task.seen, *task.unseen]
        assert len(set(words)) == len(words) >= 4, name


def test_wrong_names_say_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"'Lfit'\. Did you mean 'Lift'\? Known: Door, Lift"):
        suite("Lfit")
    lift, right = suite("Lift"), {"setting": "default", "action_mode": "osc_pose"}
    for task, wrong, message in (
        ("Stack", {}, "task of robosuite/Lift 'Stack'.* Known: Lift"),
        ("Lift", {"setting": "hard"}, "setting of robosuite/Lift 'hard'.* Known: default"),
        ("Lift", {"action_mode": "joint"}, "action mode of robosuite/Lift 'joint'.* Known: osc_pose"),
        ("Lift", {"cameras": ["robot1_eye_in_hand"]}, f"camera of robosuite/Lift .* Known: {', '.join(CAMERAS[1])}"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            lift.make(task, EnvOptions.from_json({**right, **wrong}))


@pytest.mark.slow
def test_a_context_is_kept_where_meshes_and_textures_are_the_same() -> None:
    """Lift draws another size of the cube at every reset; meshes and textures stay."""
    with closing(suite("Lift").make("Lift", BLIND)) as env:
        kept, pictures = [], []
        for seed in range(3):
            env.reset(seed)
            pictures.append(env.render("agentview", 48, 64))
            kept.append(env.world._pictures)
            with closing(Pictures(env.world.model, (1,))) as anew, env.world.looked_at():
                number = env.world.model.camera("agentview").id
                np.testing.assert_array_equal(
                    pictures[-1], anew.render(env.world.model, env.world.data, number, 48, 64)
                )
        assert kept[0] is kept[1] is kept[2]
        assert not np.array_equal(pictures[0], pictures[1])


def own_picture(env: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture: np.ndarray[Any, np.dtype[np.uint8]] = env.sim.render(64, 48, camera_name="agentview")
    return picture


def each_shows_itself() -> bool:
    """Two of robosuite's own renderers and one of ours, in turns, one of theirs closed in between."""
    robosuite = import_robosuite()
    made = [
        robosuite.make(task, robots="Panda", has_offscreen_renderer=True, use_camera_obs=False, hard_reset=False)
        for task in ("Lift", "Door")
    ]
    with closing(suite("Stack").make("Stack", BLIND)) as ours:
        ours.reset(0)
        right, ok = ours.render("agentview", 48, 64), []
        first = own_picture(made[1])
        for _ in range(2):
            ok += [bool(own_picture(made[0]).std() > 5), np.array_equal(ours.render("agentview", 48, 64), right)]
            ok.append(np.array_equal(own_picture(made[1]), first))
        made[0].close()
        ok += [np.array_equal(ours.render("agentview", 48, 64), right), np.array_equal(own_picture(made[1]), first)]
        made[1].close()
        ok.append(np.array_equal(ours.render("agentview", 48, 64), right))
    return all(ok)


@pytest.mark.slow
def test_nobody_s_pictures_are_spoilt_by_robosuite_s_own_renderer() -> None:
    assert each_shows_itself()


@pytest.mark.slow
def test_without_the_guard_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import_robosuite()
    from robosuite.utils.binding_utils import MjRenderContext

    for name in ("render", "read_pixels", "update_offscreen_size", "__del__"):
        monkeypatch.setattr(MjRenderContext, name, getattr(MjRenderContext, name).__wrapped__)
    monkeypatch.setattr(world, "_guard_contexts", lambda: None)
    assert not each_shows_itself()


@pytest.mark.slow
def test_a_look_that_fails_changes_nothing(lift: RobosuiteTaskEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    lift.reset(0)
    lift.apply(np.full(7, 0.5, np.float32))
    before = lift.snapshot()

    def dark() -> None:
        lift.world.data.qacc_warmstart[:] += 1.0
        raise RuntimeError("no light")

    monkeypatch.setattr(lift.world, "_post_process", dark)
    with pytest.raises(RuntimeError, match="no light"):
        lift.observe()
    np.testing.assert_array_equal(lift.snapshot(), before)
    monkeypatch.undo()
    monkeypatch.setattr(lift.world, "picture", lambda *_: dark())
    with pytest.raises(RuntimeError, match="no light"):
        lift.render("agentview", 32, 32)
    np.testing.assert_array_equal(lift.snapshot(), before)
