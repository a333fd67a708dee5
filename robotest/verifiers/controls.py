"""Controls: baselines for fitted verifiers that choose among the same candidates without training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from robotest.randomness import generator
from robotest.registry import resolve
from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Observation, Verifier

Score = Callable[[Candidates, int], Float64[np.ndarray, " M"]]


class Control:
    """A verifier that needs no features and fits every policy: a name and a function (candidates, seed) -> scores."""

    def __init__(self, name: str, score: Score) -> None:
        self._spec = VerifierSpec(name)
        self._score = score

    @property
    def spec(self) -> VerifierSpec:
        """Return a spec without requirements."""
        return self._spec

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG002
        """See `Verifier.score`."""
        return self._score(candidates, seed)


class Inverted:
    """The negated score of another verifier. If the score carries signal, this must reduce success."""

    def __init__(self, verifier: Verifier) -> None:
        spec = verifier.spec
        self._verifier = verifier
        self._spec = VerifierSpec(f"inverted:{spec.name}", spec.feature, spec.policy_fingerprint)

    @property
    def spec(self) -> VerifierSpec:
        """Return the other verifier's spec under the inverted name."""
        return self._spec

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        """See `Verifier.score`."""
        return -self._verifier.score(observation, candidates, seed)


def first(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001 - the factories' signature
    """Make the control that always takes candidate 0: the plain policy."""
    return Control("first", lambda candidates, _: -np.arange(len(candidates.actions), dtype=np.float64))


def random(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001
    """Make the control with independent uniform scores drawn from the decision's seed."""
    return Control("random", lambda candidates, seed: generator(seed).random(len(candidates.actions)))


def medoid(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001
    """Make the control that takes the candidate with the smallest mean L2 distance to the others.

    Distances are between whole chunks, each component in units of `PolicySpec.action_scale`.
    """
    scale = policy.action_scale.astype(np.float64)

    def score(candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG001
        n = len(candidates.actions)
        chunks = (candidates.actions / scale).reshape(n, -1)
        distances = np.linalg.norm(chunks[:, None] - chunks[None], axis=-1)
        scores: Float64[np.ndarray, " M"] = -distances.sum(axis=1) / max(1, n - 1)
        return scores

    return Control("medoid", score)


def inverted(policy: PolicySpec, path: Path | None = None) -> Verifier:
    """Invert the `leverage` verifier in file `path`; the name ``inverted:NAME`` inverts any other verifier."""
    return Inverted(resolve("verifier", "leverage")(policy, path))
