from __future__ import annotations

from contextlib import closing

import pytest

from robotest.clock import WallClock
from robotest.errors import SpecMismatchError
from robotest.randomness import EpisodeSeeds
from robotest.registry import resolve
from robotest.runtime.runner import EpisodeJob, InProcessRunner
from robotest.runtime.selector import VerifierSelector
from robotest.statistics import paired
from robotest.types import EnvOptions
from tests.doubles import fakes
from tests.doubles.thorough import THOROUGH

OPTIONS = EnvOptions(image_size=16)


def make_planner(*names: str) -> VerifierSelector:
    policy = fakes.policy()
    return VerifierSelector(
        policy, {name: resolve("verifier", name)(policy.spec, None) for name in names}, 4, WallClock()
    )


@pytest.mark.slow
def test_two_names_for_one_thing_are_seldom_called_different() -> None:
    """`first` and `random` take one of the same independent candidates: comparisons through the whole loop."""
    selector, called, runs, most = make_planner("first", "random"), 0, *((40, 5) if THOROUGH else (20, 3))
    with closing(InProcessRunner("tests.doubles.fakes:suite", WallClock())) as runner:
        for seed in range(runs):
            work = [
                EpisodeJob(condition, EpisodeSeeds(seed, "far", index), OPTIONS, 6)
                for index in range(15)
                for condition in ("first", "random")
            ]
            found = paired.compare("first", "random", [f.episode for f in runner.run(selector, work)])
            assert found.p_value is not None
            called += found.p_value <= 0.05
    assert called <= most  # P(X > most) < 0.02 for a binomial of so many at 5 %; the exact test stays below that


def test_environments_are_made_once_per_task_and_closed() -> None:
    made: list[fakes.PointEnv] = []

    class Suite(fakes.PointSuite):
        def make(self, task: str, options: EnvOptions) -> fakes.PointEnv:
            made.append(super().make(task, options))
            return made[-1]

    runner = InProcessRunner("tests.doubles.fakes:suite", WallClock())
    runner._suite = Suite()
    work = [EpisodeJob("first", EpisodeSeeds(0, task, i), OPTIONS, 6) for task in ("near", "far") for i in range(3)]
    assert [f.episode.task for f in runner.run(make_planner("first"), work)] == ["near"] * 3 + ["far"] * 3
    runner.close()
    assert [(env.spec.task, env.closed) for env in made] == [("near", True), ("far", True)]


def test_a_policy_that_does_not_fit_is_refused() -> None:
    work = [EpisodeJob("first", EpisodeSeeds(0, "near", 0), EnvOptions(image_size=8), 6)]
    with closing(InProcessRunner("tests.doubles.fakes:suite", WallClock())) as runner, pytest.raises(SpecMismatchError):
        list(runner.run(make_planner("first"), work))
