"""Backward coherence: the candidate nearest to what is left of the chunk before, so that the plan is not changed.

Source: Liu et al. 2024, "Bidirectional Decoding", arXiv 2408.17355, the first of its two criteria; the second contrasts
the policy with a weaker one. The distance of a candidate is the mean, over the steps that both chunks plan, of the L2
distance between their actions. Step j has weight 0.5**j, as in the scripts of the authors' code
(github.com/YuejiangLIU/bid_diffusion).

What is not from the paper: distances are in units of `PolicySpec.action_scale`, and components with reference
``chunk_start`` are compared as offsets from the last command (`Context.rest`).

Where nothing is left, all scores are equal and candidate 0 is taken. This is so at the first decision, where the
authors take a plain sample too, and at every decision of a run that executes whole chunks, so use it with
``--execute``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float64

from robotest.specs import PolicySpec, VerifierSpec
from robotest.types import Candidates, Context, Verifier
from robotest.verifiers.controls import Control, scaled

DECAY: Final = 0.5
"""Weight of a step, as a multiple of that of the step before."""


def make(policy: PolicySpec, path: Path | None = None) -> Verifier:  # noqa: ARG001 - the factories' signature
    """Make the verifier."""

    def score(context: Context, candidates: Candidates, seed: int) -> Float64[np.ndarray, " M"]:  # noqa: ARG001
        rest = context.rest(policy.action)
        h, n = len(rest), len(candidates.actions)
        if not h:
            return np.zeros(n)
        apart = scaled(candidates.actions[:, :h] - rest, policy).reshape(n, h, -1)
        scores: Float64[np.ndarray, " M"] = -np.average(
            np.linalg.norm(apart, axis=2), axis=1, weights=DECAY ** np.arange(h)
        )
        return scores

    return Control(VerifierSpec("coherence"), score)
