"""Third-party environments through the whole runtime."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from robotest.cli.main import main
from robotest.errors import InvalidActionError, RobotestError
from robotest.registry import resolve
from robotest.runs import directory, episode_file
from robotest.testing import check_env, check_policy
from robotest.types import EnvOptions, SimulatedEnv
from tests.doubles import third_party

OPTIONS = EnvOptions(action_mode="native")


def test_it_conforms_and_so_does_its_policy() -> None:
    suite = resolve("env", f"gymnasium:{third_party.ID}")
    check_env(suite, third_party.ID)
    with closing(suite.make(third_party.ID, OPTIONS)) as env:
        check_policy(third_party.policy(), env)
        assert not isinstance(env, SimulatedEnv)


def test_layouts_come_from_the_spaces() -> None:
    with closing(resolve("env", f"gymnasium:{third_party.ID}").make(third_party.ID, OPTIONS)) as env:
        assert env.spec.cameras == {"eye": (4, 5), "render": (8, 10)}
        assert env.spec.max_steps == 25
        assert env.spec.control_dt == 0.1
        np.testing.assert_allclose(env.spec.action.high, [0.2, 0.1])
        env.reset(3)
        state = env.observe().state
        order = list(env.spec.state.components)
        assert {c.name: c.size for c in order} == {"knobs": 2, "mode": 3}
        np.testing.assert_array_equal(state[env.spec.state.slice("mode")], [0, 0, 1])


def test_the_seed_is_the_environments_own() -> None:
    with closing(resolve("env", f"gymnasium:{third_party.ID}").make(third_party.ID, OPTIONS)) as env:
        env.reset(5)
        own = gymnasium.make(third_party.ID)
        expected, _ = own.reset(seed=5)
        knobs = env.observe().state[env.spec.state.slice("knobs")]
        np.testing.assert_array_equal(knobs, expected["knobs"].astype(np.float32))


def test_frames_are_made_only_when_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    frames: list[int] = []
    render = third_party.Lamp.render

    def counted(self: third_party.Lamp) -> Any:
        frames.append(1)
        return render(self)

    monkeypatch.setattr(third_party.Lamp, "render", counted)
    with closing(resolve("env", f"gymnasium:{third_party.ID}").make(third_party.ID, OPTIONS)) as env:
        frames.clear()
        env.reset(0)
        for _ in range(5):
            env.apply(np.zeros(2, np.float32))
        assert not frames
        env.observe()
        assert len(frames) == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_is_evaluated_from_the_command_line(
    tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--env", f"gymnasium:{third_party.ID}", "--policy", "tests.doubles.third_party:policy", "--json"]
    arguments += ["--verifiers", "random,medoid", "--episodes", "6", "--workers", workers, "--out", str(tmp_path)]
    assert main(["eval", *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["conditions"]["medoid"]["successes"] >= 5
    assert {len(e.chosen) > 0 for e in directory.read_episodes(tmp_path).values()} == {True}


class Counter(gymnasium.Env[Any, Any]):
    """Rewards every step; ends as configured."""

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium declares no ClassVar
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(3, start=-1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        return np.zeros(1, np.float32), 1.0, action == 1, False, {}


gymnasium.register("tests/Threshold-v0", entry_point="tests.envs.test_from_gymnasium:Counter", reward_threshold=3.0)
gymnasium.register("tests/Terminates-v0", entry_point="tests.envs.test_from_gymnasium:Counter")


@pytest.mark.parametrize(
    ("id_", "rule", "actions", "success"),
    [
        ("tests/Threshold-v0", None, [0, 0, 0, 1], [False, False, False, True]),
        ("tests/Threshold-v0", None, [0, 1], [False, False]),
        ("tests/Threshold-v0", "none", [0, 0, 0, 1], [False, False, False, False]),
        ("tests/Terminates-v0", "terminated", [-1, 0, 1], [False, False, True]),
        ("tests/Terminates-v0", "return>=2", [-1, 1], [False, True]),
    ],
)
def test_success_without_a_word_of_it(id_: str, rule: str | None, actions: list[int], success: list[bool]) -> None:
    options = dataclasses.replace(OPTIONS, success=rule)
    with closing(resolve("env", f"gymnasium:{id_}").make(id_, options)) as env:
        assert env.spec.success == (rule or "return>=3")
        env.reset(0)
        status = [env.apply(np.array([a], np.float32)) for a in actions]
        assert [s.success for s in status] == success
        assert [s.done for s in status] == [*[False] * (len(actions) - 1), True]
        assert [s.reward for s in status] == [1.0] * len(actions)
        assert env.observe().instruction == id_


def test_termination_is_not_taken_for_success() -> None:
    with pytest.raises(RobotestError, match=r"does not define success: .* --success: info:KEY, return>=X, terminated"):
        resolve("env", "gymnasium:tests/Terminates-v0").make("tests/Terminates-v0", OPTIONS)


@pytest.mark.slow
def test_a_simulator_of_gymnasium_itself() -> None:
    id_ = "InvertedPendulum-v5"
    with closing(resolve("env", f"gymnasium:{id_}").make(id_, OPTIONS)) as env:
        env.reset(1)
        picture = env.observe().images["render"]
        assert picture.ndim == 3
        assert picture.std() > 0
        while not env.apply(np.ones(1, np.float32)).done:
            pass


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gymnasium:", "without an id"),
        ("gymnasium:NoSuchThing-v0", "cannot make 'NoSuchThing-v0'"),
        ("gymnasium:no_such_module:Thing-v0", "cannot make 'no_such_module:Thing-v0'"),
        ("gymnasium", "unknown env 'gymnasium'"),
        ("gymnasum:CartPole-v1", "cannot be imported"),
    ],
)
def test_bad_names_are_one_error(name: str, says: str) -> None:
    def make() -> None:
        suite = resolve("env", name)
        suite.make(suite.tasks[0], OPTIONS)

    with pytest.raises(RobotestError) as error:
        make()
    assert says in str(error.value)


def test_bad_actions_are_refused() -> None:
    with closing(resolve("env", f"gymnasium:{third_party.ID}").make(third_party.ID, OPTIONS)) as env:
        env.reset(0)
        for bad in (np.zeros(3, np.float32), np.array([np.nan, 0], np.float32)):
            with pytest.raises(InvalidActionError):
                env.apply(bad)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_videos_are_made_of_frames_where_there_are_no_states(
    tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "--env", f"gymnasium:{third_party.ID}", "--policy", "tests.doubles.third_party:policy"]
    arguments += ["--verifiers", "random", "--episodes", "2", "--workers", workers, "--out", str(tmp_path)]
    assert main([*arguments, "--record", "images", "--videos", "all"]) == 0
    capsys.readouterr()
    for key, episode in directory.read_episodes(tmp_path).items():
        path = directory.episode_path(tmp_path, key)
        recorded = episode_file.read(path)
        assert recorded.snapshots is None
        assert list(recorded.frame_steps) == sorted({*range(0, episode.steps, 2), episode.steps})
        assert path.with_suffix(".mp4").stat().st_size > 1000
        path.with_suffix(".mp4").unlink()
    assert main(["video", str(tmp_path), "--episodes", "all"]) == 0
    assert all(Path(line).is_file() for line in capsys.readouterr().out.split())


def test_what_cannot_be_seen_cannot_be_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "--env", "gymnasium:tests/Terminates-v0", "--policy", "random", "--success", "terminated"]
    arguments += ["--verifiers", "first", "--workers", "0", "--out", str(tmp_path), "--record", "images"]
    assert main(arguments) == 2
    assert "render_mode" in capsys.readouterr().err
