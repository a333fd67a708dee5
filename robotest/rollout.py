"""The loop: observe, decide, act. Simulators and robots differ only in their `Env` and `Clock`."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from robotest.errors import RobotestError
from robotest.randomness import EpisodeSeeds
from robotest.types import Clock, Decision, Env, Episode, Observation, Outcome, Recorder, SimulatedEnv, StepStatus

Decide = Callable[[Observation, int], Decision]
"""What `rollout` asks for a chunk: the observation and the number of the decision within the episode."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """A place within an episode to start from, in place of its beginning.

    Attributes:
        state: a snapshot of the same episode.
        step: actions that led there.
        number: decisions that led there.
    """

    state: Float64[np.ndarray, " N"]
    step: int
    number: int


def rollout(
    env: Env,
    decide: Decide,
    seeds: EpisodeSeeds,
    recorder: Recorder,
    clock: Clock,
    execute: int | None = None,
    origin: Origin | None = None,
) -> bool:
    """Run one episode and return whether it succeeded.

    Between two decisions nothing is observed, and so nothing is rendered.

    Args:
        env: where to act; `stop` is called on every exit, also by an exception.
        decide: chooses a chunk for an observation.
        seeds: of this episode.
        recorder: told of every decision and every action.
        clock: paces the actions, `control_dt` apart.
        execute: how many actions of a chunk to execute before the next decision; None is all of them.
        origin: where to start; None is the episode's beginning. Steps and decisions are numbered on from there.
    """
    spec = env.spec
    try:
        env.reset(seeds.reset, seeds.episode)
        step, number = _go_to(env, origin) if origin else (0, 0)
        recorder.begin(env)
        while True:
            observation = env.observe()
            decision = decide(observation, number)
            recorder.decision(step, observation, decision)
            actions = decision.chunk[:execute]
            env.begin_chunk(actions)
            start = clock.now()
            for k, action in enumerate(actions, 1):
                status = env.apply(action)
                step += 1
                recorder.step(env, action, status)
                clock.sleep_until(start + k * spec.control_dt)
                if status.done or step == spec.max_steps:
                    return status.success
            number += 1
    finally:
        env.stop()


def _go_to(env: Env, origin: Origin) -> tuple[int, int]:
    if not isinstance(env, SimulatedEnv):
        raise RobotestError(f"{env.spec.name} cannot be put into a state; only simulated environments can")
    env.restore(origin.state)
    return origin.step, origin.number


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How an attempt at an episode ended.

    Attributes:
        outcome: success, failure or error.
        error: one line when `outcome` is error.
        traceback: where it happened, for people; empty otherwise.
        wall_s: wall-clock time of the episode [s].
    """

    outcome: Outcome
    error: str | None
    traceback: str
    wall_s: float


def attempt(
    env: Env,
    decide: Decide,
    seeds: EpisodeSeeds,
    recorder: Recorder,
    clock: Clock,
    timer: Clock,
    execute: int | None = None,
    origin: Origin | None = None,
) -> Attempt:
    """`rollout`, with an exception made into an error.

    Args:
        env: as for `rollout`.
        decide: as for `rollout`.
        seeds: as for `rollout`.
        recorder: as for `rollout`.
        clock: paces the actions.
        timer: measures `wall_s`.
        execute: as for `rollout`.
        origin: as for `rollout`.
    """
    start, error, where = timer.now(), None, ""
    outcome: Outcome
    try:
        outcome = "success" if rollout(env, decide, seeds, recorder, clock, execute, origin) else "failure"
    except Exception as exception:  # noqa: BLE001 - whatever breaks an episode is that episode's result, not the run's end
        outcome, error, where = "error", describe(exception), traceback.format_exc()
    return Attempt(outcome, error, where, timer.now() - start)


def describe(exception: BaseException) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(exception).__name__}: {exception}".split())


def result(condition: str, seeds: EpisodeSeeds, max_steps: int, attempt: Attempt, trace: Trace) -> Episode:
    """Return what is filed about an episode.

    Args:
        condition: name that the result is filed under.
        seeds: of the episode.
        max_steps: the task's step limit.
        attempt: how it ended.
        trace: what happened, as far as it went.
    """
    return Episode(
        condition=condition,
        task=seeds.task,
        index=seeds.episode,
        outcome=attempt.outcome,
        steps=len(trace.actions),
        max_steps=max_steps,
        decisions=len(trace.decisions),
        instruction=trace.instruction,
        chosen=tuple(d.chosen for _, d in trace.decisions),
        error=attempt.error,
        sample_s=sum(d.sample_s for _, d in trace.decisions),
        verify_s=sum(d.verify_s for _, d in trace.decisions),
        wall_s=attempt.wall_s,
    )


@dataclasses.dataclass
class Trace:
    """A `Recorder` that keeps one episode in memory.

    Attributes:
        instruction: the words given; empty before the first decision.
        snapshots: the state after the reset and after every action; empty if the environment is not simulated.
        actions: the actions really sent.
        success: the task's predicate after every action.
        decisions: (number of the action that followed, decision).
    """

    instruction: str = ""
    snapshots: list[Float64[np.ndarray, " N"]] = dataclasses.field(default_factory=list)
    actions: list[Float32[np.ndarray, " A"]] = dataclasses.field(default_factory=list)
    success: list[bool] = dataclasses.field(default_factory=list)
    decisions: list[tuple[int, Decision]] = dataclasses.field(default_factory=list)
    _simulator: SimulatedEnv | None = dataclasses.field(default=None, repr=False)

    def begin(self, env: Env) -> None:
        """Keep the initial state."""
        self._simulator = env if isinstance(env, SimulatedEnv) else None  # asked once: slower than a step
        self._snapshot()

    def decision(self, step: int, observation: Observation, decision: Decision) -> None:
        """Keep a decision."""
        self.instruction = observation.instruction
        self.decisions.append((step, decision))

    def step(self, env: Env, action: Float32[np.ndarray, " A"], status: StepStatus) -> None:  # noqa: ARG002
        """Keep what an action did."""
        self.actions.append(status.sent.copy())
        self.success.append(status.success)
        self._snapshot()

    def _snapshot(self) -> None:
        if self._simulator is not None:
            self.snapshots.append(self._simulator.snapshot())


class SimClock:
    """Simulated time: sleeping moves it, nothing waits."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds since the clock was made [s]."""
        return self._now

    def sleep_until(self, deadline: float) -> None:
        """Move time to `deadline`, never backwards."""
        self._now = max(self._now, deadline)


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Monotonic seconds [s]; only differences mean anything."""
        return time.perf_counter()

    def sleep_until(self, deadline: float) -> None:
        """Wait until `deadline`."""
        time.sleep(max(0.0, deadline - self.now()))
