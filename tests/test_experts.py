"""Experts beside the simulation: what they propose is what the policy `expert` does, through any runner."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from robotest import experts, registry
from robotest.config import EvalConfig
from robotest.errors import RobotestError, SpecMismatchError, UnknownNameError
from robotest.evaluation import evaluate
from robotest.experts import ExpertPolicy, Guided, experts_of
from robotest.loading import policy_and_folder
from robotest.randomness import derive, generator
from robotest.types import Env, EnvOptions, Experts, Observation, SimulatedEnv
from tests.doubles.simulators import require_libero, require_robosuite
from tests.test_evaluate import untimed

TASK = "lift_tray"
BLIND = EnvOptions(cameras=())


@pytest.fixture
def guided() -> Iterator[Env]:
    suite = registry.resolve("env", "dual_arm")
    with closing(experts.make("dual_arm", suite, TASK, dataclasses.replace(BLIND, expert="clean"))) as env:
        yield env


def conforms(name: str) -> None:
    found = experts_of(name)
    assert isinstance(found, Experts)
    assert sum(found.mixture.values()) == pytest.approx(1.0)
    assert experts.CLEAN in found.mixture
    assert set(found.tasks) <= set(registry.resolve("env", name).tasks)


def test_those_of_dual_arm_keep_the_contract() -> None:
    conforms("dual_arm")


@pytest.mark.parametrize("name", ["tabletop", "libero/libero_object", "libero/libero_spatial:1"])
def test_those_of_robosuite_s_suites_keep_the_contract(name: str) -> None:
    (require_robosuite if name == "tabletop" else require_libero)()
    conforms(name)


def test_the_proposal_is_the_expert_s_command(guided: Env) -> None:
    assert isinstance(guided, Guided)
    guided.reset(5, 0)
    with closing(registry.resolve("env", "dual_arm").make(TASK, BLIND)) as plain:
        plain.reset(5, 0)
        commands = experts_of("dual_arm").commands(plain, "clean", generator(derive(5, "expert")))
        for _ in range(10):
            observation = guided.observe()
            assert observation.images == {}
            command = next(commands)
            expected = (command.action - command.anchor).astype(np.float32)
            np.testing.assert_array_equal(observation.proposal, expected[None])
            np.testing.assert_array_equal(guided.observe().proposal, expected[None])  # looking twice changes nothing
            for env in (guided, plain):
                env.begin_chunk(expected[None])
                env.apply(expected)


def test_nobody_else_is_given_a_proposal() -> None:
    with closing(experts.make("dual_arm", registry.resolve("env", "dual_arm"), TASK, BLIND)) as env:
        assert not isinstance(env, Guided)
        env.reset(0, 0)
        assert env.observe().proposal is None


def test_a_policy_without_a_proposal_says_what_it_needs(guided: Env) -> None:
    policy = ExpertPolicy(guided.spec, "clean")
    with pytest.raises(SpecMismatchError, match="needs an environment with an expert"):
        policy.sample([Observation({}, np.zeros(1, np.float32), "go", 0.0)], [0], 1)


def test_its_states_can_be_looked_at_and_it_does_not_go_on_from_them(guided: Env) -> None:
    assert isinstance(guided, SimulatedEnv)
    guided.reset(1, 0)
    start = guided.snapshot()
    still = np.zeros(guided.spec.action.size, np.float32)
    guided.begin_chunk(still[None])
    guided.apply(still)
    guided.restore(start)
    assert np.array_equal(guided.snapshot(), start)
    assert guided.render("front", 20, 30).shape == (20, 30, 3)
    with pytest.raises(RobotestError, match="cannot continue from a restored state; reset the environment"):
        guided.observe()


def test_it_cannot_be_loaded_away_from_its_environment() -> None:
    with pytest.raises(RobotestError, match="robotest eval --policy expert"):
        policy_and_folder("expert")


@pytest.mark.slow
def test_it_is_evaluated_the_same_in_one_process_and_in_two(tmp_path: Path) -> None:
    runs = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        config = EvalConfig(out, policy="expert", tasks=(TASK, "place_block_pad"), episodes=3, workers=workers)
        summary = evaluate(config)
        assert summary.conditions["first"].overall.successes == 6
        runs.append(untimed(out))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"policy": "expert:sloppy"}, UnknownNameError, "style 'sloppy'"),
        ({"policy": "expert", "env": "tests.doubles.fakes:suite"}, RobotestError, "has no scripted experts"),
        ({"policy": "expert", "tasks": ("lift_try",)}, UnknownNameError, "Did you mean 'lift_tray'"),
        ({"policy": "exprt"}, UnknownNameError, "Did you mean 'expert'"),
    ],
)
def test_wrong_names_are_refused(
    tmp_path: Path, config: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(dataclasses.replace(EvalConfig(tmp_path / "run", workers=0), **config))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
