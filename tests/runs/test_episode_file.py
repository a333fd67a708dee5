from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from jaxtyping import Float32

from robotest.clock import SimClock
from robotest.errors import ArtifactError
from robotest.randomness import EpisodeSeeds
from robotest.runs import episode_file
from robotest.runtime.rollout import Trace, attempt, result
from robotest.runtime.selector import DecisionRequest, VerifierSelector
from robotest.types import Candidates, Decision, EnvOptions, Episode, Observation
from robotest.verifiers import controls
from tests.doubles.fakes import BrokenPolicy, FakeClock, PointEnv, PointPolicy

OPTIONS = EnvOptions(image_size=16)
SEEDS = EpisodeSeeds(0, "near", 1)


def record(policy: PointPolicy) -> tuple[episode_file.Recording, Trace]:
    selector = VerifierSelector(policy, {"random": controls.random(policy.spec)}, 4, FakeClock())

    def decide(observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
        decisions[number] = selector.decide([DecisionRequest("random", SEEDS, number, observation)])[0]
        return decisions[number].chunk

    trace, decisions = Trace(), dict[int, Decision]()
    ended = attempt(PointEnv("near", OPTIONS), decide, SEEDS, trace, SimClock(), FakeClock(), 4)
    episode = result("random", SEEDS, 20, ended, trace, decisions)
    scene = episode_file.Recipe("tests.doubles.fakes:suite", "near", OPTIONS, SEEDS.reset, 0.1)
    return episode_file.from_trace(episode, scene, trace, decisions), trace


def assert_equal(a: episode_file.Recording, b: episode_file.Recording) -> None:
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y), field.name
        else:
            assert x == y, field.name


@pytest.mark.parametrize("policy", [PointPolicy(), BrokenPolicy()])
def test_what_is_written_is_read(policy: PointPolicy, tmp_path: Path) -> None:
    recorded, _ = record(policy)
    episode_file.write(tmp_path / "a" / "b.h5", recorded)
    assert_equal(episode_file.read(tmp_path / "a" / "b.h5"), recorded)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.h5"]


def test_levels_are_recorded_where_earlier_readers_do_not_look(tmp_path: Path) -> None:
    recorded, _ = record(PointPolicy())
    assert recorded.levels is None
    n = 2500  # more levels than an attribute of fixed length holds
    levels = np.random.default_rng(0).random((n, 4))
    with_levels = dataclasses.replace(
        recorded,
        decision_steps=np.arange(n),
        candidates=np.zeros((n, 4, 6, 3), np.float32),
        scores=-levels,
        chosen=np.zeros(n, np.int64),
        levels=levels,
    )
    for name, written in (("without", recorded), ("with", with_levels)):
        episode_file.write(tmp_path / name, written)
        assert_equal(episode_file.read(tmp_path / name), written)
    with h5py.File(tmp_path / "without") as without, h5py.File(tmp_path / "with") as file:
        assert set(file) == set(without) <= {field.name for field in dataclasses.fields(recorded)} - {"levels"}
        assert file.attrs["format"] == "robotest-episode-1"
        assert set(file.attrs) == set(without.attrs)


def test_decisions_pass_their_levels_on() -> None:
    actions = np.zeros((2, 6, 3), np.float32)

    def decision(levels: np.ndarray | None) -> Decision:
        return Decision(Candidates(actions), np.zeros(2), 0, 0.0, 0.0, levels)

    recorded, trace = record(PointPolicy())
    for given, expected in (
        ([np.array([0.1, 0.2]), np.array([0.3, 0.4])], [[0.1, 0.2], [0.3, 0.4]]),
        ([None, None], None),
        ([None, np.array([0.3, 0.4])], None),
        ([], None),
    ):
        decisions = {number: decision(levels) for number, levels in enumerate(given)}
        trace.decision_steps = list(range(len(decisions)))
        trace.actions = trace.actions if decisions else []
        trace.success = trace.success if decisions else []
        trace.snapshots = trace.snapshots if decisions else []
        made = episode_file.from_trace(recorded.episode, recorded.scene, trace, decisions)
        assert (None if made.levels is None else made.levels.tolist()) == expected


def test_a_recording_holds_what_happened() -> None:
    recorded, _ = record(PointPolicy())
    steps, decisions = recorded.episode.steps, recorded.episode.decisions
    assert recorded.snapshots is not None
    assert recorded.snapshots.shape == (steps + 1, 7)
    assert recorded.actions.shape == (steps, 3)
    assert recorded.success.shape == (steps,)
    assert recorded.candidates.shape == (decisions, 4, 6, 3)
    assert recorded.scores.shape == (decisions, 4)
    assert recorded.decision_steps.tolist() == list(range(0, steps, 4))
    assert tuple(recorded.chosen) == recorded.episode.chosen
    for k in range(decisions):
        sent = recorded.actions[4 * k : 4 * k + 4]
        assert np.allclose(sent, recorded.candidates[k, recorded.chosen[k], : len(sent)].clip(-0.5, 1))


def test_recorded_states_can_be_shown_again() -> None:
    recorded, _ = record(PointPolicy())
    env = PointEnv(recorded.scene.task, recorded.scene.options)
    env.reset(recorded.scene.reset_seed)
    assert recorded.snapshots is not None
    assert np.array_equal(env.snapshot(), recorded.snapshots[0])
    env.restore(recorded.snapshots[-1])
    assert np.array_equal(env.snapshot(), recorded.snapshots[-1])


@pytest.mark.parametrize("simulated", [True, False])
def test_an_episode_that_broke_before_its_first_decision(simulated: bool, tmp_path: Path) -> None:
    episode = Episode("c", "near", 0, "error", 0, 20, 0, "", (), "RuntimeError: no", 0.0, 0.0, 0.1)
    trace = Trace(snapshots=[np.zeros(7)] if simulated else [])
    scene = episode_file.Recipe("e", "near", OPTIONS, 2**64 - 1, 0.1)
    episode_file.write(tmp_path / "e.h5", episode_file.from_trace(episode, scene, trace, {}))
    back = episode_file.read(tmp_path / "e.h5")
    assert back.episode == episode
    assert back.scene == scene
    assert (back.snapshots is not None) == simulated


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no episode file"):
        episode_file.read(tmp_path / "nothing.h5")


def test_another_kind_of_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not at all")
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(ArtifactError, match=r"text\.h5 is damaged"):
        episode_file.read(tmp_path / "text.h5")
    with pytest.raises(ArtifactError, match=r"other\.h5 is not an episode file"):
        episode_file.read(tmp_path / "other.h5")


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "e.h5"
    episode_file.write(path, record(PointPolicy())[0])
    with h5py.File(path, "a") as file:
        del file["scores"]
    with pytest.raises(ArtifactError, match="is damaged"):
        episode_file.read(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="is damaged"):
        episode_file.read(path)
