"""Hyperparameters of the fitted verifiers, in a module that does not import torch."""

from __future__ import annotations

import dataclasses
from typing import Literal

from robotest.verifiers.pooling import Pooling, Scaling


@dataclasses.dataclass(frozen=True)
class LeverageSettings:
    """Of `robotest.verifiers.leverage`."""

    feature: str | None = None
    """Which of the policy's features; None: its first."""
    pooling: Pooling = "concat"
    """How a chunk's token features become one vector."""
    scaling: Scaling = "common"
    """each: bring every number to unit spread; common: divide all by one spread."""
    n_components: int = 64
    """Principal directions kept."""
    n_features: int = 2048
    """Random Fourier features, cosines and sines together."""
    length_scale: float = 0.5
    """Width of the kernel, in units of the median distance between training samples."""
    ridge: float = 10.0
    """Regularisation: n equal samples have leverage 1 / (n + ridge). Small values let directions of noise count."""
    rank: int = 512
    """Eigen-directions of the second-moment matrix kept."""


@dataclasses.dataclass(frozen=True)
class KnnSettings:
    """Of `robotest.verifiers.knn`."""

    feature: str | None = None
    """Which of the policy's features; None: its first."""
    pooling: Pooling = "concat"
    """How a chunk's token features become one vector."""
    scaling: Scaling = "common"
    """each: bring every number to unit spread; common: divide all by one spread."""
    n_components: int = 64
    """Principal directions kept."""
    neighbours: int = 5
    """Distances averaged."""
    max_rows: int = 20_000
    """Training samples kept, evenly spread over the data."""


@dataclasses.dataclass(frozen=True)
class CfnSettings:
    """Of `robotest.verifiers.cfn`; the names of arXiv 2306.03186 and 2512.02834."""

    feature: str | None = "hidden"
    """Which of the policy's features; None: its first."""
    pooling: Pooling = "mean"
    """How a chunk's token features become one vector."""
    scaling: Scaling = "each"
    """each: bring every number to unit spread; common: divide all by one spread."""
    n_components: int = 128
    """Principal directions kept; all of them if the feature is narrower."""
    hidden: int = 96
    """Width (TACO: 1536)."""
    expansion: int = 1
    """Inner width of a residual block, in units of `hidden`; 2 and 4 recover counts no better and read more memory."""
    n_blocks: int = 3
    """Residual blocks."""
    n_coins: int = 20
    """Coins of a sample, d."""
    members: int = 3
    """Networks whose scores are summed."""
    input_gain: float = 10.0
    """Features are multiplied by this."""
    dropout: float = 0.1
    """In the residual blocks of the trained network, while training only."""
    epochs: int = 16
    """Passes over the data at most; held-out samples decide when to stop."""
    min_steps: int = 240
    """Gradient steps at least; with few samples there are more passes."""
    batch_size: int = 512
    """Samples in a step; the last batch may be smaller."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    stopping: Literal["steepest", "smallest"] = "steepest"
    """Keep the weights at the steepest fall of the held-out error on logarithmic axes, or at its smallest value."""
    patience: int = 3
    """Evaluations (each after 25 % more steps) without an improvement before stopping."""
