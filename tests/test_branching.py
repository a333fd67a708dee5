from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from robotest.branching import branches as file_format
from robotest.branching.branches import Branch, Place
from robotest.branching.plan import Plan, planned
from robotest.branching.report import report
from robotest.branching.run import BranchPlanner
from robotest.branching.run import run as run_branches
from robotest.cli.main import main
from robotest.clock import WallClock
from robotest.config import EvalConfig
from robotest.errors import RobotestError, RunDirectoryError
from robotest.evaluation import evaluate
from robotest.loading import load_condition, policy_and_folder
from robotest.randomness import EpisodeSeeds
from robotest.runs import directory, episode_file, spec
from robotest.runtime.pool import WorkerPool
from robotest.runtime.rollout import Origin
from robotest.runtime.runner import EpisodeJob, InProcessRunner
from robotest.runtime.selector import VerifierSelector
from robotest.types import Outcome, Verifier
from tests.doubles.options import changed
from tests.test_evaluate import TOWARDS, config

EPISODES = 4
FAKE = ("--policy", "tests.doubles.fakes:policy", "--workers", "0")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    evaluate(config(tmp_path / "run", tasks=("far",), episodes=EPISODES, verifiers=("random",)))
    return tmp_path / "run"


def make_planner(policy_name: str, names: tuple[str, ...], n_candidates: int) -> BranchPlanner:
    policy, folder = policy_and_folder(policy_name)
    verifiers: dict[str, Verifier] = {name: load_condition(name, policy, folder).verifier for name in names}
    return BranchPlanner(policy, verifiers["random"], verifiers, n_candidates, WallClock())


def branch(run: Path, out: Path, workers: int = 0, continuations: int = 1) -> list[Branch]:
    runner = (
        WorkerPool("tests.doubles.fakes:suite", workers)
        if workers
        else InProcessRunner("tests.doubles.fakes:suite", WallClock())
    )
    with contextlib.closing(runner):
        judged = {"random": None, TOWARDS: None}
        plan = Plan(run, "random", ("far",), EPISODES, judged, continuations)
        return run_branches(plan, make_planner("tests.doubles.fakes:policy", ("random", TOWARDS), 4), runner, out)


def assert_rest_is_reproduced(run: Path, env: str, policy_name: str, key: spec.Key) -> None:
    """Go back to every decision of a recorded episode and go on: every bit of the rest comes out again."""
    whole = episode_file.read(directory.episode_path(run, key))
    asked = directory.read_arguments(run)
    assert whole.snapshots is not None
    policy, folder = policy_and_folder(policy_name)
    verifier = load_condition(key[0], policy, folder).verifier
    selector = VerifierSelector(policy, {key[0]: verifier}, asked.identity.candidates, WallClock())
    seeds = EpisodeSeeds(asked.identity.seed, key[1], key[2])
    with contextlib.closing(InProcessRunner(env, WallClock())) as runner:
        for number, step in enumerate(whole.decision_steps):
            origin = Origin(whole.snapshots[step], number, whole.context(number))
            work = EpisodeJob(key[0], seeds, whole.scene.options, asked.identity.execute, origin)
            (again,) = runner.run(selector, [work])
            assert again.episode.outcome == whole.episode.outcome
            assert again.episode.chosen == whole.episode.chosen[number:]
            np.testing.assert_array_equal(np.stack(again.trace.actions), whole.actions[step:])
            np.testing.assert_array_equal(np.stack(again.trace.snapshots), whole.snapshots[step:])
            assert list(again.decisions) == list(range(number, whole.episode.decisions))
            candidates = np.stack([d.candidates.actions for d in again.decisions.values()])
            np.testing.assert_array_equal(candidates, whole.candidates[number:])


def test_going_on_from_any_decision_reproduces_the_rest(run: Path) -> None:
    for index in range(EPISODES):
        assert_rest_is_reproduced(
            run, "tests.doubles.fakes:suite", "tests.doubles.fakes:policy", ("random", "far", index)
        )


