"""Policies that fit every environment: baselines, and smoke tests of an environment.

``random`` draws every action at random, ``zero`` does nothing; both ignore observations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from robotest.errors import InvalidActionError
from robotest.randomness import derive, generator
from robotest.specs import EnvSpec, PolicySpec, VectorSpec
from robotest.types import Candidates, Observation, Policy

HORIZON: Final = 8
UNBOUNDED: Final = 1e6
"""Bounds of at least this magnitude count as missing."""
WHOLE: Final = ("discrete", "integer")
"""Conventions of components that the environment rounds."""

Draw = Callable[[int], Float32[np.ndarray, "H A"]]
"""Seed -> chunk."""


class Baseline:
    """Draws chunks independent of the observation. Implements `robotest.types.Policy`.

    Args:
        name: of the policy.
        env: spec of the environment.
        draw: draws one candidate.
    """

    def __init__(self, name: str, env: EnvSpec, draw: Draw) -> None:
        self._draw = draw
        self._spec = PolicySpec.blind(name, env, np.tile(spread(env.action), (HORIZON, 1)))

    @property
    def spec(self) -> PolicySpec:
        """See `Policy.spec`."""
        return self._spec

    def sample(
        self, observations: Sequence[Observation], noise_seeds: Sequence[int], n_candidates: int
    ) -> list[Candidates]:
        """See `Policy.sample`."""
        if len(noise_seeds) != len(observations):
            raise InvalidActionError(f"{len(noise_seeds)} seeds for {len(observations)} observations")
        return [
            Candidates(np.stack([self._draw(derive(seed, "baseline", m)) for m in range(n_candidates)]))
            for seed in noise_seeds
        ]


def random(path: Path | None, env: EnvSpec) -> Policy:  # noqa: ARG001 - the factories' signature
    """Make the policy that draws each component uniformly within its bounds, discrete choices with equal probability.

    Components without both bounds are drawn from a standard normal distribution, centred and clipped at a single bound.
    """
    low, high = env.action.low.astype(np.float64), env.action.high.astype(np.float64)
    bounded = _bounded(low, high)
    whole = np.concatenate([np.full(c.size, c.convention in WHOLE) for c in env.action.components])
    # With this margin, rounding gives the outermost choices as often as the others.
    margin = np.where(whole & bounded, 0.5, 0.0)
    centre = np.zeros_like(low).clip(low, high)

    def draw(seed: int) -> Float32[np.ndarray, "H A"]:
        rng = generator(seed)
        uniform, normal = rng.random((HORIZON, len(low))), rng.standard_normal((HORIZON, len(low)))
        within = (low - margin) * (1 - uniform) + (high + margin) * uniform
        drawn = np.where(bounded, within, centre + normal)
        drawn = np.where(whole, np.rint(drawn), drawn).clip(low, high)
        return drawn.astype(np.float32)

    return Baseline("random", env, draw)


def zero(path: Path | None, env: EnvSpec) -> Policy:  # noqa: ARG001
    """Make the policy whose actions are zero, clipped to the bounds."""
    chunk = np.tile(np.zeros(env.action.size, np.float32).clip(env.action.low, env.action.high), (HORIZON, 1))
    return Baseline("zero", env, lambda _: chunk)


def spread(action: VectorSpec) -> Float32[np.ndarray, " A"]:
    """Return the range of every number of an action, and 1 where it has no bounds."""
    low, high = action.low, action.high
    ranges: Float32[np.ndarray, " A"] = np.where(_bounded(low, high) & (high > low), high - low, np.float32(1))
    return ranges.astype(np.float32)


def _bounded(
    low: np.ndarray[tuple[int], np.dtype[np.floating]], high: np.ndarray[tuple[int], np.dtype[np.floating]]
) -> Bool[np.ndarray, " A"]:
    """Return which components have bounds on both sides."""
    finite: Bool[np.ndarray, " A"] = (np.abs(low) < UNBOUNDED) & (np.abs(high) < UNBOUNDED)
    return finite
