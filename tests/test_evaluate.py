from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from robotest import registry
from robotest.clock import WallClock
from robotest.config import EvalConfig
from robotest.errors import InterruptedRunError, RobotestError, RunDirectoryError, SpecMismatchError, UnknownNameError
from robotest.evaluation import Progress, evaluate
from robotest.loading import load_condition, policy_and_folder
from robotest.runs import episode_file
from robotest.runs.directory import episode_path, read_arguments, read_episodes
from robotest.types import EnvOptions, Episode
from tests.doubles import fakes

TOWARDS = "tests.doubles.fakes:towards"


def config(out: Path, **changes: Any) -> EvalConfig:
    base = EvalConfig(
        out=out,
        env="tests.doubles.fakes:suite",
        policy="tests.doubles.fakes:policy",
        verifiers=("random", "medoid"),
        episodes=3,
        candidates=4,
        execute=4,
        workers=0,
    )
    return dataclasses.replace(base, **changes)


def untimed(path: Path) -> list[str]:
    """The lines of a run without their times."""
    lines = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in line.items() if k != "time"}) for line in lines]


def timeless(path: Path) -> dict[tuple[str, str, int], Episode]:
    return {
        key: dataclasses.replace(e, sample_s=0.0, verify_s=0.0, wall_s=0.0) for key, e in read_episodes(path).items()
    }


def test_every_task_episode_and_condition_runs_once_in_paired_order(tmp_path: Path) -> None:
    seen: list[Progress] = []
    summary = evaluate(config(tmp_path / "run"), seen.append)
    keys = [(c, t, i) for t in ("near", "far") for i in range(3) for c in ("random", "medoid")]
    assert list(read_episodes(tmp_path / "run")) == keys
    assert [(p.total, p.done, p.before) for p in seen] == [(12, n, 0) for n in range(13)]
    assert seen[0].episode is None
    assert [(e.condition, e.task, e.index) for e in (p.episode for p in seen) if e] == keys
    assert summary.conditions["random"].overall.episodes == 6
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary.to_json()))


def test_the_same_command_twice_gives_the_same_lines_but_for_times(tmp_path: Path) -> None:
    for name in ("a", "b"):
        evaluate(config(tmp_path / name), timer=fakes.FakeClock() if name == "a" else WallClock())
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")


def test_a_second_call_has_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config(tmp_path))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(fakes.PointEnv, "reset", lambda self, seed: pytest.fail("an episode was run again"))
    seen: list[Progress] = []
    assert evaluate(config(tmp_path), seen.append).conditions == first.conditions
    assert seen == [Progress(12, 12, 12, None)]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "changes",
    [
        {"verifiers": ("medoid", "random")},
        {"verifiers": ("medoid",)},
        {"verifiers": (TOWARDS, "first", "random")},
        {"tasks": ("far",)},
        {"tasks": ("far", "near")},
        {"episodes": 2},
        {"record": "none"},
    ],
)
def test_an_episode_does_not_depend_on_what_else_is_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    evaluate(config(tmp_path / "a"))
    evaluate(config(tmp_path / "b", **changes))
    a, b = timeless(tmp_path / "a"), timeless(tmp_path / "b")
    common = set(a) & set(b)
    assert len(common) >= 3
    assert {k: a[k] for k in common} == {k: b[k] for k in common}


def test_conditions_start_alike_and_choose_among_the_same_first_candidates(tmp_path: Path) -> None:
    evaluate(config(tmp_path, verifiers=("random", TOWARDS), episodes=2))
    for index in range(2):
        a, b = (episode_file.read(episode_path(tmp_path, (c, "far", index))) for c in ("random", TOWARDS))
        assert a.snapshots is not None
        assert b.snapshots is not None
        assert (a.snapshots[0] == b.snapshots[0]).all()
        assert (a.candidates[0] == b.candidates[0]).all()


def test_other_seeds_are_other_episodes(tmp_path: Path) -> None:
    for seed in (0, 1):
        evaluate(config(tmp_path / str(seed), seed=seed))
    assert untimed(tmp_path / "0") != untimed(tmp_path / "1")


def test_fewer_candidates_are_the_first_of_more(tmp_path: Path) -> None:
    for n in (2, 8):
        evaluate(config(tmp_path / str(n), candidates=n, verifiers=("first",)))
    assert untimed(tmp_path / "2") == untimed(tmp_path / "8")


def test_a_verifier_that_knows_the_way_is_seen_to_help(tmp_path: Path) -> None:
    summary = evaluate(config(tmp_path, verifiers=("random", TOWARDS), tasks=("far",), episodes=40, candidates=8))
    (comparison,) = summary.comparisons
    assert (comparison.a, comparison.b, comparison.pairs) == (TOWARDS, "random", 40)
    assert comparison.p_value is not None
    assert comparison.p_value < 1e-3
    assert comparison.interval is not None
    assert comparison.interval[0] > 0


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    evaluate(config(tmp_path / "whole"))

    def interrupt(progress: Progress) -> None:
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match=r"the 5 finished episodes are kept in .*the same command goes on"):
        evaluate(config(tmp_path / "parts"), interrupt)
    seen: list[Progress] = []
    evaluate(config(tmp_path / "parts"), seen.append)
    assert seen[0] == Progress(12, 5, 5, None)
    assert untimed(tmp_path / "parts") == untimed(tmp_path / "whole")


