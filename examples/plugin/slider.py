"""A minimal complete environment, policy and verifier: a slider on a rail must reach a mark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.errors import InvalidActionError, UnknownNameError
from robotest.randomness import derive, generator
from robotest.specs import Component, EnvSpec, PolicySpec, VectorSpec, VerifierSpec
from robotest.types import Candidates, EnvOptions, Observation, Policy, StepStatus, Verifier

ACTION = VectorSpec("position", (Component("slider", 1, "m", "position_on_rail", -1.0, 1.0),))
STATE = VectorSpec("rail", (Component("slider_and_mark", 2, "m", "position_on_rail", -1.0, 1.0),))
HORIZON, REACH_M, TOLERANCE_M = 4, 0.1, 0.02


class SliderEnv:
    """Moves at most `REACH_M` a step towards the commanded position."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        camera = (options.image_size, options.image_size)
        self._spec = EnvSpec("slider", task, options.setting, ACTION, STATE, {"top": camera}, 0.1, max_steps=30)
        self._state = np.zeros(3)  # slider [m], mark [m], steps

    @property
    def spec(self) -> EnvSpec:
        """See `Env.spec`."""
        return self._spec

    def reset(self, seed: int, episode: int = 0) -> None:
        """Place the mark at random on the task's side."""
        side = {"left": -1.0, "right": 1.0}[self._spec.task]
        self._state = np.array([0.0, side * generator(seed).uniform(0.3, 0.9), 0.0])

    def observe(self) -> Observation:
        """See `Env.observe`."""
        size = self._spec.cameras["top"][0]
        return Observation(
            images={"top": self.render("top", size, size)},
            state=self._state[:2].astype(np.float32),
            instruction=f"slide to the mark on the {self._spec.task}",
            time=float(self._state[2]) * self._spec.control_dt,
        )

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        """Do nothing: positions are absolute."""

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        """See `Env.apply`."""
        if action.shape != (1,) or not np.isfinite(action).all():
            raise InvalidActionError(f"action {action} given; it must be one finite number")
        sent = np.clip(action, ACTION.low, ACTION.high)
        self._state[0] += np.clip(float(sent[0]) - self._state[0], -REACH_M, REACH_M)
        self._state[2] += 1
        success = bool(abs(self._state[0] - self._state[1]) < TOLERANCE_M)
        return StepStatus(success=success, done=success, sent=sent)

    def stop(self) -> None:
        """Do nothing: the slider moves only in `apply`."""

    def close(self) -> None:
        """Do nothing: there are no resources to free."""

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        """See `SimulatedEnv.snapshot`."""
        state: Float64[np.ndarray, " N"] = self._state.copy()
        return state

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        """See `SimulatedEnv.restore`."""
        self._state = state.copy()

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        """Draw the slider in red and the mark in green."""
        picture = np.full((height, width, 3), 40, np.uint8)
        for channel, position in enumerate(self._state[:2]):
            column = int((position + 1) / 2 * (width - 1))
            picture[height // 3 : 2 * height // 3, max(0, column - 1) : column + 2, channel] = 255
        return picture


class SliderSuite:
    """The suite, target of the entry point in ``robotest.envs``."""

    name = "slider"
    tasks: tuple[str, ...] = ("left", "right")
    settings: tuple[str, ...] = ("clean",)
    action_modes: tuple[str, ...] = ("position",)

    def make(self, task: str, options: EnvOptions) -> SliderEnv:
        """See `Suite.make`."""
        for kind, name, known in (
            ("task", task, self.tasks),
            ("setting", options.setting, self.settings),
            ("action mode", options.action_mode, self.action_modes),
        ):
            if name not in known:
                raise UnknownNameError(f"{kind} of slider", name, known)
        return SliderEnv(task, options)


suite = SliderSuite()


class SliderPolicy:
    """Goes to the mark, with noise."""

    spec = PolicySpec(
        name="slider",
        fingerprint="none",
        action=ACTION,
        state=STATE,
        cameras={"top": (32, 32)},
        horizon=HORIZON,
        feature_shapes={},
        action_scale=np.ones((HORIZON, 1), np.float32),
    )

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        """See `Policy.sample`; each candidate has its own generator, so it does not depend on `n_candidates`."""
        batch = []
        for observation, seed in zip(observations, noise_seeds, strict=True):
            noise = [generator(derive(seed, m)).normal(0, 0.05) for m in range(n_candidates)]
            ends = np.clip(observation.state[1] + np.array(noise), -1, 1)
            batch.append(Candidates(np.repeat(ends[:, None, None], HORIZON, axis=1).astype(np.float32)))
        return batch


def load_policy(path: Path | None) -> Policy:
    """Factory, target of the entry point in ``robotest.policies``."""
    return SliderPolicy()


class Calm:
    """Prefers the chunk with the smallest displacement."""

    spec = VerifierSpec("calm")

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        """See `Verifier.score`."""
        moved = np.abs(candidates.actions[:, -1, 0] - observation.state[0])
        scores: Float64[np.ndarray, " M"] = -moved.astype(np.float64)
        return scores


def make_calm(policy: PolicySpec, path: Path | None) -> Verifier:
    """Factory, target of the entry point in ``robotest.verifiers``."""
    return Calm()
