"""gymnasium environments as people have them: rendering, arguments, old interfaces, and what must not be seen."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from robotest.errors import InvalidObservationError, RobotestError, UnknownNameError
from robotest.registry import resolve
from robotest.types import EnvOptions
from tests.doubles.scripted_gymnasium import ID, Scripted, playing, scripted

GO = np.zeros(1, np.float32)
PAINTED = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
EYE = spaces.Box(0, 255, (2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (PAINTED, PAINTED),
        (np.concatenate([PAINTED, PAINTED[:, :, :1]], axis=2), PAINTED),
        (PAINTED[:, :, 0], np.repeat(PAINTED[:, :, :1], 3, axis=2)),
        ([PAINTED[::-1], PAINTED], PAINTED),
        (None, None),
        ([], None),
        (PAINTED / 255, None),
        ("ansi", None),
        (np.zeros((2, 4, 6, 3), np.uint8), None),
    ],
)
def test_frames_of_any_kind_are_a_camera_or_none(frame: Any, shown: Any) -> None:
    with playing(frame=lambda: frame) as task:
        assert task.spec.cameras == ({} if shown is None else {"render": (4, 6)})
        for _ in range(2):
            images = task.observe().images
            assert images.keys() == task.spec.cameras.keys()
            if shown is not None:
                np.testing.assert_array_equal(images["render"], shown)
                images["render"][:] = 0


def failing() -> Any:
    raise OSError("no display")


def test_a_render_that_fails_is_no_camera_unless_it_is_wanted() -> None:
    with playing(frame=failing) as task:
        assert not task.spec.cameras
    with (
        pytest.raises(RobotestError, match="cannot render: OSError: no display"),
        playing(frame=failing, cameras=("render",)),
    ):
        pass


def test_where_nobody_looks_nothing_is_drawn() -> None:
    drawn: list[int] = []

    def frame() -> Any:
        drawn.append(1)
        return PAINTED

    with playing(frame=frame, cameras=()) as task:
        task.reset(0)
        assert not task.observe().images
    assert not drawn


def test_only_the_cameras_wanted_are_given() -> None:
    space = spaces.Dict(a=EYE, b=EYE)
    with playing(space=space, cameras=("b",)) as task:
        assert list(task.observe().images) == list(task.spec.cameras) == ["b"]
    with pytest.raises(UnknownNameError, match=r"unknown camera of .* 'c'"), playing(space=space, cameras=("c",)):
        pass


def test_frames_of_another_size_later_on_are_an_error() -> None:
    sizes = [4, 4, 5]
    with playing(frame=lambda: np.zeros((sizes.pop(0), 6, 3), np.uint8)) as task:
        task.reset(0)
        task.observe()
        task.apply(GO)
        with pytest.raises(InvalidObservationError, match=r"is \(5, 6\) px; it was \(4, 6\) px at first"):
            task.observe()


def test_an_observation_called_render_is_not_replaced() -> None:
    seen = np.full((2, 2, 3), 7, np.uint8)
    space = spaces.Dict(render=EYE)
    with playing(space=space, observed=lambda _: {"render": seen}, frame=lambda: PAINTED) as task:
        images = task.observe().images
    np.testing.assert_array_equal(images["render"], seen)
    np.testing.assert_array_equal(images["render_frame"], PAINTED)


def test_arguments_reach_the_environment() -> None:
    class Wide(Scripted):
        def __init__(self, width: Any = 1, name: Any = "", render_mode: str | None = None) -> None:
            super().__init__(spaces.Box(-1, 1, (width,)), render_mode=render_mode)
            self.name = name

    with playing(entry=Wide, env_args=("width=3", "name=two words", "max_episode_steps=7")) as task:
        assert task.spec.state.size == 3
        assert task.spec.max_steps == 7
        assert task._env.unwrapped.name == "two words"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env_args", "says"),
    [
        (("speed=1",), "unexpected keyword argument 'speed'; see --env-arg"),
        (("id=1",), "multiple values for argument 'id'"),
        (("speed",), "--env-arg 'speed' given; it must be KEY=VALUE"),
        (("=1",), "it must be KEY=VALUE"),
        (("a b=1",), "it must be KEY=VALUE"),
        (("reward=1", "reward=2"), "--env-arg 'reward' given twice"),
    ],
)
def test_arguments_that_are_none_are_one_line(env_args: tuple[str, ...], says: str) -> None:
    with pytest.raises(RobotestError) as error, playing(env_args=env_args):
        pass
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_environment_without_a_render_mode_is_made_without_one() -> None:
    class Unpainted(Scripted):
        def __init__(self) -> None:
            super().__init__()

    with playing(entry=Unpainted) as task:
        assert not task.spec.cameras


def test_a_close_that_fails_changes_nothing() -> None:
    class Stuck(Scripted):
        def close(self) -> None:
            raise OSError("gone already")

    with playing(entry=lambda render_mode=None: Stuck(frame=lambda: PAINTED, render_mode=render_mode)) as task:
        assert task.spec.cameras == {"render": (4, 6)}


def test_a_function_makes_an_environment_that_renders_too() -> None:
    with playing(entry=lambda render_mode=None: Scripted(frame=lambda: PAINTED, render_mode=render_mode)) as task:
        assert task.spec.cameras == {"render": (4, 6)}


def test_other_render_modes_are_taken_if_asked_for() -> None:
    with playing(frame=lambda: PAINTED, env_args=("render_mode=rgb_array_list",)) as task:
        task.reset(0)
        for _ in range(2):
            np.testing.assert_array_equal(task.observe().images["render"], PAINTED)
    with playing(frame=failing, env_args=("render_mode=None",)) as task:
        assert not task.spec.cameras


class Old(Scripted):
    """The interface of gym."""

    def reset(self, **_: Any) -> Any:
        return np.zeros(2, np.float32)


class OldStep(Scripted):
    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, False, {}


class Seedless(Scripted):
    def reset(self) -> Any:  # type: ignore[override]
        return np.zeros(2, np.float32), {}


class NoEnv:
    metadata: Any = {}  # noqa: RUF012

    def __init__(self, **_: Any) -> None:
        pass


@pytest.mark.parametrize("entry", [Old, OldStep, Seedless])
@pytest.mark.parametrize("max_steps", [5, None])
def test_the_interface_of_old_is_one_line(entry: Any, max_steps: int | None) -> None:
    with (
        pytest.raises(RobotestError, match=r"gymnasium >= 1.0: reset\(seed=\) returns"),
        playing(entry=entry, max_steps=max_steps),
    ):
        pass


def test_advice_to_authors_stays_off_the_terminal() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with playing(observed=lambda _: np.zeros(2), reward=lambda _: np.float64(0)) as task:
            task.reset(0)
            task.apply(GO)
        gymnasium.logger.warn("still heard")
    assert ["still heard" in str(w.message) for w in seen] == [True]


def test_ids_with_odd_characters_are_found() -> None:
    from tests.doubles.scripted_gymnasium import register

    for id_ in ("odd:name-space/A_b-c.d", "Plain.-v3", "x/y-v1"):
        register(Scripted, id_)
        resolve("env", f"gymnasium:{id_}").make(id_, EnvOptions(action_mode="native")).close()


def test_nested_actions_arrive_as_they_are_recorded() -> None:
    actions = spaces.Dict(
        go=spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-2, 2, (2,), np.int32)]), flags=spaces.MultiBinary(2)
    )
    with playing(actions=actions) as task:
        assert [c.name for c in task.spec.action.components] == ["go_0", "go_1_0", "go_1_1", "flags_0", "flags_1"]
        task.reset(0)
        status = task.apply(np.array([2.6, -1.4, 9, 0.9, 0.1], np.float32))
        (sent,) = scripted(task).sent
    assert status.sent.tolist() == [3, -1, 2, 1, 0]
    assert (sent["flags"].tolist(), sent["go"][0], sent["go"][1].tolist()) == ([1, 0], 3, [-1, 2])


@pytest.mark.parametrize("step", [1, 3])
def test_a_broken_observation_is_found_though_nobody_looks(step: int) -> None:
    bad = np.array([np.nan, 0], np.float32)
    with playing(observed=lambda k: bad if k == step else np.zeros(2, np.float32), success="none") as task:
        task.reset(0)
        for _ in range(step - 1):
            task.apply(GO)
        with pytest.raises(InvalidObservationError, match=f"'observation' holds nan after step {step}"):
            task.apply(GO)


def test_a_failing_start_closes_what_was_made() -> None:
    closed: list[int] = []

    class Closing(Scripted):
        def close(self) -> None:
            closed.append(1)
            raise OSError("late")

    with pytest.raises(RobotestError, match="does not define success"), playing(entry=Closing, info=lambda _: {}):
        pass
    assert closed == [1]


def test_the_simulator_is_named_if_it_is_there() -> None:
    import mujoco

    class Simulated(Scripted):
        model = mujoco.MjModel.from_xml_string("<mujoco/>")

    with playing(entry=Simulated) as task:
        assert task.spec.simulator == f"mujoco {mujoco.__version__}"
    with playing() as task:
        assert not task.spec.simulator
    assert ID in gymnasium.registry


class Unshowable(list[int]):
    def __repr__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize("given", [np.zeros((30, 30)), ["a\nb"] * 50, Unshowable()])
@pytest.mark.parametrize("where", ["info", "reward", "observed", "ended"])
def test_what_an_environment_gives_is_shown_in_one_short_line(given: Any, where: str) -> None:
    script: dict[str, Any] = {where: lambda k: given if k else {"info": {}, "observed": np.zeros(2)}.get(where)}
    if where == "ended":
        script = {where: lambda _: (given, False)}
    with playing(success="none", max_steps=None, **script) as task:
        task.reset(0)
        with pytest.raises(RobotestError) as error:
            task.apply(GO)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250
