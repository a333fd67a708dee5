"""`robotest check` takes what `eval` takes, and reports any failure of a part in one line."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from robotest.cli.main import main
from robotest.envs.from_gymnasium import GymnasiumSuite, GymnasiumTask
from robotest.errors import ConformanceError
from robotest.specs import VectorSpec
from robotest.testing import check_env
from tests.doubles.fakes import PointEnv, PointSuite
from tests.doubles.scripted_gymnasium import ID, Scripted, register

ENV = f"gymnasium:{ID}"


class Seeded(Scripted):
    """Starts from its seed."""

    def __init__(self, render_mode: str | None = None, **script: Any) -> None:
        super().__init__(**{"observed": self._line, **script})
        self._start = np.zeros(2, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._start = self.drawn()
        return self._line(0), self._info(0)

    def drawn(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def _line(self, step: int) -> Any:
        return self._start + np.float32(step)


class Unseeded(Seeded):
    def drawn(self) -> Any:
        return np.frombuffer(os.urandom(2), np.uint8).astype(np.float32)


class Global(Seeded):
    def drawn(self) -> Any:
        return np.random.uniform(-1, 1, 2).astype(np.float32)  # noqa: NPY002 - as environments do


class Born(Seeded):
    """Instances differ by a number drawn at construction."""

    made = 0

    def __init__(self, **script: Any) -> None:
        super().__init__(**script)
        Born.made += 1
        self._born = Born.made

    def drawn(self) -> Any:
        return super().drawn() + np.float32(self._born)


class Raising(Seeded):
    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("of\nsteps")


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["check", *arguments])
    return code, capsys.readouterr().err.strip().splitlines()[-1] if code else ""


@pytest.mark.parametrize("entry", [Seeded, Global])
def test_an_environment_that_obeys_its_seed_passes(entry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    register(entry, max_episode_steps=20)
    assert check(capsys, "env", ENV) == (0, "")


@pytest.mark.parametrize(
    ("entry", "script", "says"),
    [
        (Unseeded, {}, "after another episode gives a different start (what differs: observation)"),
        (Unseeded, {}, "are not paired (use `eval --unpaired`)"),
        (Born, {}, "of two environments gives different starts (what differs: observation)"),
        (Raising, {}, "fails with ZeroDivisionError: of steps (test_inspection.py:"),
        (Seeded, {"observed": lambda k: np.full(2, np.nan if k == 3 else k, np.float32)}, "holds nan after step 3"),
        (Seeded, {"reward": lambda k: None if k == 2 else 0}, "reward is None after step 2"),
    ],
)
def test_one_that_does_not_keep_its_contract_is_named(
    entry: Any, script: Any, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    register(entry, max_episode_steps=20, kwargs={"info": lambda _: {"success": False}, **script})
    code, line = check(capsys, "env", ENV, "--success", "none")
    assert code == 2
    assert says in line


@pytest.mark.slow
def test_the_expert_is_a_policy_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "policy", "expert", "--env", "tabletop") == (0, "")
    assert check(capsys, "verifier", "first", "--policy", "expert:clean", "--env", "tabletop") == (0, "")
    code, line = check(capsys, "policy", "expert:cleen", "--env", "tabletop")
    assert (code, "Did you mean 'clean'?" in line) == (2, True), line


def test_success_that_never_comes_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    register(Seeded, max_episode_steps=20)
    code, line = check(capsys, "env", ENV, "--success", "info:won")
    assert code == 2
    assert "ended without 'won' in any info" in line


def test_arguments_reach_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    register(Seeded, max_episode_steps=20)
    assert check(capsys, "env", ENV, "--env-arg", "max_episode_steps=9", "--env-arg", "reward=None")[0] == 2
    assert check(capsys, "env", ENV, "--env-arg", "max_episode_steps=9") == (0, "")
    code, line = check(capsys, "policy", "random", "--env", ENV, "--env-arg", "speed=1")
    assert code == 2
    assert "unexpected keyword argument 'speed'" in line


def test_names_that_stand_for_two_things_are_found() -> None:
    class Twice(PointEnv):
        @property
        def spec(self) -> Any:
            half = dataclasses.replace(super().spec.state.components[0], size=2)
            doubled = VectorSpec(super().spec.state.mode, (half, half))
            return dataclasses.replace(super().spec, state=doubled)

    class Suite(PointSuite):
        def make(self, task: str, options: Any) -> PointEnv:
            return Twice(task, options)

    with pytest.raises(ConformanceError, match="state have two components called"):
        check_env(Suite(), "near")


def test_a_part_of_a_choice_cannot_have_been_sent() -> None:
    class Asked(GymnasiumTask):
        def apply(self, action: Any) -> Any:
            return dataclasses.replace(super().apply(action), sent=action.clip(0, 1))

    class Suite(GymnasiumSuite):
        def make(self, task: str, options: Any) -> GymnasiumTask:
            return Asked(task, options)

    register(Seeded, max_episode_steps=20)
    with pytest.raises(ConformanceError, match="as sent; choices are whole numbers"):
        check_env(Suite(ID), ID)


@pytest.mark.parametrize("policy", ["random", "zero"])
def test_policies_and_verifiers_are_checked_in_any_environment(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    register(Seeded, max_episode_steps=20, kwargs={"actions": spaces.MultiDiscrete([2, 3])})
    assert check(capsys, "policy", policy, "--env", ENV) == (0, "")
    assert check(capsys, "verifier", "medoid", "--policy", policy, "--env", ENV, "--success", "none") == (0, "")


@pytest.mark.slow
def test_a_suite_whose_settings_have_other_names_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "policy", "random", "--env", "tabletop") == (0, "")
    assert check(capsys, "verifier", "random", "--policy", "random", "--env", "tabletop") == (0, "")


def test_a_policy_for_another_mode_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    register(Seeded, max_episode_steps=20)
    code, line = check(capsys, "policy", "tests.doubles.fakes:policy", "--env", ENV)
    assert code == 2
    assert "gives actions of mode" in line
