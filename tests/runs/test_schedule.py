from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robotest.errors import RobotestError
from robotest.evaluation import evaluate
from robotest.runs import schedule
from robotest.runs.directory import read_arguments, read_episodes
from robotest.runs.spec import Arguments
from robotest.runs.up_to_date import read, write
from robotest.statistics.allocation import first_pass, second_pass
from tests.doubles.identities import identity
from tests.test_evaluate import TOWARDS, config, untimed

ARGUMENTS = Arguments(identity(), {"a": None, "b": None}, ("x", "y"), 25)


def test_tasks_take_turns_and_conditions_are_innermost() -> None:
    keys = schedule.keys(ARGUMENTS, {})
    assert len(keys) == len(set(keys)) == 2 * 2 * 25
    assert [key[0] for key in keys[:4]] == ["a", "b", "a", "b"]
    assert [task for _, task, index in keys if index in (0, 10, 20) and _ == "a"] == ["x", "y"] * 3


@given(st.integers(1, 60), st.integers(0, 40))
def test_more_episodes_keep_the_order_of_what_was_there(n: int, more: int) -> None:
    few, many = (schedule.planned(("x", "y", "z"), k) for k in (n, n + more))
    assert [start for start in many if start in set(few)] == few


def test_a_decision_ends_the_run_early_at_the_same_place_however_it_is_run(tmp_path: Path) -> None:
    asked = {"verifiers": (TOWARDS, "random", "first"), "pair": f"{TOWARDS}:random", "tasks": ("far",), "episodes": 80}
    for workers in (0, 3):
        evaluate(config(tmp_path / str(workers), stop_when_decided=True, workers=workers, **asked))
    summary = [schedule.summarise(read_arguments(tmp_path / w), read_episodes(tmp_path / w)) for w in ("0", "3")]
    assert summary[0].sequential == summary[1].sequential
    assert summary[0].comparisons == summary[1].comparisons
    verdict = summary[0].sequential
    assert verdict is not None
    assert verdict.decided_after is not None
    assert 5 < verdict.decided_after < 80
    assert verdict.p_value <= 0.05
    for condition in summary[0].conditions.values():
        assert condition.overall.episodes == verdict.decided_after
    assert len(untimed(tmp_path / "0")) == 3 * verdict.decided_after
    before = untimed(tmp_path / "0")
    evaluate(config(tmp_path / "0", stop_when_decided=True, **asked))
    assert untimed(tmp_path / "0") == before


def test_a_run_that_is_never_decided_is_whole(tmp_path: Path) -> None:
    summary = evaluate(config(tmp_path, verifiers=("random", "first"), episodes=4, stop_when_decided=True))
    assert summary.sequential is not None
    assert summary.sequential.decided_after is None
    assert (summary.sequential.pairs, summary.performance.episodes) == (8, 16)


def test_a_decided_run_is_complete(tmp_path: Path) -> None:
    asked = config(tmp_path, verifiers=(TOWARDS, "random"), tasks=("far",), episodes=80, stop_when_decided=True)
    assert read(asked) is None
    summary = evaluate(asked)
    write(asked, summary)
    again = read(asked)
    assert again is not None
    assert again.to_json() == summary.to_json()


def test_adaptive_runs_spend_the_budget_in_two_passes(tmp_path: Path) -> None:
    asked = config(tmp_path / "a", verifiers=(TOWARDS, "random"), episodes=24, allocate="adaptive")
    summary = evaluate(asked)
    episodes = read_episodes(tmp_path / "a")
    by_task = {task: {i for _, t, i in episodes if t == task} for task in ("near", "far")}
    assert sum(map(len, by_task.values())) == 48
    won = {key: episode.outcome == "success" for key, episode in episodes.items()}
    first = {
        task: [won[TOWARDS, task, i] - won["random", task, i] for i in range(first_pass(24))]
        for task in ("near", "far")
    }
    for task, more in second_pass(first, 24).items():
        assert by_task[task] == set(range(first_pass(24) + more))
    assert summary.adaptive is not None
    assert summary.adaptive.interval[0] < summary.adaptive.difference < summary.adaptive.interval[1]


def test_an_interrupted_adaptive_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    asked = {"verifiers": (TOWARDS, "random"), "episodes": 24, "allocate": "adaptive"}
    evaluate(config(tmp_path / "whole", **asked))
    lines = (tmp_path / "whole" / "episodes.jsonl").read_text().splitlines(keepends=True)
    evaluate(config(tmp_path / "cut", **{**asked, "episodes": 1, "allocate": "equal"}))
    (tmp_path / "cut" / "episodes.jsonl").write_text("".join(lines[:30]))
    evaluate(config(tmp_path / "cut", workers=2, **asked))
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")


def test_bad_pairs_are_refused(tmp_path: Path) -> None:
    three = config(tmp_path / "run", verifiers=("random", "first", "medoid"), stop_when_decided=True)
    with pytest.raises(RobotestError, match="3 conditions given; say which two"):
        evaluate(three)
    for pair in ("rondom:medoid", "random:random", "random"):
        message = f"'{pair}' given; name two different conditions .* out of random, medoid"
        with pytest.raises(RobotestError, match=message):
            evaluate(config(tmp_path / "run", pair=pair, stop_when_decided=True))
        with pytest.raises(RobotestError, match=f"'{pair}' given"):
            evaluate(config(tmp_path / "run", pair=pair))
    with pytest.raises(RobotestError, match="one of the two"):
        evaluate(config(tmp_path / "run", allocate="adaptive", stop_when_decided=True))
    with pytest.raises(RobotestError, match=r"alpha 2\.0 given"):
        evaluate(config(tmp_path / "run", alpha=2.0, stop_when_decided=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "asked",
    [
        ARGUMENTS,
        dataclasses.replace(ARGUMENTS, pair=("a", "b"), alpha=0.05),
        dataclasses.replace(ARGUMENTS, pair=("a", "b"), adaptive=True),
    ],
)
def test_nothing_finished_is_not_enough_data(asked: Arguments) -> None:
    summary = schedule.summarise(asked, {})
    assert summary.conditions["a"].overall.rate is None
    assert summary.adaptive is None
