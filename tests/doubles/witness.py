"""A policy that does what the pixels say: one other bit in one picture, and it acts otherwise from there on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robotest import registry
from robotest.randomness import derive, generator
from robotest.specs import PolicySpec, VectorSpec
from robotest.types import Candidates, Env, EnvOptions, Observation, Suite

CAMERAS = {"agentview": (64, 64), "robot0_eye_in_hand": (64, 64)}
HORIZON = 40
STEPS = 2 * HORIZON + HORIZON // 2


class Witness:
    """Draws its actions from a digest of everything it sees."""

    def __init__(self, action: VectorSpec, state: VectorSpec) -> None:
        self.spec = PolicySpec(
            name="witness",
            fingerprint="witness",
            action=action,
            state=state,
            cameras=CAMERAS,
            horizon=HORIZON,
            feature_shapes={},
            action_scale=np.ones((HORIZON, action.size), np.float32),
        )

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        return [self._one(o, s, n_candidates) for o, s in zip(observations, noise_seeds, strict=True)]

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        seen = hashlib.sha256(observation.state.tobytes())
        for camera in CAMERAS:
            seen.update(observation.images[camera].tobytes())
        low, high = self.spec.action.low, self.spec.action.high
        drawn = [generator(derive(seed, seen.hexdigest(), m)).uniform(low, high, (HORIZON, len(low))) for m in range(n)]
        return Candidates(np.stack(drawn).astype(np.float32))


def one_arm(path: Path | None = None) -> Witness:
    from robotest.envs.robosuite.world import action_layout, state_layout

    return Witness(action_layout(1), state_layout(1))


@dataclasses.dataclass(frozen=True)
class Short:
    """A suite whose episodes end after `STEPS`: a whole one of LIBERO's takes half a minute."""

    suite: Suite

    def __getattr__(self, name: str) -> Any:
        return getattr(self.suite, name)

    def make(self, task: str, options: EnvOptions) -> Env:
        env = self.suite.make(task, options)
        vars(env)["spec"] = dataclasses.replace(env.spec, max_steps=STEPS)
        return env


def __getattr__(name: str) -> Short:
    if name != "libero":
        raise AttributeError(name)
    return Short(registry.resolve("env", "libero/libero_object:7"))  # made late: LIBERO is not everywhere
