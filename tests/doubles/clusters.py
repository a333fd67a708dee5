"""Small clusters of known size, for the tests of the fitted verifiers."""

from __future__ import annotations

import numpy as np

COUNTS = np.linspace(1, 501, 60).round().astype(int)


def training(noise: float = 0.1, width: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = np.repeat(centres(width), COUNTS, axis=0)
    return (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)


def centres(width: int = 64) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((len(COUNTS), width))


def fresh(noise: float = 0.1, n: int = 16, width: int = 64) -> np.ndarray:
    """New samples, `n` of each cluster in turn."""
    rows = np.repeat(centres(width), n, axis=0)
    return (rows + noise * np.random.default_rng(2).standard_normal(rows.shape)).astype(np.float32)
