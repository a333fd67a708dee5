"""An environment and a policy that do nothing, with pictures of realistic size, to measure the harness alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from robotest.specs import Component, EnvSpec, PolicySpec, VectorSpec
from robotest.types import Candidates, EnvOptions, Observation, Policy, SimulatedEnv, StepStatus, Suite

ACTION = VectorSpec("null", (Component("joints", 14, "rad", "joint_position", -3.0, 3.0),))
STATE = VectorSpec("null", (Component("joints", 14, "rad", "joint_position", -3.0, 3.0),))
SIZE, MAX_STEPS, HORIZON = 256, 300, 10
CAMERAS = {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)}


class NullEnv:
    """Has two pictures and a state, and never succeeds."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        self.spec = EnvSpec("null", task, options.setting, ACTION, STATE, CAMERAS, 0.05, MAX_STEPS)
        rng = np.random.default_rng(0)
        self._images = {name: rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for name in CAMERAS}
        self._state = np.zeros(STATE.size, np.float32)
        self._snapshot = np.zeros(64)

    def reset(self, seed: int, episode: int = 0) -> None:
        """Do nothing."""

    def observe(self) -> Observation:
        """Return the same pictures."""
        return Observation(self._images, self._state, "do nothing", 0.0)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Do nothing."""

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """Do nothing."""
        return StepStatus(False, False, action)

    def snapshot(self) -> np.ndarray:
        """Return a state of realistic size."""
        return self._snapshot

    def restore(self, state: np.ndarray) -> None:
        """Do nothing."""

    def render(self, camera: str, height: int, width: int) -> np.ndarray:  # noqa: ARG002 - the protocol's signature
        """Return a picture."""
        return self._images[camera]

    def stop(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class NullSuite:
    """One task."""

    name = "null"
    tasks: tuple[str, ...] = ("nothing",)
    settings: tuple[str, ...] = ("clean",)
    action_modes: tuple[str, ...] = ("null",)

    def make(self, task: str, options: EnvOptions) -> SimulatedEnv:
        """Make it."""
        return NullEnv(task, options)


class NullPolicy:
    """Returns the same chunk."""

    def __init__(self) -> None:
        scale = np.ones((HORIZON, ACTION.size), np.float32)
        self.spec = PolicySpec("null", "null", ACTION, STATE, CAMERAS, HORIZON, {}, scale, concurrent=True)

    def sample(
        self,
        observations: Sequence[Observation],
        noise_seeds: Sequence[int],  # noqa: ARG002 - the protocol's signature
        n_candidates: int,
    ) -> list[Candidates]:
        """Return zeros."""
        return [Candidates(np.zeros((n_candidates, HORIZON, ACTION.size), np.float32)) for _ in observations]


suite: Suite = NullSuite()


def policy(path: Path | None = None) -> Policy:  # noqa: ARG001 - the factories' signature
    """Make the policy."""
    return NullPolicy()
