"""Maps a chunk's token features to the vector that a verifier scores.

Pool the tokens, scale, project onto principal directions. After pooling everything is affine, so it is stored as one
matrix.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32

from robotest.errors import InvalidActionError
from robotest.randomness import derive, generator

Pooling = Literal["first", "mean", "concat"]
Scaling = Literal["each", "common"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
_OVERSAMPLING = 16
_ITERATIONS = 6
_SCALE_FLOOR = 0.01


def pool(features: Float32[np.ndarray, "N T F"], pooling: Pooling) -> Float32[np.ndarray, "N D"]:
    """Reduce token features to one vector a chunk.

    ``first`` is the first action token (D = F; the choice of TACO, arXiv 2512.02834, section 4), ``mean`` the average
    over tokens (D = F), ``concat`` all of them in order (D = T F).
    """
    if pooling == "first":
        pooled: Float32[np.ndarray, "N D"] = features[:, 0]
    elif pooling == "mean":
        pooled = features.mean(axis=1)
    else:
        pooled = features.reshape(len(features), features.shape[1] * features.shape[2])
    return pooled.astype(np.float32, copy=False)


@dataclasses.dataclass(frozen=True)
class FeatureMap:
    """The fitted transform: ``(pool(features) - mean) @ matrix``.

    Attributes:
        pooling: how tokens become one vector.
        feature_shape: (T, F) it was fitted to.
        mean: of the pooled training features.
        matrix: standardisation and projection.
    """

    pooling: Pooling
    feature_shape: tuple[int, int]
    mean: Float32[np.ndarray, " D"]
    matrix: Float32[np.ndarray, "D K"]

    def __call__(self, features: Float32[np.ndarray, "N T F"]) -> Float32[np.ndarray, "N K"]:
        """Transform; raises `InvalidActionError` for features of another shape, or not finite."""
        if features.ndim != 3 or features.shape[1:] != self.feature_shape:
            raise InvalidActionError(
                f"features have shape {features.shape}; the verifier was fitted to [M, {self.feature_shape[0]},"
                f" {self.feature_shape[1]}]; use the policy it was fitted to, or fit one to this policy:"
                " `robotest fit --verifier VERIFIER --policy POLICY --data DEMOS.h5`"
            )
        if not np.isfinite(features).all():
            raise InvalidActionError("the policy's features contain NaN or infinity; they cannot be scored")
        mapped: Float32[np.ndarray, "N K"] = (pool(features, self.pooling) - self.mean) @ self.matrix
        return mapped

    @classmethod
    def fit(
        cls,
        features: Float32[np.ndarray, "N T F"],
        pooling: Pooling,
        n_components: int,
        scaling: Scaling = "each",
        seed: int = 0,
    ) -> FeatureMap:
        """Scale, then project onto the leading `n_components` principal directions (fewer if D is smaller).

        Args:
            features: of the training samples.
            pooling: see `pool`.
            n_components: K.
            scaling: ``each`` scales every component to unit standard deviation, which counts as at least 1 % of the
                root mean square over components, so that nearly constant ones are not amplified; ``common`` divides
                all by that root mean square, for components of one kind whose magnitude matters.
            seed: of the randomised search for the principal directions.
        """
        pooled = pool(features, pooling)
        mean = pooled.mean(axis=0, dtype=np.float64)
        centred = (pooled - mean).astype(np.float32)
        spread = np.sqrt(np.mean(np.square(centred, dtype=np.float64), axis=0))
        overall = np.sqrt(np.mean(spread**2))
        scale = np.maximum(spread, _SCALE_FLOOR * overall) if scaling == "each" else np.full_like(spread, overall)
        scale = np.where(scale > 0, scale, 1.0)
        centred /= scale.astype(np.float32)
        matrix = _principal_directions(centred, n_components, seed) / scale[:, None]
        shape = (features.shape[1], features.shape[2])
        return cls(pooling, shape, mean.astype(np.float32), matrix.astype(np.float32))


def _principal_directions(x: Float32[np.ndarray, "N D"], n: int, seed: int) -> Float32[np.ndarray, "D K"]:
    """Leading eigenvectors of x^T x by subspace iteration: never forms the D x D matrix (D may be 50,000).

    Source: Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4.
    """
    width = min(n + _OVERSAMPLING, x.shape[1])
    basis = generator(derive(seed, "principal directions")).standard_normal((x.shape[1], width)).astype(np.float32)
    basis = np.linalg.qr(basis)[0]
    for _ in range(_ITERATIONS if width < x.shape[1] else 0):
        basis = np.linalg.qr(x.T @ (x @ basis))[0]
    projected = (x @ basis).astype(np.float64)
    rotation = np.linalg.eigh(projected.T @ projected)[1][:, ::-1]
    directions: Float32[np.ndarray, "D K"] = (basis @ rotation[:, :n]).astype(np.float32)
    return directions
