"""Pairs are compared, not believed."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robotest.cli.main import main
from robotest.config import EvalConfig
from robotest.errors import RobotestError, UnpairedStartsError
from robotest.evaluation import evaluate
from robotest.randomness import GlobalGenerators
from robotest.runs import directory, schedule
from robotest.runs.directory import read_episodes
from robotest.runs.merge import pair, require_same_starts
from tests.test_evaluate import untimed


def config(out: Path, *tasks: str, **changes: Any) -> EvalConfig:
    base = EvalConfig(
        out=out,
        env="tests.doubles.unruly:suite",
        policy="tests.doubles.fakes:policy",
        verifiers=("first", "random"),
        tasks=tasks,
        episodes=2,
        candidates=2,
        record="none",
        workers=0,
    )
    return dataclasses.replace(base, **changes)


def test_starts_from_global_generators_are_pairs(tmp_path: Path) -> None:
    tasks = ("global_numpy", "global_random", "global_torch")
    np.random.seed(1)  # noqa: NPY002 - somebody else's
    evaluate(config(tmp_path / "a", *tasks))
    after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002 - as if nothing had been drawn
    np.random.seed(2)  # noqa: NPY002
    evaluate(config(tmp_path / "b", *tasks, verifiers=("random", "first")))
    for key, episode in read_episodes(tmp_path / "a").items():
        assert len(episode.start) == 4
        assert episode.start == read_episodes(tmp_path / "b")[key].start
    starts = [tuple(e.start.items()) for e in read_episodes(tmp_path / "a").values() if e.condition == "first"]
    assert len(set(starts)) == len(starts) == 6


@pytest.mark.slow
def test_global_generators_are_the_same_in_workers(tmp_path: Path) -> None:
    tasks = ("global_numpy", "global_torch")
    for workers in (0, 2):
        evaluate(config(tmp_path / str(workers), *tasks, workers=workers))
    assert untimed(tmp_path / "0") == untimed(tmp_path / "2")


@pytest.mark.parametrize("task", ["unseeded", "counter", "hidden"])
def test_starts_that_do_not_follow_their_seed_are_no_pairs(tmp_path: Path, task: str) -> None:
    with pytest.raises(UnpairedStartsError, match=rf"episode 0 of '{task}' starts differently .*simulator state"):
        evaluate(config(tmp_path, task))
    assert not (tmp_path / "summary.json").exists()
    asked, episodes = directory.read(tmp_path)
    with pytest.raises(UnpairedStartsError):  # `compare`, while it is there
        schedule.summarise(asked, episodes)
    with pytest.raises(UnpairedStartsError):
        evaluate(config(tmp_path, task))


def test_unpaired_conditions_are_independent_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "eval",
        "--env",
        "tests.doubles.unruly:suite",
        "--policy",
        "tests.doubles.fakes:policy",
        "--tasks",
        "unseeded",
    ]
    arguments += ["--verifiers", "first,random", "--episodes", "4", "--workers", "0", "--videos", "none"]
    arguments += ["--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "--unpaired" in capsys.readouterr().err
    assert main([*arguments, "--unpaired"]) == 0
    told = capsys.readouterr().out
    assert "UNPAIRED comparison" in told
    assert "Paired" not in told
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["comparisons"] == []
    assert summary["unpaired_comparisons"][0]["p_value"] is not None
    assert main(["compare", str(tmp_path)]) == 2
    assert main(["compare", str(tmp_path), "--unpaired"]) == 0
    assert main(["plan", "--run-directory", str(tmp_path)]) == 2
    assert "starts differently" in capsys.readouterr().err


def test_what_needs_pairs_is_refused_without_them(tmp_path: Path) -> None:
    for more in ({"stop_when_decided": True}, {"allocate": "adaptive"}):
        with pytest.raises(RobotestError, match="--unpaired given with stopping or adaptive"):
            evaluate(config(tmp_path / "run", "rewards", unpaired=True, **more))


def test_two_runs_are_compared_by_their_starts_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluate(config(tmp_path / name, "counter", verifiers=("first",)))  # each alone has no pairs
    both = pair(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UnpairedStartsError, match="'a/first' and 'b/first'"):
        schedule.summarise(both.arguments, both.episodes, pairs=both.pairs)
    assert schedule.summarise(both.arguments, both.episodes, pairs=both.pairs, unpaired=True).unpaired


def test_runs_of_two_seeds_can_be_compared_unpaired(tmp_path: Path) -> None:
    for seed in (1, 2):
        evaluate(config(tmp_path / str(seed), "rewards", seed=seed))
    with pytest.raises(RobotestError, match="seed is 1 in one and 2 in the other"):
        pair(tmp_path / "1", tmp_path / "2")
    assert pair(tmp_path / "1", tmp_path / "2", unpaired=True).pairs


def test_parts_that_only_one_side_has_are_not_compared(tmp_path: Path) -> None:
    evaluate(config(tmp_path, "rewards", verifiers=("first", "random"), episodes=1))
    a, b = read_episodes(tmp_path).values()
    require_same_starts([a, dataclasses.replace(b, start={"head[48x64]": "0"})])
    require_same_starts([a, dataclasses.replace(b, start={})])  # written by an earlier version
    changed = {**b.start, "instruction": "0"}
    with pytest.raises(UnpairedStartsError, match=r"\(instruction\)"):
        require_same_starts([a, dataclasses.replace(b, start=changed)])


def test_generators_are_lent_and_given_back() -> None:
    # Of `random` only the first draw is compared: the tests' own checks of types draw from it too.
    np.random.seed(5)  # noqa: NPY002
    generators, alike = GlobalGenerators(7), GlobalGenerators(7)
    with generators.lent():
        first, drawn = random.random(), [np.random.random()]  # noqa: NPY002
    between = np.random.random()  # noqa: NPY002
    with generators.lent():
        drawn.append(np.random.random())  # noqa: NPY002
    with alike.lent():
        assert first == random.random()
        assert drawn == [np.random.random(), np.random.random()]  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert between == np.random.random()  # noqa: NPY002
