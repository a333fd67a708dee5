"""A point that is to reach a target, and a policy that often knows the way: the whole runtime in numpy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from robotest.errors import InvalidActionError, UnknownNameError
from robotest.randomness import derive, generator
from robotest.specs import Component, EnvSpec, PolicySpec, VectorSpec, VerifierSpec
from robotest.types import Candidates, EnvOptions, Observation, StepStatus

ACTION = VectorSpec(
    "tip",
    (
        Component("tip", 2, "m", "position_xy_world", -0.5, 0.5, "chunk_start"),
        Component("gripper", 1, "fraction", "opening", 0.0, 1.0),
    ),
)
STATE = VectorSpec("point", (Component("points", 4, "m", "tip_xy_target_xy_world", -2.0, 2.0),))
HORIZON = 6


class PointEnv:
    """Moves at most 5 cm a step towards the set-point; success within 5 cm of the target."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        cameras = {"top": (options.image_size, options.image_size)}
        self._spec = EnvSpec("fake", task, options.setting, ACTION, STATE, cameras, control_dt=0.1, max_steps=20)
        self._reach = {"near": 0.3, "far": 0.6}[task]
        self._wording = options.wording
        self.stops = 0
        self.pictures = 0
        self.closed = False
        self._tip = self._target = self._anchor = np.zeros(2)
        self._steps = 0

    @property
    def spec(self) -> EnvSpec:
        return self._spec

    def reset(self, seed: int, episode: int = 0) -> None:
        rng = generator(derive(seed, self._spec.task))
        angle = rng.uniform(0, 2 * np.pi)
        target = self._reach * np.array([np.cos(angle), np.sin(angle)])
        self.restore(np.concatenate([np.zeros(2), target, np.zeros(2), [0.0]]))

    def observe(self) -> Observation:
        self.pictures += 1
        state = np.concatenate([self._tip, self._target]).astype(np.float32)
        size = self._spec.cameras["top"][0]
        words = {"seen": "reach the target", "unseen": "go there"}[self._wording]
        return Observation({"top": self.render("top", size, size)}, state, words, self._steps * 0.1)

    def begin_chunk(self, actions: Float32[np.ndarray, "h A"]) -> None:
        self._anchor = self._tip.copy()

    def apply(self, action: Float32[np.ndarray, " A"]) -> StepStatus:
        if action.shape != (3,) or not np.isfinite(action).all():
            raise InvalidActionError(f"action {action} given; 3 finite numbers are needed")
        sent = action.clip(ACTION.low, ACTION.high)
        way = self._anchor + sent[:2] - self._tip
        self._tip = self._tip + way * min(1.0, 0.05 / max(1e-9, float(np.linalg.norm(way))))
        self._steps += 1
        success = bool(np.linalg.norm(self._tip - self._target) < 0.05)
        return StepStatus(success, success, sent)

    def snapshot(self) -> Float64[np.ndarray, " N"]:
        return np.concatenate([self._tip, self._target, self._anchor, [self._steps]])

    def restore(self, state: Float64[np.ndarray, " N"]) -> None:
        self._tip, self._target, self._anchor = state[0:2].copy(), state[2:4].copy(), state[4:6].copy()
        self._steps = int(state[6])

    def render(self, camera: str, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
        picture = np.zeros((height, width, 3), np.uint8)
        for channel, (x, y) in enumerate((self._tip, self._target)):
            row, column = int((y + 1) / 2 * height), int((x + 1) / 2 * width)
            picture[min(max(row, 0), height - 1), min(max(column, 0), width - 1), channel] = 255
        return picture

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        self.closed = True


class PointSuite:
    """Two tasks that differ in distance."""

    name = "fake"
    tasks: tuple[str, ...] = ("near", "far")
    settings: tuple[str, ...] = ("clean",)
    action_modes: tuple[str, ...] = ("tip",)

    def make(self, task: str, options: EnvOptions) -> PointEnv:
        if task not in self.tasks:
            raise UnknownNameError("task", task, self.tasks)
        if options.setting not in self.settings:
            raise UnknownNameError("setting", options.setting, self.settings)
        return PointEnv(task, options)


class PointPolicy:
    """Heads for the target, and in four chunks of ten the other way. Features are the chunk itself, padded."""

    def __init__(self, fingerprint: str = "fake-weights", wrong: float = 0.4) -> None:
        self._wrong = wrong
        self._spec = PolicySpec(
            name="fake",
            fingerprint=fingerprint,
            action=ACTION,
            state=STATE,
            cameras={"top": (16, 16)},
            horizon=HORIZON,
            feature_shapes={"hidden": (HORIZON, 4)},
            action_scale=np.full((HORIZON, 3), 0.1, np.float32),
        )

    @property
    def spec(self) -> PolicySpec:
        return self._spec

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        return [self._one(o, s, n_candidates) for o, s in zip(observations, noise_seeds, strict=True)]

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        way = observation.state[2:4] - observation.state[0:2]
        noises = np.stack([generator(derive(seed, m)).standard_normal(4) for m in range(n)])
        wrong = np.where(np.abs(noises[:, 3]) < 0.5, -1.0, 1.0) if self._wrong else np.ones(n)
        ends = way[None] * wrong[:, None] + 0.02 * noises[:, :2]
        steps = np.minimum(1.0, np.arange(1, HORIZON + 1) * 0.05 / np.linalg.norm(ends, axis=1, keepdims=True))
        actions = np.concatenate([ends[:, None] * steps[..., None], np.full((n, HORIZON, 1), 0.5)], axis=2)
        features = np.concatenate([actions, np.ones((n, HORIZON, 1))], axis=2)
        return Candidates(actions.astype(np.float32), {"hidden": features.astype(np.float32)})


class KnowingPolicy(PointPolicy):
    """Knows how likely its chunks are, up to a constant."""

    def __init__(self) -> None:
        super().__init__()
        self._spec = dataclasses.replace(self._spec, log_probs=True)

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        noises = np.stack([generator(derive(seed, m)).standard_normal(4) for m in range(n)])
        log_probs = (-np.square(noises).sum(axis=1) / 2).astype(np.float32)
        return dataclasses.replace(super()._one(observation, seed, n), log_probs=log_probs)


class BrokenPolicy(PointPolicy):
    """Gives a NaN in one candidate once the point is on its way."""

    def _one(self, observation: Observation, seed: int, n: int) -> Candidates:
        candidates = super()._one(observation, seed, n)
        if observation.time > 0:
            candidates.actions[n - 1, 2, 0] = np.nan
        return candidates


class TowardsVerifier:
    """Knows the way: scores by how near the chunk's end is to the target."""

    def __init__(self, policy: PolicySpec) -> None:
        self._spec = VerifierSpec("towards", "hidden", policy.fingerprint)

    @property
    def spec(self) -> VerifierSpec:
        return self._spec

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        way = (observation.state[2:4] - observation.state[0:2]).astype(np.float64)
        scores: Float64[np.ndarray, " M"] = -np.linalg.norm(candidates.features["hidden"][:, -1, :2] - way, axis=1)
        return scores


class FakeClock:
    """Every question takes a tick; sleeping is noted."""

    def __init__(self, tick: float = 1.0) -> None:
        self._now, self._tick = 0.0, tick
        self.deadlines: list[float] = []

    def now(self) -> float:
        self._now += self._tick
        return self._now

    def sleep_until(self, deadline: float) -> None:
        self.deadlines.append(deadline)


@dataclasses.dataclass
class FileVerifier:
    """Scores from a file's one number, for tests of fingerprints."""

    spec: VerifierSpec
    factor: float

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        return self.factor * np.arange(len(candidates.actions), dtype=np.float64)


suite = PointSuite()


def policy(path: Path | None = None) -> PointPolicy:
    return PointPolicy()


def other_policy(path: Path | None = None) -> PointPolicy:
    return PointPolicy("other-weights")


def knowing_policy(path: Path | None = None) -> PointPolicy:
    return KnowingPolicy()


def broken_policy(path: Path | None = None) -> PointPolicy:
    return BrokenPolicy()


def towards(spec: PolicySpec, path: Path | None) -> TowardsVerifier:
    return TowardsVerifier(spec)


def from_file(spec: PolicySpec, path: Path | None) -> FileVerifier:
    assert path is not None
    return FileVerifier(VerifierSpec("from_file"), float(path.read_text()))
