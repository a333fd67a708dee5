"""Scripted experts: the source of demonstrations, and the policy ``expert``.

An expert needs the true state of the simulation, so it runs in the process of the environment: `Guided` adds to every
observation what the expert would do next, and the policy ``expert`` does that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest import registry
from robotest.errors import InvalidActionError, RobotestError, SpecMismatchError, UnknownNameError, building
from robotest.randomness import GlobalGenerators, derive, generator
from robotest.specs import EnvSpec, PolicySpec
from robotest.types import Candidates, Command, Env, EnvOptions, Experts, Observation, SimulatedEnv, StepStatus, Suite

POLICY: Final = "expert"
"""Name of the policy: ``expert``, or ``expert:STYLE``."""
CLEAN: Final = "clean"


def style_of(policy: str) -> str | None:
    """Return the style of ``expert`` or ``expert:STYLE``; None if the policy is no expert."""
    name, _, style = policy.partition(":")
    return (style or CLEAN) if name == POLICY else None


def experts_of(env: str) -> Experts:
    """Return the experts of a suite.

    Raises:
        RobotestError: it has none.
    """
    if registry.find("expert", env) is None:
        known = ", ".join(sorted(registry.table("expert")))
        raise RobotestError(f"env {env!r} has no scripted experts; these have: {known}")
    experts: Experts = registry.resolve("expert", env)
    return experts


def require_style(experts: Experts, style: str) -> None:
    """Raise `UnknownNameError` if the experts have no such style."""
    if style not in experts.mixture:
        raise UnknownNameError("style", style, experts.mixture)


def make(name: str, suite: Suite, task: str, options: EnvOptions) -> Env:
    """Build an environment of a suite, with its expert if the options have one.

    Args:
        name: of the suite, as registered or ``module:attribute``.
        suite: builds the environment.
        task: of the suite.
        options: how to build it.

    Raises:
        RobotestError: the constructor raised an error, in one line; or the options do not suit the suite.
    """
    # A constructor that draws from global generators then draws the same in every process.
    with building(f"env {name!r}, task {task!r}"), GlobalGenerators(derive("build", name, task)).lent():
        env = suite.make(task, options)
        rule = env.spec.success
    if options.success not in (None, rule):
        env.close()
        raise RobotestError(f"--success {options.success!r} given; {name} judges its tasks itself, by {rule!r}")
    if options.expert is None:
        return env
    if not isinstance(env, SimulatedEnv):
        env.close()
        raise RobotestError(f"{name} is not simulated; an expert needs the state of a simulation")
    return Guided(env, experts_of(name), options.expert)


class Guided:
    """A simulated environment that adds its expert's proposal to every observation.

    Args:
        env: the environment.
        experts: of its suite.
        style: one of the experts' styles.
    """

    def __init__(self, env: SimulatedEnv, experts: Experts, style: str) -> None:
        require_style(experts, style)
        if env.spec.task not in experts.tasks:
            env.close()
            raise RobotestError(f"task {env.spec.task!r} has no expert; these have: {', '.join(experts.tasks)}")
        self._env, self._experts, self._style = env, experts, style
        self._commands: Iterator[Command] = iter(())
        self._next: Command | None = None

    @property
    def spec(self) -> EnvSpec:
        """See `Env.spec`."""
        return self._env.spec

    def reset(self, seed: int, episode: int) -> None:
        """See `Env.reset`."""
        self._env.reset(seed, episode)
        self._commands = self._experts.commands(self._env, self._style, generator(derive(seed, "expert")))
        self._next = None

    def observe(self) -> Observation:
        """See `Env.observe`; the expert acts once in a step."""
        if self._next is None:
            self._next = next(self._commands, None)
        if self._next is None:
            raise RobotestError("an expert cannot continue from a restored state; reset the environment first")
        offset = (self._next.action - self._next.anchor).astype(np.float32)
        return dataclasses.replace(self._env.observe(), proposal=offset[None])

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """See `Env.begin_chunk`."""
        self._env.begin_chunk(actions)

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """See `Env.apply`."""
        self._next = None
        return self._env.apply(action)

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """The environment's; the expert's script is not part of it."""
        return self._env.snapshot()

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        """Restore a state to look at; the expert cannot continue from there."""
        self._env.restore(state)
        self._commands = iter(())

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """See `SimulatedEnv.render`."""
        return self._env.render(camera, height, width)

    def stop(self) -> None:
        """See `Env.stop`."""
        self._env.stop()

    def close(self) -> None:
        """See `Env.close`."""
        self._env.close()


class ExpertPolicy:
    """Does what the environment's expert proposes, one action at a time. Implements `robotest.types.Policy`.

    Args:
        env: spec of the environment it acts in.
        style: for its name.
    """

    def __init__(self, env: EnvSpec, style: str) -> None:
        name = POLICY if style == CLEAN else f"{POLICY}:{style}"
        self._spec = PolicySpec.blind(name, env, np.ones((1, env.action.size), np.float32))

    @property
    def spec(self) -> PolicySpec:
        """See `Policy.spec`."""
        return self._spec

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        """Return the proposals, `n_candidates` times: an expert does not draw."""
        if len(noise_seeds) != len(observations):
            raise InvalidActionError(f"{len(noise_seeds)} seeds for {len(observations)} observations")
        return [Candidates(np.repeat(self._proposal(o)[None], n_candidates, 0)) for o in observations]

    def _proposal(self, observation: Observation) -> Float32[np.ndarray, "1 A"]:
        if observation.proposal is None:
            raise SpecMismatchError("the policy 'expert' needs an environment with an expert; use --policy expert")
        return observation.proposal
