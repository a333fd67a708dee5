"""Point suites that do what environments should not: draw starts from elsewhere, show NaN, answer with a dict."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robotest.errors import UnknownNameError
from robotest.types import Candidates, EnvOptions, Observation, StepStatus
from tests.doubles.fakes import PointEnv, PointPolicy, PointSuite

BROKEN = "UNRULY_BROKEN"
"""Environment variable: while it is set, the task ``breaks_at_reset`` does."""
_resets = itertools.count(1)


class UnrulyEnv(PointEnv):
    """Behaves as its task says."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        super().__init__("far", options)
        self._unruly = task
        self._spec = dataclasses.replace(super().spec, task=task)
        if task == "breaks_when_built":
            raise OSError("no licence for this simulator")

    def reset(self, seed: int, episode: int = 0) -> None:
        if self._unruly == "breaks_at_reset" and os.environ.get(BROKEN):
            raise OSError("no picture without a screen")
        super().reset(seed, episode)
        angles: dict[str, Callable[[], float]] = {
            "global_numpy": lambda: np.random.uniform(0, 6),  # noqa: NPY002 - what it is about
            "global_random": lambda: random.uniform(0, 6),
            "global_torch": _torchs,
            "unseeded": lambda: np.random.default_rng().uniform(0, 6),
            "hidden": lambda: np.random.default_rng().uniform(0, 6),
            "counter": lambda: next(_resets) % 7,
        }
        angle = angles.get(self._unruly)
        if angle is not None:
            a: float = angle()
            self.restore(np.array([0, 0, 0.6 * np.cos(a), 0.6 * np.sin(a), 0, 0, 0.0]))

    def observe(self) -> Observation:
        observation = super().observe()
        if self._unruly == "nan" and self._steps:
            return dataclasses.replace(observation, state=np.full(4, np.nan, np.float32))
        if self._unruly == "hidden":
            same = {camera: np.zeros_like(image) for camera, image in observation.images.items()}
            return dataclasses.replace(observation, state=np.array([0, 0, 0.6, 0], np.float32), images=same)
        return observation

    def apply(self, action: np.ndarray) -> StepStatus:
        status = super().apply(action)
        answer: Any = {"dict": {"success": False}, "word": "no", "not_a_number": float("nan"), "list": [0]}.get(
            self._unruly, status.success
        )
        reward = {"rewards": 0.5, "bad_reward": float("inf")}.get(self._unruly)
        if answer is status.success:
            return StepStatus(answer, status.done, status.sent, reward)
        foreign = object.__new__(StepStatus)  # the tests' own checks of types would be the first to refuse it
        for name, value in (("success", answer), ("done", status.done), ("sent", status.sent), ("reward", reward)):
            object.__setattr__(foreign, name, value)
        return foreign


def _torchs() -> float:
    import torch

    return float(torch.rand(()) * 6)


class UnrulySuite(PointSuite):
    name = "unruly"
    tasks = (
        "global_numpy",
        "global_random",
        "global_torch",
        "unseeded",
        "counter",
        "hidden",
        "nan",
        "dict",
        "word",
        "not_a_number",
        "list",
        "rewards",
        "bad_reward",
        "breaks_at_reset",
        "breaks_when_built",
    )

    def make(self, task: str, options: EnvOptions) -> PointEnv:
        if task not in self.tasks:
            raise UnknownNameError("task", task, self.tasks)
        return UnrulyEnv(task, options)


class RewardingEnv(UnrulyEnv):
    """Has rewards, and no rule by which it could succeed."""

    def __init__(self, task: str, options: EnvOptions) -> None:
        super().__init__("rewards", options)
        self._spec = dataclasses.replace(self._spec, task=task, success=options.success or "none")

    def apply(self, action: np.ndarray) -> StepStatus:
        status = super().apply(action)
        return dataclasses.replace(status, success=False, reward=-float(np.linalg.norm(self._tip - self._target)))


class RewardingSuite(PointSuite):
    name = "rewarding"

    def make(self, task: str, options: EnvOptions) -> PointEnv:
        return RewardingEnv(task, options)


class TorchPolicy(PointPolicy):
    """Gives its candidates as another library has them."""

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        import torch

        found = []
        for candidates in super().sample(observations, noise_seeds, n_candidates):
            foreign = object.__new__(Candidates)  # the tests' shape checks refuse what users do
            for name, value in (
                ("actions", torch.tensor(candidates.actions, requires_grad=True)),
                ("features", {"hidden": torch.tensor(candidates.features["hidden"])}),
                ("log_probs", None),
            ):
                object.__setattr__(foreign, name, value)
            found.append(foreign)
        return found


class WordyPolicy(PointPolicy):
    """Gives candidates that are no numbers at all."""

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        foreign = object.__new__(Candidates)
        object.__setattr__(foreign, "actions", np.full((n_candidates, 6, 3), "left"))
        object.__setattr__(foreign, "features", {})
        object.__setattr__(foreign, "log_probs", None)
        return [foreign for _ in observations]


class LeavingPolicy(PointPolicy):
    """Wants to end the process."""

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        raise SystemExit(3)


suite = UnrulySuite()
rewarding = RewardingSuite()


def torch_policy(path: Path | None = None) -> PointPolicy:
    return TorchPolicy()


def wordy_policy(path: Path | None = None) -> PointPolicy:
    return WordyPolicy()


def leaving_policy(path: Path | None = None) -> PointPolicy:
    return LeavingPolicy()


def raising_policy(path: Path | None = None) -> PointPolicy:
    raise ValueError("no such checkpoint")
