"""A run knows its physics, refuses what is not the benchmark's, and ends an episode whose simulation diverges."""

import dataclasses
import functools
from contextlib import closing
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from robotest import registry
from robotest.clock import SimClock
from robotest.envs import physics
from robotest.envs.options import require_known
from robotest.errors import RobotestError, UnknownNameError
from robotest.randomness import EpisodeSeeds
from robotest.runtime.rollout import Trace, attempt
from robotest.types import EnvOptions, Observation
from tests.doubles.fakes import PointSuite
from tests.doubles.simulators import require_libero, require_robosuite

SUITES = {
    "dual_arm": EnvOptions(),
    "tabletop": EnvOptions("fixed", "osc_pose", cameras=()),
    "robosuite/Lift": EnvOptions("default", "osc_pose", cameras=()),
    "libero/libero_object": EnvOptions("openpi", "osc_pose", cameras=()),
}
HUGE = 1e13
"""A speed at which MuJoCo considers the state diverged."""


def make(name: str, **changes: Any) -> Any:
    if name.startswith("libero"):
        require_libero()
    elif name != "dual_arm":
        require_robosuite()
    suite = registry.resolve("env", name)
    return suite.make(suite.tasks[0], dataclasses.replace(SUITES[name], **changes))


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_says_which_simulator_it_runs_on(name: str) -> None:
    with closing(make(name)) as env:
        assert env.spec.simulator == f"mujoco {mujoco.__version__}"
        assert env.spec.caveats == ()


@pytest.mark.parametrize("name", SUITES)
def test_arguments_that_a_suite_does_not_know_are_refused(name: str) -> None:
    with pytest.raises(RobotestError, match="colour"):
        make(name, env_args=("colour=red",))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("mujoco",), r"--env-arg mujoco given; it must be key=value, with a key of mujoco"),
        (("muyoco=any",), r"unknown argument of fake 'muyoco'. Did you mean 'mujoco'\?"),
        (("mujoco=4",), r"unknown value of fake's argument mujoco '4'. Known: any"),
        (("mujoco=any", "mujoco=any"), r"--env-arg mujoco given twice"),
    ],
)
def test_arguments_are_keys_and_values_that_are_known(given: tuple[str, ...], reason: str) -> None:
    suite = PointSuite()
    options = EnvOptions(suite.settings[0], suite.action_modes[0], env_args=given)
    with pytest.raises(RobotestError, match=reason):
        require_known(suite, suite.tasks[0], options, (), physics.ENV_ARGS)


def test_arguments_that_are_known_are_returned() -> None:
    suite = PointSuite()
    options = EnvOptions(suite.settings[0], suite.action_modes[0], env_args=("mujoco=any",))
    assert require_known(suite, suite.tasks[0], options, (), physics.ENV_ARGS) == {"mujoco": "any"}


def test_dual_arm_refuses_cameras_that_it_does_not_have() -> None:
    with pytest.raises(UnknownNameError, match="camera of dual_arm 'roof'"):
        make("dual_arm", cameras=("roof",))


@pytest.mark.parametrize("version", ["3.4.0", "3.8.1", "3.10.2", "4.0.0"])
def test_physics_that_is_not_the_benchmarks_is_refused_unless_asked_for(version: str) -> None:
    with pytest.raises(RobotestError, match=r"robotest install libero.*--env-arg mujoco=any") as refused:
        physics.published_caveats("LIBERO", {}, version)
    assert "\n" not in str(refused.value)
    assert physics.published_caveats("LIBERO", {"mujoco": "any"}, version) == (
        f"MuJoCo {version}: contacts differ from LIBERO's, not comparable with published rates",
    )


@pytest.mark.parametrize("version", ["2.3.7", "3.3.0", "3.3.7"])
def test_the_benchmarks_own_physics_needs_no_argument_and_has_no_caveat(version: str) -> None:
    assert physics.published_caveats("LIBERO", {}, version) == ()
    assert physics.published_caveats("LIBERO", {"mujoco": "any"}, version) == ()


@pytest.mark.slow
def test_libero_on_other_physics_says_so_in_its_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    require_libero()
    from robotest.envs.libero import suite as libero

    changed = functools.partial(physics.published_caveats, version="3.8.1")
    monkeypatch.setattr(libero, "published_caveats", changed)
    with pytest.raises(RobotestError, match=r"installed 3\.8\.1"):
        make("libero/libero_object")
    with closing(make("libero/libero_object", env_args=("mujoco=any",))) as env:
        assert env.spec.caveats[0].startswith("MuJoCo 3.8.1: contacts differ from LIBERO's")


def diverge(env: Any) -> None:
    env.world.data.qvel[0] = HUGE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dual_arm", "tabletop", "robosuite/Lift"])
def test_a_simulation_that_diverges_is_an_error_and_the_next_episode_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MuJoCo used to reset the scene silently, and the episode continued, to fail or even to succeed."""
    monkeypatch.chdir(tmp_path)  # where MuJoCo leaves its log
    with closing(make(name)) as env:
        still = np.zeros(env.spec.action.size, np.float32)
        env.reset(0, 0)
        start = env.snapshot()
        env.apply(still)
        diverge(env)
        with pytest.raises(RobotestError, match="the simulation diverged"):
            env.apply(still)
        env.reset(1, 0)
        env.apply(still)
        env.reset(0, 0)
        env.restore(start)
        env.apply(still)


@pytest.mark.slow
def test_an_episode_that_diverges_is_filed_as_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(make("dual_arm")) as env:

        def decide(observation: Observation, number: int) -> np.ndarray:
            diverge(env)
            return np.zeros((1, env.spec.action.size), np.float32)

        seeds = EpisodeSeeds(0, env.spec.task, 0)
        ended = attempt(env, decide, seeds, Trace(), SimClock(), SimClock())
    assert ended.outcome == "error"
    assert ended.error is not None
    assert "the simulation diverged" in ended.error
