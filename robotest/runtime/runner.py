"""Runners of episodes: this process (`InProcessRunner`), or workers (`robotest.runtime.pool`) with the same results."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from robotest import experts, interrupt
from robotest.clock import SimClock
from robotest.randomness import EpisodeSeeds, GlobalGenerators
from robotest.registry import resolve
from robotest.runtime.rollout import Origin, Trace, attempt, result
from robotest.runtime.selector import DecisionRequest, Selector
from robotest.specs import EnvSpec
from robotest.types import Clock, Decision, Env, EnvOptions, Episode, Observation, Suite


@dataclasses.dataclass(frozen=True)
class SuiteInfo:
    """The choices that a suite offers.

    Attributes:
        tasks: as `Suite.tasks`.
        settings: as `Suite.settings`.
        action_modes: as `Suite.action_modes`.
    """

    tasks: tuple[str, ...]
    settings: tuple[str, ...]
    action_modes: tuple[str, ...]

    @classmethod
    def of(cls, suite: Suite) -> SuiteInfo:
        """Return those of a suite."""
        return cls(tuple(suite.tasks), tuple(suite.settings), tuple(suite.action_modes))


@dataclasses.dataclass(frozen=True)
class EpisodeJob:
    """One episode to run.

    Attributes:
        condition: whose verifier chooses.
        seeds: of the episode; they name its task.
        options: how to build the environment.
        execute: how many actions of a chunk to execute.
        origin: where to start within the episode; None is its beginning.
        film: see `Trace.film`.
        candidate: the one to execute at the first decision, whatever the scores; None leaves it to the verifier.
    """

    condition: str
    seeds: EpisodeSeeds
    options: EnvOptions
    execute: int
    origin: Origin | None = None
    film: bool = False
    candidate: int | None = None

    @property
    def first_decision(self) -> int:
        """Number of its first decision within the episode."""
        return self.origin.number if self.origin else 0

    @property
    def key(self) -> tuple[str, EpisodeSeeds, int, int | None]:
        """What tells it from every other job of a run."""
        return (self.condition, self.seeds, self.first_decision, self.candidate)

    def request(self, number: int, observation: Observation) -> DecisionRequest:
        """Return the request for decision `number`."""
        candidate = self.candidate if number == self.first_decision else None
        return DecisionRequest(self.condition, self.seeds, number, observation, candidate)


@dataclasses.dataclass(frozen=True)
class EpisodeResult:
    """One episode that ended.

    Attributes:
        job: the job that ran it.
        episode: its result.
        trace: what happened.
        decisions: number -> decision, in their order; one for each of `Trace.decision_steps`.
        control_dt: seconds between two actions [s].
        traceback: where an error happened; empty without one.
        began: whether its first action was executed.
    """

    job: EpisodeJob
    episode: Episode
    trace: Trace
    decisions: Mapping[int, Decision]
    control_dt: float
    traceback: str = ""
    began: bool = True


@runtime_checkable
class EpisodeRunner(Protocol):
    """Runs episodes of one suite."""

    def suite(self) -> SuiteInfo:
        """Return the suite's choices; `RobotestError` if there is no such suite."""
        ...

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """Build an environment and return its spec; `RobotestError` if it cannot be built."""
        ...

    def run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Generator[EpisodeResult, None, None]:
        """Run episodes and yield each as it ends. Jobs are taken as they are needed, in their order.

        Close the generator to leave early; unfinished episodes are discarded.
        `SpecMismatchError` if the selector's policy cannot act in a task.
        """
        ...

    def close(self) -> None:
        """Free resources; nothing may be called afterwards."""
        ...


class InProcessRunner:
    """Runs episodes in this process, one after the other: for debugging, and where processes cannot be started.

    Args:
        env: name of the suite.
        timer: measures.
    """

    def __init__(self, env: str, timer: Clock) -> None:
        self._name, self._suite = env, resolve("env", env)
        self._timer = timer
        self._made: tuple[str, EnvOptions, Env] | None = None

    def suite(self) -> SuiteInfo:
        """See `EpisodeRunner.suite`."""
        return SuiteInfo.of(self._suite)

    def spec(self, task: str, options: EnvOptions) -> EnvSpec:
        """See `EpisodeRunner.spec`."""
        return self._env(task, options).spec

    def run(self, selector: Selector, jobs: Iterable[EpisodeJob]) -> Generator[EpisodeResult, None, None]:
        """See `EpisodeRunner.run`."""
        for job in jobs:
            env = self._env(job.seeds.task, job.options)
            selector.require_fits(env.spec)
            yield self._run(selector, job, env)

    def close(self) -> None:
        """See `EpisodeRunner.close`."""
        if self._made is not None:
            self._made[2].close()
            self._made = None

    def _run(self, selector: Selector, job: EpisodeJob, env: Env) -> EpisodeResult:
        trace, decisions = Trace(film=job.film), dict[int, Decision]()

        def decide(observation: Observation, number: int) -> Float32[np.ndarray, "H A"]:
            interrupt.check()
            with policy_generators.lent():
                decisions[number] = selector.decide([job.request(number, observation)])[0]
            return decisions[number].chunk

        policy_generators, clock = GlobalGenerators.present(), SimClock()
        ended = attempt(env, decide, job.seeds, trace, clock, self._timer, job.execute, job.origin)
        policy_generators.resume()
        episode = result(job.condition, job.seeds, env.spec.max_steps, ended, trace, decisions)
        began = bool(trace.actions)
        return EpisodeResult(job, episode, trace, decisions, env.spec.control_dt, ended.traceback, began=began)

    def _env(self, task: str, options: EnvOptions) -> Env:
        """Return the environment of a task, built again only when task or options change."""
        if self._made is None or self._made[:2] != (task, options):
            self.close()
            self._made = (task, options, experts.make(self._name, self._suite, task, options))
        return self._made[2]