@pytest.mark.slow
def test_going_on_from_any_decision_reproduces_the_rest_in_the_simulator(tmp_path: Path) -> None:
    evaluate(EvalConfig(tmp_path, verifiers=("random",), tasks=("lift_tray",), episodes=1, execute="all", workers=0))
    assert_rest_is_reproduced(tmp_path, "dual_arm", "mini_vla", ("random", "lift_tray", 0))


def test_every_candidate_of_every_decision_is_tried_and_the_recorded_one_ends_as_recorded(
    run: Path, tmp_path: Path
) -> None:
    branches = branch(run, tmp_path / "out", continuations=2)
    episodes = directory.read_episodes(run)
    expected = {
        Place("far", index, d, m, k)
        for index in range(EPISODES)
        for d in range(episodes["random", "far", index].decisions)
        for m in range(4)
        for k in range(2)
    }
    assert {b.place for b in branches} == expected
    for b in branches:
        recorded = episodes["random", "far", b.place.index]
        if b.place.continuation == 0 and recorded.chosen[b.place.decision] == b.place.candidate:
            assert b.outcome == recorded.outcome
    futures = {(b.place.candidate, b.place.continuation): b.outcome for b in branches}
    assert len(futures) == 8


def test_scores_are_those_of_the_recorded_decision(run: Path, tmp_path: Path) -> None:
    branches = branch(run, tmp_path / "out", continuations=2)
    assert branches
    for b in branches:
        whole = episode_file.read(directory.episode_path(run, ("random", "far", b.place.index)))
        assert b.scores["random"] == whole.scores[b.place.decision, b.place.candidate]
        assert set(b.scores) == {"random", TOWARDS}


