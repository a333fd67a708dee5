from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import Float32

from robotest.clock import SimClock, WallClock
from robotest.randomness import EpisodeSeeds
from robotest.runtime.rollout import Decide, Trace, attempt, result, rollout
from robotest.types import Candidates, Decision, EnvOptions, Episode, Observation
from tests.doubles.fakes import ACTION, FakeClock, PointEnv

SEEDS = EpisodeSeeds(0, "near", 3)
Chunk = Float32[np.ndarray, "H A"]


def make_env(task: str = "near") -> PointEnv:
    return PointEnv(task, EnvOptions(image_size=16))


def chunk(actions: np.ndarray) -> Chunk:
    return actions.astype(np.float32)


def towards(observation: Observation, number: int) -> Chunk:
    way = observation.state[2:] - observation.state[:2]
    return chunk(np.tile([*way.clip(-0.5, 0.5), 0.0], (6, 1)))


def stay(observation: Observation, number: int) -> Chunk:
    return chunk(np.zeros((6, 3)))


def nan(observation: Observation, number: int) -> Chunk:
    return towards(observation, number) if number == 0 else chunk(np.full((6, 3), np.nan))


def run(env: PointEnv, decide: Decide, execute: int | None = None) -> tuple[Episode, Trace]:
    trace, decisions = Trace(), dict[int, Decision]()

    def recorded(observation: Observation, number: int) -> Chunk:
        decisions[number] = Decision(Candidates(decide(observation, number)[None]), np.zeros(1), 0, 0.25, 0.125)
        return decisions[number].chunk

    ended = attempt(env, recorded, SEEDS, trace, SimClock(), FakeClock(), execute)
    return result("c", SEEDS, env.spec.max_steps, ended, trace, decisions), trace


def test_success_ends_the_episode_at_once() -> None:
    episode, trace = run(make_env(), towards, 4)
    assert episode.outcome == "success"
    assert trace.success == [False] * (episode.steps - 1) + [True]
    assert episode.steps < 20


def test_the_step_limit_is_a_failure_in_the_middle_of_a_chunk() -> None:
    episode, trace = run(make_env("far"), stay)
    assert (episode.outcome, episode.steps, episode.decisions) == ("failure", 20, 4)
    assert trace.decision_steps == [0, 6, 12, 18]


@pytest.mark.parametrize(("execute", "decisions"), [(1, 20), (4, 5), (6, 4), (None, 4)])
def test_execute_actions_of_each_chunk_and_look_only_at_decisions(execute: int | None, decisions: int) -> None:
    env = make_env("far")
    episode, _ = run(env, stay, execute)
    assert episode.decisions == env.pictures == decisions


def test_chunk_offsets_are_measured_from_the_start_of_each_chunk() -> None:
    env = make_env("far")
    rollout(env, lambda o, n: chunk(np.tile([0.02, 0.0, 0.0], (3, 1))), SEEDS, Trace(), SimClock())
    assert env.snapshot()[0] == pytest.approx(7 * 0.02)


def test_an_exception_is_an_error_with_one_line_and_the_world_is_stopped() -> None:
    env = make_env()
    episode, trace = run(env, nan, 2)
    assert episode.outcome == "error"
    assert episode.error is not None
    assert episode.error.startswith("InvalidActionError: action")
    assert "\n" not in episode.error
    assert (episode.steps, episode.decisions) == (2, 2)
    assert len(trace.snapshots) == 3
    assert env.stops == 1


def test_the_world_is_stopped_on_success() -> None:
    env = make_env()
    run(env, towards)
    assert env.stops == 1


def test_a_reset_that_fails_is_an_error_too_and_stops() -> None:
    class Broken(PointEnv):
        def reset(self, seed: int, episode: int = 0) -> None:
            raise RuntimeError("no\nworld")

    env = Broken("near", EnvOptions(image_size=16))
    episode, _ = run(env, towards)
    assert (episode.outcome, episode.error, episode.steps) == ("error", "RuntimeError: no world", 0)
    assert env.stops == 1


def test_an_interrupt_passes_through_and_stops_the_world() -> None:
    def interrupt(observation: Observation, number: int) -> Chunk:
        raise KeyboardInterrupt

    env = make_env()
    with pytest.raises(KeyboardInterrupt):
        run(env, interrupt)
    assert env.stops == 1


def test_times_are_summed() -> None:
    episode, _ = run(make_env("far"), stay)
    assert (episode.sample_s, episode.verify_s, episode.wall_s) == (1.0, 0.5, 1.0)


def test_a_trace_holds_the_sent_actions_and_every_state() -> None:
    env = make_env("far")
    episode, trace = run(env, lambda o, n: chunk(np.full((6, 3), 9.0)))
    assert len(trace.snapshots) == episode.steps + 1
    assert all((a == [0.5, 0.5, 1.0]).all() for a in trace.actions)
    assert np.array_equal(trace.snapshots[-1], env.snapshot())
    env.reset(SEEDS.reset)
    assert np.array_equal(trace.snapshots[0], env.snapshot())


def test_actions_are_paced_by_the_clock() -> None:
    """From the start of each chunk: time that a decision takes is not caught up."""
    clock = FakeClock(tick=7.0)
    rollout(make_env("far"), stay, SEEDS, Trace(), clock)
    chunks = ((7.0, 6), (14.0, 6), (21.0, 6), (28.0, 2))
    assert clock.deadlines == pytest.approx([start + 0.1 * k for start, steps in chunks for k in range(1, steps + 1)])


def test_simulated_time_moves_by_sleeping_alone() -> None:
    clock = SimClock()
    clock.sleep_until(3.0)
    clock.sleep_until(1.0)
    assert clock.now() == 3.0


def test_real_time_waits() -> None:
    clock = WallClock()
    deadline = clock.now() + 0.01
    clock.sleep_until(deadline)
    assert clock.now() >= deadline
    clock.sleep_until(deadline - 1.0)


def test_a_decision_knows_what_was_executed_before() -> None:
    contexts = []

    def moving(observation: Observation, number: int) -> Chunk:
        contexts.append(observation.context)
        return chunk(np.stack([0.01 * np.arange(1 + number, 7 + number), np.zeros(6), np.full(6, number)], axis=1))

    run(make_env("far"), moving, execute=4)
    first, second, third = contexts[:3]
    assert (first.step, first.previous, first.executed) == (0, None, 0)
    assert first.rest(ACTION).shape == (0, 3)
    assert (second.step, second.executed, third.step) == (4, 4, 8)
    assert second.previous is not None
    assert second.previous.shape == (6, 3)
    # Offsets of 0.05 and 0.06 m from the old start, 0.04 m from which the new chunk starts; the gripper is absolute.
    np.testing.assert_allclose(second.rest(ACTION), [[0.01, 0, 0], [0.02, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(third.rest(ACTION)[:, 2], 1)
