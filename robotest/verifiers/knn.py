"""Distance to the nearest training features: a non-parametric pseudo-count.

In K dimensions the k-th neighbour's distance r estimates the density as k / (N r^K) (Loftsgaarden and Quesenberry
1965), so a small mean distance means a large count. Of the verifiers here it has the fewest hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from robotest.specs import PolicySpec
from robotest.types import Verifier
from robotest.verifiers.fitted import Score, load_verifier
from robotest.verifiers.hyperparameters import KnnSettings


def fit(x: Float32[np.ndarray, "N K"], settings: KnnSettings, seed: int) -> dict[str, np.ndarray]:  # noqa: ARG001
    """Return the tensor ``rows`` [R, K]: training features, evenly thinned to `max_rows`; deterministic."""
    keep = np.linspace(0, len(x) - 1, min(len(x), settings.max_rows)).round().astype(int)
    return {"rows": x[keep].astype(np.float16)}


def make_score(tensors: Mapping[str, np.ndarray], hyperparameters: Mapping[str, Any]) -> Score:
    """Return x -> minus the mean Euclidean distance to the `neighbours` nearest rows (all rows, if fewer)."""
    rows = tensors["rows"].astype(np.float32)
    k = min(KnnSettings(**hyperparameters).neighbours, len(rows))
    # |x - r|^2 = |x|^2 + |r|^2 - 2 x.r: one matrix product, with the factor 2 folded into the rows.
    doubled, squared = np.ascontiguousarray(2 * rows.T), np.square(rows).sum(axis=1)

    def score(x: Float32[np.ndarray, "M K"]) -> Float64[np.ndarray, " M"]:
        relative = squared - x @ doubled
        nearest = np.partition(relative, k - 1, axis=1)[:, :k]
        distances = np.sqrt((nearest + np.square(x).sum(axis=1, keepdims=True)).clip(min=0.0))
        mean: Float64[np.ndarray, " M"] = distances.mean(axis=1, dtype=np.float64)
        return -mean

    return score


def load(policy: PolicySpec, path: Path | None) -> Verifier:
    """Registry factory; see `load_verifier` for the errors."""
    return load_verifier("knn", policy, path, make_score)