@pytest.mark.slow
def test_workers_and_interruptions_change_nothing(run: Path, tmp_path: Path) -> None:
    whole = branch(run, tmp_path / "a")
    assert branch(run, tmp_path / "b", workers=2) == whole
    file = tmp_path / "a" / file_format.FILE
    torn = file.read_bytes()[: len(file.read_bytes()) // 2]
    file.write_bytes(torn)
    assert branch(run, tmp_path / "a") == whole
    assert file.read_bytes().startswith(torn[: torn.rfind(b"\n") + 1])


def test_who_knows_the_way_is_seen_to(run: Path, tmp_path: Path) -> None:
    found = report(branch(run, tmp_path / "out"))
    good, none = found.verifiers[TOWARDS], found.verifiers["random"]
    assert good.auc is not None
    assert none.auc is not None
    assert good.auc > 0.8 > none.auc
    assert good.gain > none.gain
    assert good.gain <= found.headroom + 1e-12
    assert found.episodes == EPISODES
    assert sum(n for n, _, _ in found.along) == found.decisions


def test_the_base_is_told_from_a_verifier_of_any_name(run: Path, tmp_path: Path) -> None:
    """A judged verifier never chooses, also when it is called as the base condition is."""
    policy, folder = policy_and_folder("tests.doubles.fakes:policy")
    base, judged = (load_condition(name, policy, folder).verifier for name in ("random", TOWARDS))
    outcomes = []
    for names in (("random", "base"), ("other", "another")):
        planner = BranchPlanner(policy, base, dict.fromkeys(names, judged), 4, WallClock())
        plan = Plan(run, "random", ("far",), 1, dict.fromkeys(names))
        with contextlib.closing(InProcessRunner("tests.doubles.fakes:suite", WallClock())) as runner:
            outcomes.append([(b.outcome, b.steps) for b in run_branches(plan, planner, runner, tmp_path / names[0])])
    assert outcomes[0] == outcomes[1]


def test_branches_of_one_episode_are_different_jobs(run: Path) -> None:
    """So that the pool counts the workers lost to each."""
    keys = [branch.job.key for branch in planned(Plan(run, "random", ("far",), 1, {"random": None}, 2))]
    assert len(set(keys)) == len(keys) > 8


def group(success: str, scores: list[float], index: int = 0, decision: int = 0) -> list[Branch]:
    words: dict[str, Outcome] = {"+": "success", "-": "failure", "!": "error"}
    return [
        Branch(Place("t", index, decision, m, 0), 2, words[o], 5, {"v": s})
        for m, (o, s) in enumerate(zip(success, scores, strict=True))
    ]


@pytest.mark.parametrize(
    ("success", "scores", "auc", "gain"),
    [
        ("+-", [1, 0], 1.0, 0.5),
        ("+-", [0, 1], 0.0, -0.5),
        ("+-", [1, 1], 0.5, 0.5),
        ("++--", [4, 1, 3, 2], 0.5, 0.5),
        ("+---", [2, 3, 1, 0], 2 / 3, -0.25),
    ],
)
def test_quality_by_hand(success: str, scores: list[float], auc: float, gain: float) -> None:
    found = report(group(success, scores))
    assert found.verifiers["v"].auc == pytest.approx(auc)
    assert found.verifiers["v"].gain == pytest.approx(gain)
    assert found.headroom == pytest.approx(1 - success.count("+") / len(success))


def test_auc_agrees_with_counting_pairs_over_decisions() -> None:
    rng = np.random.default_rng(2)
    branches, wins = [], []
    for index, decision in itertools.product(range(6), range(2)):
        success = "".join(rng.choice(["+", "-"], 5))
        scores = rng.integers(0, 4, 5).astype(float).tolist()
        branches += group(success, scores, index, decision)
        wins += [
            (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
            for i, j in itertools.permutations(range(5), 2)
            if success[i] == "+" and success[j] == "-"
        ]
    found = report(branches).verifiers["v"]
    assert found.auc == pytest.approx(np.mean(wins))
    assert found.auc_interval is not None
    assert found.auc_interval[0] <= np.mean(wins) <= found.auc_interval[1]


def test_a_decision_with_an_error_is_left_out_and_counted() -> None:
    found = report(group("+-", [1, 0]) + group("+!", [0, 1], index=1))
    assert (found.decisions, found.excluded) == (1, 1)
    assert found.verifiers["v"].auc == 1.0


def test_candidates_that_are_all_alike_say_nothing_of_order() -> None:
    found = report(group("++", [1, 0]) + group("--", [1, 0], index=1))
    assert found.verifiers["v"].auc is None
    assert found.verifiers["v"].correlation is None
    assert (found.verifiers["v"].gain, found.contested) == (0.0, 0.0)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_no_decision_is_not_enough_data() -> None:
    with pytest.raises(RobotestError, match="not enough data"):
        report(group("!!", [0, 1]))


def test_a_file_of_other_branches_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / file_format.FILE).write_text('{"run": "elsewhere", "condition": "random"}\n')
    with pytest.raises(RunDirectoryError, match="elsewhere"):
        branch(run, tmp_path / "out")
    (tmp_path / "out" / file_format.FILE).write_text("{}\n{broken\n")
    with pytest.raises(RunDirectoryError):
        branch(run, tmp_path / "out")


def test_on_the_command_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["branch", str(run), "--episodes", "2", "--verifiers", f"random,{TOWARDS}", *FAKE]
    assert main(arguments) == 0
    assert "Verifiers judged by" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


def test_branches_that_were_scored_by_others_are_not_continued(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["branch", str(run), "--episodes", "1", "--verifiers", f"random,{TOWARDS}", *FAKE]) == 0
    before = (run / "branches-random" / file_format.FILE).read_bytes()
    assert main(["branch", str(run), "--episodes", "2", "--verifiers", "random,first", *FAKE]) == 2
    assert "give these or another --out" in capsys.readouterr().err
    assert (run / "branches-random" / file_format.FILE).read_bytes() == before
    assert main(["branch", str(run), "--episodes", "2", "--verifiers", f"random,{TOWARDS}", *FAKE]) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--condition", "medoid"], "unknown condition 'medoid'"),
        (["--episodes", "9"], "has 4 of 9 episodes of random in far"),
        (["--every", "0"], "--every 0 given"),
        (["--tasks", "fra"], "unknown task 'fra'"),
        (["--verifiers", "leverige"], "unknown verifier 'leverige'"),
        (["--policy", "tests.doubles.fakes:other_policy"], "'fake' is other-weights; give the run's with --policy"),
    ],
)
def test_bad_input_is_one_line(run: Path, changes: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["branch", str(run), *changed(["--episodes", "2", *FAKE], changes)]) == 2
    assert says in capsys.readouterr().err