def test_an_interrupt_inside_an_episode_keeps_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, resets = fakes.PointEnv.reset, []

    def reset(self: fakes.PointEnv, seed: int, episode: int) -> None:
        resets.append(self)
        if len(resets) == 4:
            raise KeyboardInterrupt
        original(self, seed, episode)

    monkeypatch.setattr(fakes.PointEnv, "reset", reset)
    with pytest.raises(InterruptedRunError, match="the 3 finished"):
        evaluate(config(tmp_path))
    assert resets[-1].stops == 4
    assert resets[-1].closed
    assert len(read_episodes(tmp_path)) == 3


def test_more_episodes_continue_and_fewer_are_summarised_alone(tmp_path: Path) -> None:
    evaluate(config(tmp_path, episodes=2))
    seen: list[Progress] = []
    assert evaluate(config(tmp_path, episodes=4), seen.append).conditions["random"].overall.episodes == 8
    assert seen[0] == Progress(16, 8, 8, None)
    assert evaluate(config(tmp_path, episodes=1)).conditions["random"].overall.episodes == 2
    assert len(read_episodes(tmp_path)) == 16


def test_conditions_and_tasks_can_be_added(tmp_path: Path) -> None:
    evaluate(config(tmp_path, tasks=("near",)))
    summary = evaluate(config(tmp_path, verifiers=("first",)))
    assert list(summary.conditions) == ["first"]
    assert set(read_arguments(tmp_path).verifiers) == {"random", "medoid", "first"}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed: 0 there, 1 given"),
        ({"candidates": 5}, "candidates: 4 there, 5 given"),
        ({"execute": "all"}, "execute: 4 there, 6 given"),
        ({"wording": "unseen"}, "wording: 'seen' there, 'unseen' given"),
        (
            {"policy": "tests.doubles.fakes:other_policy"},
            "policy_fingerprint: 'fake-weights' there, 'other-weights' given",
        ),
    ],
)
def test_what_changes_an_episode_is_refused(tmp_path: Path, changes: dict[str, Any], difference: str) -> None:
    evaluate(config(tmp_path, episodes=1))
    with pytest.raises(RunDirectoryError, match=difference):
        evaluate(config(tmp_path, **changes))


def test_executing_all_is_the_horizon(tmp_path: Path) -> None:
    evaluate(config(tmp_path, episodes=1, execute="all"))
    evaluate(config(tmp_path, episodes=1, execute=fakes.HORIZON))


