"""KeyStone: the medoid of the larger of two clusters, or of all candidates where these have one mode.

Source: Dai et al. 2026, "Geometry Guided Self-Consistency for Physical AI", arXiv 2605.08638, Listing 2, as in the
authors' code (github.com/dywsjtu/keystone) with its defaults. The candidates count as unimodal where their mean lies
close to their medoid, |mean - medoid| <= 0.3 times the median distance between two of them. Otherwise they are split by
2-means, and the medoid of the larger cluster is taken. Distances are L2 over the steps that will be executed, since the
others are discarded.

What is not from the paper:

- Distances are in units of `PolicySpec.action_scale`; the authors use the policy's numbers as they are.
- 2-means starts from the two candidates farthest apart, and not from the first two, so that the order of the candidates
  does not matter. For the same reason the tighter of two clusters of one size is the larger.
- A verifier is not told how many steps will be executed. It takes the number executed of the chunk before, which is the
  same throughout a run, and at the first decision, where there is none, the whole chunk.
- The paper only chooses. Here every candidate has a score: minus its mean distance to the others of its cluster, and
  those of the smaller cluster come after all of the larger one.

The paper's test takes independent noise in many dimensions for several modes: the mean is then as far from every
candidate as these are from each other, divided by sqrt(2). Of 8 draws from one normal distribution, 63 % count as
unimodal in 2 dimensions, 12 % in 6 and none in 50.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Context, Verifier
from robotest.verifiers.controls import Control, pairwise, scaled

UNIMODAL: Final = 0.3
"""Largest distance of the mean from the medoid, in median distances, of candidates with one mode."""
_ROUNDS: Final = 100
"""2-means is done after a few; this bounds a cycle that rounding might cause."""


def make(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001 - the factories' signature
    """Make the verifier."""

    def score(context: Context, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG001
        return support(scaled(candidates.actions[:, : context.executed or policy.horizon], policy))

    return Control(VerifierSpec("keystone"), score)


def support(vectors: Float64[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
    """Return the score of every candidate; if they are unimodal, that of `medoid`."""
    distances = pairwise(vectors)
    side = np.zeros(len(vectors), bool) if _unimodal(vectors, distances) else _halves(vectors, distances)
    together = side[:, None] == side
    sizes = together.sum(axis=1)
    scores: Float64[np.ndarray, " M"] = -(distances * together).sum(axis=1) / np.maximum(1, sizes - 1)
    return np.where(2 * sizes < len(vectors), scores - 2 * distances.max(), scores)


def _unimodal(vectors: Float64[np.ndarray, "M D"], distances: Float64[np.ndarray, "M M"]) -> bool:
    if len(vectors) == 1:
        return True
    medoid = vectors[distances.sum(axis=1).argmin()]
    median = np.median(distances[np.triu_indices(len(vectors), 1)])
    return bool(np.linalg.norm(vectors.mean(axis=0) - medoid) <= UNIMODAL * median)


def _halves(vectors: Float64[np.ndarray, "M D"], distances: Float64[np.ndarray, "M M"]) -> Bool[np.ndarray, " M"]:
    """Return which of two clusters each vector is in, by 2-means from the two that are farthest apart.

    Neither cluster becomes empty: the mean of one always has a member of it on its side.
    """
    a, b = np.unravel_index(distances.argmax(), distances.shape)
    side: Bool[np.ndarray, " M"] = distances[b] < distances[a]
    for _ in range(_ROUNDS):
        to_a, to_b = (np.linalg.norm(vectors - vectors[side == s].mean(axis=0), axis=1) for s in (False, True))
        before, side = side, to_b < to_a
        if np.array_equal(before, side):
            break
    return side
