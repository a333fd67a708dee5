"""Controls: baselines for fitted verifiers that choose among the same candidates without training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from robotest.randomness import generator
from robotest.registry import resolve
from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Context, Observation, Verifier

Score = Callable[[Context, Candidates, int], Float64[np.ndarray, " M"]]
"""What was executed before, the candidates, and the decision's seed -> scores."""


@dataclasses.dataclass(frozen=True)
class Control:
    """A verifier without training data: its requirements, and how it scores."""

    spec: VerifierSpec
    scores: Score

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        """See `Verifier.score`."""
        return self.scores(observation.context, candidates, seed)


class Inverted:
    """The negated score of another verifier. If the score carries signal, this must reduce success."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._spec = dataclasses.replace(verifier.spec, name=f"inverted:{verifier.spec.name}")

    @property
    def spec(self) -> VerifierSpec:
        """Return the other verifier's spec under the inverted name."""
        return self._spec

    def score(self, observation: Observation, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:
        """See `Verifier.score`."""
        return -self._verifier.score(observation, candidates, seed)


def first(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001 - the factories' signature
    """Make the control that always takes candidate 0: the plain policy."""
    return Control(
        VerifierSpec("first"), lambda _, candidates, __: -np.arange(len(candidates.actions), dtype=np.float64)
    )


def random(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001
    """Make the control with independent uniform scores drawn from the decision's seed."""
    return Control(VerifierSpec("random"), lambda _, chunks, seed: generator(seed).random(len(chunks.actions)))


def medoid(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001
    """Make the control that takes the candidate with the smallest mean L2 distance to the others.

    Distances are between whole chunks, each component in units of `PolicySpec.action_scale`.
    """

    def score(context: Context, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG001
        distances = pairwise(scaled(candidates.actions, policy))
        scores: Float64[np.ndarray, " M"] = -distances.sum(axis=1) / max(1, len(distances) - 1)
        return scores

    return Control(VerifierSpec("medoid"), score)


def scaled(actions: Float32[np.ndarray, "M h A"], policy: PolicySpec) -> Float64[np.ndarray, "M D"]:
    """Return the first h actions of chunks as vectors, each component in units of `PolicySpec.action_scale`."""
    n, h, _ = actions.shape
    vectors: Float64[np.ndarray, "M D"] = (actions / policy.action_scale[:h].astype(np.float64)).reshape(n, -1)
    return vectors


def pairwise(vectors: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, "M M"]:
    """Return the L2 distance between every two vectors."""
    distances: Float64[np.ndarray, "M M"] = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    return distances


def inverted(policy: PolicySpec, path: Path | None = None) -> Verifier:
    """Invert the `leverage` verifier in file `path`; the name ``inverted:NAME`` inverts any other verifier."""
    return Inverted(resolve("verifier", "leverage")(policy, path))