def test_an_exception_in_an_episode_is_an_error_beside_the_rate(tmp_path: Path) -> None:
    summary = evaluate(config(tmp_path, policy="tests.doubles.fakes:broken_policy", tasks=("far",)))
    overall = summary.conditions["random"].overall
    assert (overall.errors, overall.rate) == (3, None)
    assert summary.comparisons[0].p_value is None
    assert summary.comparisons[0].excluded == 3
    (error,) = {e.error for e in read_episodes(tmp_path).values()}
    assert error == "InvalidActionError: policy 'fake' gave a non-finite action in candidate 3"
    assert episode_file.read(episode_path(tmp_path, ("random", "far", 0))).episode.outcome == "error"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 0}, "--candidates 0 given"),
        ({"episodes": 0}, "--episodes 0 given"),
        ({"execute": 0}, "--execute 0 given; policy 'fake' has chunks of 1 to 6 actions"),
        ({"execute": 7}, "--execute 7 given"),
        ({"verifiers": ()}, "no verifiers given"),
        ({"verifiers": ("random", "random")}, "verifier 'random' given 2 times"),
        ({"verifiers": ("randm",)}, "Did you mean 'random'"),
        ({"tasks": ("nar",)}, "unknown task of tests.doubles.fakes:suite 'nar'. Did you mean 'near'"),
        ({"tasks": ("near", "near")}, "task 'near' given 2 times"),
        ({"env": "dual-arm"}, "Did you mean 'dual_arm'"),
        ({"policy": "mini_vl"}, "Did you mean 'mini_vla'"),
        ({"policy": "no/such/folder"}, "unknown policy 'no/such/folder'"),
        ({"setting": "cleen"}, "Did you mean 'clean'"),
        ({"image_size": 32}, r"needs camera 'top' at \(16, 16\) px; fake renders \(32, 32\)"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RobotestError, match=message):
        evaluate(config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.PointEnv, "reset", lambda self, seed: pytest.fail("an episode was run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot write"):
        evaluate(config(tmp_path / "file" / "run"))


def test_environments_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[fakes.PointEnv] = []

    def make(self: fakes.PointSuite, task: str, options: EnvOptions) -> fakes.PointEnv:
        made.append(fakes.PointEnv(task, options))
        return made[-1]

    monkeypatch.setattr(fakes.PointSuite, "make", make)
    evaluate(config(tmp_path))
    assert made
    assert all(env.closed for env in made)


def test_without_recording_there_are_no_episode_files(tmp_path: Path) -> None:
    evaluate(config(tmp_path, record="none"))
    assert not list(tmp_path.rglob("*.h5"))


def test_a_file_names_its_condition_and_its_contents_count(tmp_path: Path) -> None:
    for name in ("up", "down"):
        (tmp_path / f"{name}.txt").write_text("1" if name == "up" else "-1")
    up, down = (f"tests.doubles.fakes:from_file={tmp_path / name}.txt" for name in ("up", "down"))
    evaluate(config(tmp_path / "run", verifiers=(up, down), episodes=1))
    chosen = {c: set(e.chosen) for (c, _, _), e in read_episodes(tmp_path / "run").items()}
    assert chosen == {"up": {3}, "down": {0}}
    (tmp_path / "up.txt").write_text("2")
    with pytest.raises(RunDirectoryError, match=r"verifier 'up': [0-9a-f]{16} there, [0-9a-f]{16} given"):
        evaluate(config(tmp_path / "run", verifiers=(up, down), episodes=1))


def test_inverted_turns_another_verifier_round(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("1")
    given = f"tests.doubles.fakes:from_file={tmp_path}/v.txt"
    evaluate(config(tmp_path / "run", verifiers=(f"inverted:{given}", f"inverted:{TOWARDS}"), episodes=1))
    chosen = {c: set(e.chosen) for (c, _, _), e in read_episodes(tmp_path / "run").items()}
    assert chosen["inverted:v"] == {0}
    assert set(chosen) == {"inverted:v", f"inverted:{TOWARDS}"}


def test_inverted_alone_is_that_of_leverage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = registry.resolve, []

    def resolve(kind: Any, name: str) -> Any:
        if name != "leverage":
            return original(kind, name)

        def make(spec: Any, path: Path) -> fakes.TowardsVerifier:
            asked.append(path)
            return fakes.towards(spec, path)

        return make

    monkeypatch.setattr("robotest.loading.resolve", resolve)
    condition = load_condition("inverted", fakes.policy(), tmp_path)
    assert asked == [tmp_path / "leverage.safetensors"]
    assert (condition.name, condition.verifier.spec.name) == ("inverted", "inverted:towards")


def test_a_folder_is_a_policy_of_ours_and_holds_its_verifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Path | None] = []

    def load(path: Path | None) -> fakes.PointPolicy:
        given.append(path)
        return fakes.policy()

    monkeypatch.setattr("robotest.loading.resolve", lambda kind, name: {"mini_vla": load}[name])
    assert policy_and_folder(str(tmp_path))[1] == tmp_path
    policy_and_folder("mini_vla")
    assert given == [tmp_path, None]


def test_a_verifier_of_another_policy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "towards", lambda spec, path: fakes.TowardsVerifier(fakes.other_policy().spec))
    with pytest.raises(SpecMismatchError, match="fitted to policy other-weights"):
        evaluate(config(tmp_path / "run", verifiers=(TOWARDS,)))


def test_a_policy_that_is_nowhere_says_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match="a folder that `robotest train` wrote"):
        policy_and_folder("nothing")


def test_tasks_may_have_commas_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pick, place", "turn,pull,push", "near")
    monkeypatch.setattr(fakes.PointSuite, "tasks", names)
    monkeypatch.setattr(fakes.PointSuite, "make", lambda self, task, options: fakes.PointEnv("near", options))
    for given in (names, ("near", "pick", "place", "turn", "pull", "push")):
        out = tmp_path / str(len(given))
        evaluate(config(out, tasks=given, episodes=1, verifiers=("first",)))
        assert {task for _, task, _ in read_episodes(out)} == set(names)


def unseeded(path: Path | None = None) -> fakes.PointPolicy:
    policy = fakes.PointPolicy()
    policy._spec = dataclasses.replace(policy.spec, seeded=False)
    return policy


def test_every_table_says_that_noise_is_not_shared(tmp_path: Path) -> None:
    summary = evaluate(config(tmp_path, policy=f"{__name__}:unseeded"))
    assert "fake draws its own noise: conditions do not share their candidates" in summary.notes


def test_verifiers_without_training_data_compare_like_any_other(tmp_path: Path) -> None:
    names = ("first", "medoid", "keystone", "coherence", "likelihood")
    policy = "tests.doubles.fakes:knowing_policy"
    summary = evaluate(config(tmp_path, policy=policy, verifiers=names, episodes=2, candidates=8, execute=3))
    assert {name: c.overall.errors for name, c in summary.conditions.items()} == dict.fromkeys(names, 0)
    chosen = {
        name: [e.chosen for key, e in sorted(read_episodes(tmp_path).items()) if key[0] == name] for name in names
    }
    assert len({str(choices) for choices in chosen.values()}) == len(names)  # each chooses in its own way


def test_a_verifier_that_the_policy_cannot_serve_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SpecMismatchError, match="'likelihood' needs log-probabilities; policy 'fake' gives none"):
        evaluate(config(tmp_path / "run", verifiers=("first", "likelihood")))
    assert not (tmp_path / "run").exists()
